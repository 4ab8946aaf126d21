# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images and words that the page begins with."""

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

# Seeds of drawn scenes that look well; their names become the words.
SCENES = ((61, (4, 5)), (114, (3, 5)), (109, (3, 5)), (116, (3, 5)), (118, (3, 5)))

SCENE_SIZE = (96, 144)


@dataclass(frozen=True)
class Example:
    """An image file and the words that it is shown with."""

    path: str
    words: str


def drawn_examples(folder: str | os.PathLike) -> list[Example]:
    """Scenes of the embedded checkpoint's world, drawn into a folder; the last word of each is not there."""
    examples = []
    for seed, num_objects in SCENES:
        scene = draw_scene(seed, "all", SCENE_SIZE, num_objects=num_objects)
        missing = next(name for name in NAMES if name not in scene.names and name.endswith("star"))
        path = Path(folder) / f"scene_{seed}.png"
        Image.fromarray(scene.image).save(path)
        examples.append(Example(str(path), ", ".join([*scene.names, missing])))
    return examples


def examples_in(folder: str | os.PathLike) -> list[Example]:
    """The images of a folder; the words of `photo.jpg` are in `photo.txt`, where it is.

    Raises:
        ValueError: No such folder, no image in it, or one that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder of examples {str(folder)!r} (now in {os.getcwd()!r}). Check the path.")
    examples = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            open_image(path)
            words = path.with_suffix(".txt")
            examples.append(Example(str(path), words.read_text("utf-8").strip() if words.is_file() else PHOTO_WORDS))
    if not examples:
        raise ValueError(f"No image in {str(folder)!r}; expected files that end in {', '.join(IMAGE_SUFFIXES)}.")
    return examples


def copied_into(path: str, folder: str, number: int) -> str:
    target = Path(folder) / f"example_{number}" / Path(path).name
    target.parent.mkdir()
    return str(shutil.copyfile(path, target))
