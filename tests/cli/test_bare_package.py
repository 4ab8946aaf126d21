# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The bare package, without any extra: `segment` works, and what needs an extra says which.

Libraries that the package alone does not bring along are hidden from a process, whether they are installed or not.
"""

import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dinov3seg_hf.cli import COMMANDS

from places import REPO

HIDE = """
import sys
from importlib.machinery import PathFinder

hidden = set({hidden!r})

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
sys.argv = ["dinov3seg", *{arguments!r}]
from dinov3seg_command import main
sys.exit(main())
"""


def brought_along() -> set[str]:
    """The distributions that an installation without extras has, by their canonical names."""
    found, waiting = set(), {"dinov3seg-hf"}
    while waiting:
        name = waiting.pop()
        found.add(name)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting |= {canonicalize_name(requirement.name)} - found
    return found


def run_bare(*arguments: object) -> subprocess.CompletedProcess:
    kept = brought_along()
    hidden = {
        module
        for module, names in metadata.packages_distributions().items()
        if not kept & {canonicalize_name(name) for name in names}
    }
    assert {"datasets", "accelerate", "evaluate", "gradio", "peft"} <= hidden and not {"torch", "transformers"} & hidden
    code = HIDE.format(hidden=sorted(hidden), arguments=list(map(str, arguments)))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=REPO)


@pytest.mark.multiprocess
def test_segment_needs_no_extra(tmp_path):
    labels = "red plain triangle, black plain background"
    done = run_bare("segment", "examples/scene.png", "--labels", labels, "--output", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "red plain triangle" in done.stdout and (tmp_path / "out.png").is_file()


@pytest.mark.multiprocess
@pytest.mark.parametrize("command, extra", [(name, entry.extra) for name, entry in COMMANDS.items() if entry.extra])
def test_a_command_without_its_extra_names_it(command, extra):
    done = run_bare(command, "--help")
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"dinov3seg {command}: error: .*\[{extra}\]\"", done.stderr.strip()), done.stderr


@pytest.mark.multiprocess
def test_annotations_need_their_extra_only_where_a_library_does_the_work(tmp_path):
    arguments = ("segment", "examples/scene.png", "--labels", "red plain triangle, black plain background")
    done = run_bare(*arguments, "--format", "png", "--annotations", tmp_path / "png")
    assert done.returncode == 0 and (tmp_path / "png" / "masks" / "scene.png").is_file(), done.stderr
    done = run_bare(*arguments, "--format", "coco", "--annotations", tmp_path / "coco.json")
    assert done.returncode == 2 and done.stdout == "" and "[export]" in done.stderr, done.stderr
