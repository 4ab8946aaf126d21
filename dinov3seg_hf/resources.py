# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Files that are at the top of the repository and travel with the installed package: card template, Space, recipes,
example images."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def resource(name: str) -> Path:
    """Returns the path of a file or folder, such as `model_card.md`, `demo` or `recipes/own_masks.yaml`.

    Args:
        name: The path in the repository, with `/`.

    Raises:
        FileNotFoundError: If the package contains no such file.
    """
    # a wheel has copies inside the package (see setup.py), a repository the files themselves beside it
    for folder in (_PACKAGE / "resource_files", _PACKAGE.parent):
        if (path := folder / name).exists():
            return path
    raise FileNotFoundError(
        f"{name} was not found in {str(_PACKAGE)!r} or beside it; expected the files that a wheel or a clone of the "
        "repository has. Install the package again."
    )


def recipe_names() -> list[str]:
    """The names of the recipes for training, sorted: `coco_stuff`, `own_masks`, ..."""
    return sorted(path.stem for path in resource("recipes").glob("*.yaml"))
