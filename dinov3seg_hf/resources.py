# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Files at the top of the repository that the installed package has as well: card template, Space, recipes, example."""

import os
from pathlib import Path

# The image of the quick start, and its words; the last is not in the image.
EXAMPLE_IMAGE = "examples/scene.png"
EXAMPLE_LABELS = (
    "black plain background, orange dotted square, red plain triangle, green dotted triangle, yellow plain triangle, "
    "purple striped square, blue striped circle"
)
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


def recipe_path(name: str | os.PathLike) -> Path:
    """Returns the path of a recipe for training: a file, or else the recipe of the package that has this name.

    Args:
        name: A path; or the name of a recipe of the package, such as `own_masks` or `recipes/own_masks.yaml`.
    """
    path = Path(name)
    shipped = {recipe.stem: recipe for recipe in resource("recipes").glob("*.yaml")}
    is_name = path.suffix in ("", ".yaml") and path.parent in (Path(), Path("recipes"))
    return shipped[path.stem] if not path.exists() and is_name and path.stem in shipped else path
