# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The example images of the page and their words."""

import base64
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..drawn_world.names import NAMES, factors_of
from ..drawn_world.scenes import draw_scene
from ..model.files import read_text_up_to
from ..model.image_input import open_image
from ..model.vocabulary import Vocabulary
from ..visualization.files import IMAGE_SUFFIXES

PHOTO_WORDS = "person, dog, cat, car|vehicle, building, road, tree, grass, sky, water"

# Drawn scenes that look good, by topic: (seed, split of its names, (fewest, most) objects).
SCENES = {
    "Names": (
        (61, "all", (4, 5)),
        (114, "all", (3, 5)),
        (109, "all", (3, 5)),
        (116, "all", (3, 5)),
        (118, "all", (3, 5)),
    ),
    "Never trained on": tuple((seed, "unseen", (3, 4)) for seed in (4, 7, 12, 21, 30)),
    "Colors": tuple((seed, "all", (4, 6)) for seed in (203, 208, 211, 219, 224)),
    "Patterns": tuple((seed, "all", (3, 4)) for seed in (301, 305, 312, 318, 322)),
    "Shapes": tuple((seed, "all", (4, 6)) for seed in (402, 409, 415, 421, 430)),
}

# Which words of the names in a scene its topic asks for. Default: whole names, and one that is not in the scene.
ASKED = {"Colors": 0, "Patterns": 1, "Shapes": 2}

SCENE_SIZE = (96, 144)

# The longer side of a picture in the gallery, in pixels.
PICTURE_SIDE = 240


@dataclass(frozen=True)
class Example:
    """An image file, the words shown with it, and the topic that it belongs to ("" for none)."""

    path: str
    words: str
    topic: str = ""

    @property
    def name(self) -> str:
        """What a screen reader says of the picture."""
        return f"{Path(self.path).stem.replace('_', ' ')}: {self.words}"

    def picture(self) -> str:
        """Returns a small JPEG of the image as a data URL."""
        picture = open_image(self.path)
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def knows(known_words: Sequence[str] | None, vocabulary: Vocabulary) -> bool:
    """Whether a checkpoint with these `known_words` in its configuration knows all classes; `None`: all words."""
    return known_words is None or not vocabulary.unknown_to(known_words)


def drawn_examples(folder: str | os.PathLike) -> list[Example]:
    """Draws scenes, for checkpoints that know their words, into a folder.

    The last word of an example whose words are names is not in its scene.
    """
    examples = []
    for topic, scenes in SCENES.items():
        for seed, split, num_objects in scenes:
            scene = draw_scene(seed, split, SCENE_SIZE, num_objects=num_objects)
            if topic in ASKED:
                words = list(dict.fromkeys(factors_of(name)[ASKED[topic]] for name in scene.names))
            else:
                words = [*scene.names, next(n for n in NAMES if n not in scene.names and n.endswith("star"))]
            path = Path(folder) / f"scene_{seed}.png"
            Image.fromarray(scene.image).save(path)
            examples.append(Example(str(path), ", ".join(words), topic))
    return examples


def examples_in(folder: str | os.PathLike) -> list[Example]:
    """Returns the images of a folder and of its subfolders as examples; each subfolder is a topic.

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
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        topic = "" if place == folder else place.name
        for path in sorted(place.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                open_image(path)
                words = path.with_suffix(".txt")
                asked = read_text_up_to(words).strip() if words.is_file() else PHOTO_WORDS
                examples.append(Example(str(path), asked, topic))
    if not examples:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"No images were found in {str(folder)!r}; expected files that end in {suffixes}.")
    return examples


def topics_of(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Returns the topics with their examples, as `assets/gallery.js` shows them."""
    topics: dict[str, list[dict[str, Any]]] = {}
    for index, example in enumerate(examples):
        scene = {"index": index, "picture": example.picture(), "name": example.name}
        topics.setdefault(example.topic, []).append(scene)
    return [{"name": topic or "Examples", "scenes": scenes} for topic, scenes in topics.items()]


def copied_into(path: str, folder: str, number: int) -> str:
    target = Path(folder) / f"example_{number}" / Path(path).name
    target.parent.mkdir()
    return str(shutil.copyfile(path, target))
