# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The example images of the page and their words."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..drawn_world.names import NAMES
from ..drawn_world.scenes import draw_scene
from ..model.image_input import open_image
from ..visualization.files import IMAGE_SUFFIXES

PHOTO_WORDS = "person, dog, cat, car|vehicle, building, road, tree, grass, sky, water"

# (seed, (fewest, most) objects) of drawn scenes that look good; the names in a scene become its words.
SCENES = ((61, (4, 5)), (114, (3, 5)), (109, (3, 5)), (116, (3, 5)), (118, (3, 5)))

SCENE_SIZE = (96, 144)


@dataclass(frozen=True)
class Example:
    """An image file and the words shown with it."""

    path: str
    words: str


def drawn_examples(folder: str | os.PathLike) -> list[Example]:
    """Draws scenes for the embedded checkpoint into a folder. The last word of each example is not in its scene."""
    examples = []
    for seed, num_objects in SCENES:
        scene = draw_scene(seed, "all", SCENE_SIZE, num_objects=num_objects)
        missing = next(name for name in NAMES if name not in scene.names and name.endswith("star"))
        path = Path(folder) / f"scene_{seed}.png"
        Image.fromarray(scene.image).save(path)
        examples.append(Example(str(path), ", ".join([*scene.names, missing])))
    return examples


def examples_in(folder: str | os.PathLike) -> list[Example]:
    """Returns the images of a folder as examples.

    The words of `photo.jpg` are read from `photo.txt` in the same folder. Default: `PHOTO_WORDS`.

    Raises:
        ValueError: If the folder does not exist or contains no image, or an image cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"Examples folder {str(folder)!r} was not found (current directory: {os.getcwd()!r}). Check the path."
        )
    examples = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            open_image(path)
            words = path.with_suffix(".txt")
            examples.append(Example(str(path), words.read_text("utf-8").strip() if words.is_file() else PHOTO_WORDS))
    if not examples:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"No images were found in {str(folder)!r}; expected files that end in {suffixes}.")
    return examples


def copied_into(path: str, folder: str, number: int) -> str:
    target = Path(folder) / f"example_{number}" / Path(path).name
    target.parent.mkdir()
    return str(shutil.copyfile(path, target))
