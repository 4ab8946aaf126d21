# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Label maps as people see them: regions, and overlays on the picture.

Knows images, label maps and label names; nothing of models. A label map is an integer array `(H, W)` in which a
negative value means "none of these". A color belongs to the number of a label, so that a label looks the same in all
images of a vocabulary, in overlays, legends and mask files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .colors import NONE_COLOR, PAPER, color_palette

NONE_NAME = "none of these"

# A small picture is enlarged to this short side, as far as the long one allows: no legend would fit a 96 px scene.
MIN_DISPLAY_SIDE, MAX_ENLARGED_SIDE = 512, 4096


@dataclass(frozen=True)
class Region:
    """All pixels of one label in one image.

    Args:
        index: The label's number; negative for "none of these".
        label: Its name.
        num_pixels: How many there are.
        area: Their share of the image, between 0 and 1.
        score: Mean score of the label over them, between 0 and 1; `None` for "none of these".
    """

    index: int
    label: str
    num_pixels: int
    area: float
    score: float | None = None


def regions_of(label_map: np.ndarray, labels: Sequence[str], scores: Mapping[str, float] | None = None) -> list[Region]:
    """The labels that are found in a label map, the largest first, "none of these" last.

    Args:
        label_map: Integers `(H, W)`, negative for none.
        labels: Names of the labels 0, 1, ...
        scores: Name -> score of the labels found, where there are scores.

    Raises:
        ValueError: The map is none, or holds a number that has no name.
    """
    label_map = checked_label_map(label_map, len(labels))
    counts = np.bincount(np.maximum(label_map, -1).ravel() + 1, minlength=len(labels) + 1)
    found = sorted(np.flatnonzero(counts[1:]).tolist(), key=lambda index: -counts[index + 1])
    regions = [
        Region(
            index,
            labels[index],
            int(counts[index + 1]),
            counts[index + 1] / label_map.size,
            (scores or {}).get(labels[index]),
        )
        for index in found
    ]
    if counts[0]:
        regions.append(Region(-1, NONE_NAME, int(counts[0]), counts[0] / label_map.size))
    return regions


def overlay(
    image: Image.Image, label_map: np.ndarray, *, alpha: float = 0.5, palette: np.ndarray | None = None
) -> Image.Image:
    """Lays the colors of a label map over its image, every region with an outline; "none of these" is gray.

    Args:
        image: The picture.
        label_map: Integers `(H, W)` of the picture's size.
        alpha: Between 0 (picture) and 1 (colors).
        palette: uint8 `(C, 3)`; `color_palette` unless given.

    Returns:
        RGB; small pictures enlarged by a whole factor to a short side of `MIN_DISPLAY_SIDE`.

    Raises:
        ValueError: Sizes that do not fit, alpha out of range.
    """
    label_map = checked_label_map(label_map)
    if image.size != label_map.shape[::-1]:
        raise ValueError(
            f"The label map is {label_map.shape[0]} x {label_map.shape[1]} (height x width), the image "
            f"{image.height} x {image.width}; expected the same size. Ask for the label map at the image's size."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected a number between 0 (picture) and 1 (colors).")
    image = image.convert("RGB")
    factor = min(-(-MIN_DISPLAY_SIDE // min(image.size)), max(1, MAX_ENLARGED_SIDE // max(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
        label_map = label_map.repeat(factor, axis=0).repeat(factor, axis=1)

    largest = max(int(label_map.max()), 0)
    palette = color_palette(largest + 1) if palette is None else np.asarray(palette, np.uint8)
    if largest >= len(palette):
        raise ValueError(
            f"The palette has {len(palette)} colors, but label {largest} was found; give {largest + 1} colors."
        )
    colors = np.concatenate([palette[: largest + 1], [NONE_COLOR]]).astype(np.uint8)[label_map]  # -1 is the last
    flat = Image.fromarray(colors)
    # The picture gives light and texture and little of its own color: blue on orange would be gray, not blue.
    blended = Image.blend(Image.blend(image, image.convert("L").convert("RGB"), min(1.0, 1.6 * alpha)), flat, alpha)

    width = max(1, round(min(image.size) / 260))
    blended.paste(flat, mask=Image.fromarray(_near_borders(label_map, width) & (label_map >= 0)))
    blended.paste(PAPER, mask=Image.fromarray(_near_borders(label_map, max(1, width // 2))))
    return blended


def _near_borders(label_map: np.ndarray, width: int) -> np.ndarray:
    """Which pixels lie within `width` pixels of another label."""
    near = np.zeros(label_map.shape, dtype=bool)
    for step in sorted({1, (width + 1) // 2, width}):
        for axis in (0, 1):
            before = tuple(slice(None, -step) if a == axis else slice(None) for a in (0, 1))
            after = tuple(slice(step, None) if a == axis else slice(None) for a in (0, 1))
            differs = label_map[before] != label_map[after]
            near[before] |= differs
            near[after] |= differs
    return near


def checked_label_map(label_map: np.ndarray, num_labels: int | None = None) -> np.ndarray:
    """A label map as int32 `(H, W)`.

    Raises:
        ValueError: It is none, or holds a number that no label has.
    """
    label_map = np.asarray(label_map)
    if label_map.ndim != 2 or label_map.size == 0 or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(
            f"The label map is {label_map.dtype} of shape {label_map.shape}; expected integers, (height, width). "
            "Pass the map of one image."
        )
    if num_labels is not None and int(label_map.max()) >= num_labels:
        raise ValueError(
            f"The label map holds {int(label_map.max())}, but there are {num_labels} labels, counted from 0."
        )
    return label_map.astype(np.int32, copy=False)
