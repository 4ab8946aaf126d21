# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Scenes of the drawn world as a data set, with the columns of a prepared benchmark.

The split `seen[:2000]` contains the scenes of seeds 0 to 1999.
"""

import functools
import re

import datasets
import numpy as np

from ..drawn_world.names import DRAWN_WORLD, NAMES, SEEN, SPLITS
from ..drawn_world.scenes import draw_scene
from ..model.vocabulary import Vocabulary
from .parquet import PREPARED_FEATURES, encode_png
from .presets import PROTOCOL_COLUMN


def drawn_world(
    num_scenes: int, split: str = "seen", first_seed: int = 0, size: int | tuple[int, int] = 96
) -> datasets.Dataset:
    """Draws the scenes of consecutive seeds. The labels are indices into `drawn_world.names.NAMES`.

    Args:
        num_scenes: Number of scenes.
        split: The names that occur: `"seen"`, `"unseen"` or `"all"`.
        first_seed: Seed of the first scene.
        size: Size of the scenes in pixels: one number or (height, width).

    Raises:
        ValueError: If `num_scenes` is less than 1, or another argument is out of range (see `draw_scene`).
    """
    if num_scenes < 1:
        raise ValueError(f"num_scenes is {num_scenes}; expected at least 1.")

    protocols: list[object] = [f"{DRAWN_WORLD}/1"] * num_scenes
    rows: dict[str, list[object]] = {"image": [], "label_map": [], "name": [], PROTOCOL_COLUMN: protocols}
    for seed in range(first_seed, first_seed + num_scenes):
        scene = draw_scene(seed, split, size)
        name = f"{split}-{seed}"
        rows["image"].append({"bytes": encode_png(scene.image), "path": f"{name}.png"})
        rows["label_map"].append({"bytes": encode_png(scene.labels.astype(np.uint8)), "path": f"{name}_labels.png"})
        rows["name"].append(name)
    return datasets.Dataset.from_dict(rows, features=PREPARED_FEATURES)


@functools.lru_cache(maxsize=8)  # several runs in one process draw the same scenes only once
def open_drawn_world(split: str) -> datasets.Dataset:
    """Opens the scenes of a split: `"seen[:2000]"` gives the scenes of seeds 0 to 1999.

    Raises:
        ValueError: If the split does not have this form or is empty.
    """
    match = re.fullmatch(r"(\w+)\[(\d*):(\d+)\]", split)
    first, last = (int(match[2] or 0), int(match[3])) if match else (0, 0)
    if match is None or match[1] not in SPLITS or first >= last:
        raise ValueError(
            f"The split of the drawn world is {split!r}; expected one of {', '.join(SPLITS)} with a range of seeds, "
            "such as seen[:2000] or unseen[5000:5100]."
        )
    return drawn_world(last - first, match[1], first)


def seen_vocabulary() -> Vocabulary:
    """The vocabulary of the seen names; its raw ids are the labels of the drawn label maps."""
    return Vocabulary(SEEN, raw_ids={NAMES.index(name): label for label, name in enumerate(SEEN)})
