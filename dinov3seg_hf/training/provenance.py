# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The provenance of a run: versions, commit, command and device."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("dinov3seg_hf", "torch", "transformers", "accelerate", "datasets", "numpy", "pillow", "peft")


def describe_environment() -> dict[str, Any]:
    """The git commit of the source, the versions of the libraries and of Python, the command line and the device."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _git_state(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """The commit of the checkout with this package, and whether files differ from it; `None` outside a checkout."""
    package = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).parent.name):  # installed inside the checkout of another project
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed_files": bool(git("status", "--porcelain", str(package)))}
    except (OSError, subprocess.SubprocessError):
        return None
