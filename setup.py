# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Puts files of the repository into the package of a wheel; everything else of the build is in pyproject.toml.

The card template, the Space, the recipes and the example images are at the top of the repository, where people look for
them. An installed package has them in `dinov3seg_hf/resource_files/`; see `dinov3seg_hf/resources.py`.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RESOURCES = ("LICENSE", "constraints.txt", "model_card.md", "demo/*", "examples/*.png", "recipes/*.yaml")


class BuildWithResources(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the package is used where it is, in the repository
            return
        for source in (path for pattern in RESOURCES for path in sorted(Path().glob(pattern)) if path.is_file()):
            target = Path(self.build_lib, "dinov3seg_hf", "resource_files", source)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithResources})
