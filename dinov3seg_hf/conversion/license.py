# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds the license file that came with published weights; the DINOv3 License goes with every copy of them."""

import os
from pathlib import Path

from ..model.checks import first_line
from .reading import Source, means_file

LICENSE_NAMES = tuple(
    f"{name}{ending}" for name in ("LICENSE", "License", "license", "LICENCE") for ending in (".md", ".txt", "", ".pdf")
)
NO_LICENSE = "none"


def find_license(given: Source | None, sources: tuple[Source, ...]) -> Path | None:
    """Finds the license file of the weights.

    Args:
        given: The file. `"none"`: the conversion gets no license file. `None`: the file lies beside one of `sources`.
        sources: The files and folders of the weights.

    Returns:
        The path of the file; `None` if `given` is `"none"`.

    Raises:
        ValueError: If the file is missing or empty, no license lies beside the weights, or the weights are missing.
    """
    if given is not None and os.fspath(given) == NO_LICENSE:
        return None
    if given is not None:
        path = Path(given).expanduser()
        try:
            if path.read_bytes().strip():
                return path
            problem = "it is empty"
        except OSError as error:
            problem = first_line(error)
        raise ValueError(
            f"license {path} cannot be used ({problem}); expected the license file that came with the weights. Check "
            "the path."
        )
    for source in sources:
        path = Path(source).expanduser()
        if means_file(path) and not path.is_file():
            raise ValueError(f"{path} was not found. Check the path.")
        folder = path if path.is_dir() else path.parent
        for name in LICENSE_NAMES:
            if path.exists() and (folder / name).is_file() and (folder / name).read_bytes().strip():
                return folder / name
    raise ValueError(
        "No license file lies beside the weights, but the DINOv3 License goes with every copy of them, also converted. "
        "Pass the file that came with the weights (--license FILE), or --license none if you keep the result to "
        "yourself."
    )


def license_target(path: Path) -> str:
    """Returns the name of the copy in the converted folder."""
    return "LICENSE.pdf" if path.suffix.lower() == ".pdf" else "LICENSE.md"
