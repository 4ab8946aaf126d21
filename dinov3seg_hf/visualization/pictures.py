# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Regions of label maps, and overlays on images.

Uses images, label maps and label names; does not depend on models. A label map is an integer array `(H, W)` in which
negative values mean "none of these". The number of a label determines its color. A label therefore has the same color
in all images of a vocabulary, in overlays, legends and mask files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..model.checks import is_number, quoted
from .colors import NONE_COLOR, PAPER, checked_palette, color_palette

NONE_NAME = "none of these"

# Maximum number of pixels that are counted at once: `np.bincount` makes a copy with 8 bytes per pixel.
MAX_COUNTED_PIXELS = 2**20

# Small pictures are enlarged, because a legend does not fit a 96 px scene: minimum short side, maximum long side.
MIN_DISPLAY_SIDE, MAX_ENLARGED_SIDE = 512, 4096


@dataclass(frozen=True)
class Region:
    """All pixels of one label in one image.

    Args:
        index: The number of the label; negative for "none of these".
        label: The name of the label.
        num_pixels: The number of pixels.
        area: The fraction of the image, between 0 and 1.
        score: The mean score of the label over the pixels, between 0 and 1; `None` if unknown, and for "none of these".
    """

    index: int
    label: str
    num_pixels: int
    area: float
    score: float | None = None


def regions_of(label_map: np.ndarray, labels: Sequence[str], scores: Mapping[str, float] | None = None) -> list[Region]:
    """Returns the regions of the labels found in a label map, the largest first, "none of these" last.

    Args:
        label_map: Integers `(H, W)`; negative values are none of these.
        labels: Names of the labels 0, 1, ...
        scores: Scores of the labels found, by name. `None`: the regions have no scores.

    Raises:
        ValueError: If `label_map` is not a label map, or contains a label without a name, or the names are no list.
    """
    is_list = isinstance(labels, Sequence) and not isinstance(labels, str)
    is_list = is_list or (isinstance(labels, np.ndarray) and labels.ndim == 1)
    if not is_list or not all(isinstance(name, str) for name in labels):
        raise ValueError(f"The names of the labels are {quoted(labels)}; expected a list of names. Pass all names.")
    label_map = checked_label_map(label_map, len(labels))
    counts = np.zeros(len(labels) + 1, np.int64)
    for row in np.array_split(label_map, -(-label_map.size // MAX_COUNTED_PIXELS)):  # a few rows at a time
        counts += np.bincount(np.maximum(row, -1).ravel() + 1, minlength=len(counts))
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
    """Draws the colors of a label map over its image. Each region has an outline; "none of these" is gray.

    Args:
        image: The image.
        label_map: Integers `(H, W)` of the size of the image; negative values are none of these.
        alpha: Opacity of the colors, from 0 (only the image) to 1 (only the colors).
        palette: The colors of the labels, uint8 `(C, 3)`. Default: `color_palette`.

    Returns:
        An RGB image. A small image is enlarged by an integer factor: the short side has at least `MIN_DISPLAY_SIDE`
        pixels, unless the long side would then exceed `MAX_ENLARGED_SIDE`.

    Raises:
        ValueError: If image and label map differ in size, `alpha` is out of range, or `palette` is none, or has too few
            colors.
    """
    label_map = checked_label_map(label_map)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"The image is of type {type(image).__name__}; expected a PIL image. Convert it with Image.fromarray."
        )
    if image.size != label_map.shape[::-1]:
        raise ValueError(
            f"The label map is {label_map.shape[0]} x {label_map.shape[1]} and the image is {image.height} x "
            f"{image.width} (height x width); expected the same size. Request the label map at the image's size."
        )
    if not is_number(alpha, 0, 1):
        raise ValueError(f"alpha is {quoted(alpha)}; expected a number between 0 (picture) and 1 (colors).")
    image = image.convert("RGB")
    factor = min(-(-MIN_DISPLAY_SIDE // min(image.size)), max(1, MAX_ENLARGED_SIDE // max(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
        label_map = label_map.repeat(factor, axis=0).repeat(factor, axis=1)

    largest = max(int(label_map.max()), 0)
    palette = color_palette(largest + 1) if palette is None else checked_palette(palette)
    if largest >= len(palette):
        raise ValueError(
            f"The palette has {len(palette)} colors, but the label map contains label {largest}; expected at least "
            f"{largest + 1} colors. Pass a longer palette."
        )
    colors = np.concatenate([palette[: largest + 1], [NONE_COLOR]]).astype(np.uint8)[label_map]  # -1 is the last
    flat = Image.fromarray(colors)
    # The colors of the image are reduced, because blue on orange would look gray, not blue.
    blended = Image.blend(Image.blend(image, image.convert("L").convert("RGB"), min(1.0, 1.6 * alpha)), flat, alpha)

    width = max(1, round(min(image.size) / 260))
    blended.paste(flat, mask=Image.fromarray(_near_borders(label_map, width) & (label_map >= 0)))
    blended.paste(PAPER, mask=Image.fromarray(_near_borders(label_map, max(1, width // 2))))
    return blended


def beside(image: Image.Image, picture: Image.Image) -> Image.Image:
    """Puts an image, resized like its overlay, at the left of the overlay."""
    image = image.convert("RGB").resize(picture.size, Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (2 * picture.width, picture.height), PAPER)
    sheet.paste(image, (0, 0))
    sheet.paste(picture, (picture.width, 0))
    return sheet


def _near_borders(label_map: np.ndarray, width: int) -> np.ndarray:
    """Returns a mask of the pixels that are at most `width` pixels away from another label."""
    near = np.zeros(label_map.shape, dtype=bool)
    for step in sorted({1, (width + 1) // 2, width}):
        for axis in (0, 1):
            before = tuple(slice(None, -step) if a == axis else slice(None) for a in (0, 1))
            after = tuple(slice(step, None) if a == axis else slice(None) for a in (0, 1))
            differs = label_map[before] != label_map[after]
            near[before] |= differs
            near[after] |= differs
    return near


def as_array(values: Any, what: str) -> np.ndarray:
    """Returns nested values as an array.

    Raises:
        ValueError: If the values are no array: rows of different lengths, or nested without end; or if some of them are
            masked (`numpy.ma`).
    """
    if np.ma.is_masked(values):
        raise ValueError(f"{what} has masked pixels; expected a value for each pixel. Pass its `filled(...)` values.")
    try:
        return np.asarray(values.detach().cpu() if hasattr(values, "requires_grad") else values)  # torch
    except (ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise ValueError(
            f"{what} is {quoted(values)}; expected an array of shape (height, width). Pass a numpy array."
        ) from error


def checked_label_map(label_map: np.ndarray, num_labels: int | None = None) -> np.ndarray:
    """Returns a label map as int32 `(H, W)`.

    Raises:
        ValueError: If `label_map` is not a label map, or contains a label of at least `num_labels`, or one that is too
            large for int32.
    """
    label_map = as_array(label_map, "The label map")
    if label_map.ndim != 2 or label_map.size == 0 or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(
            f"The label map has dtype {label_map.dtype} and shape {label_map.shape}; expected integers of shape "
            "(height, width). Pass the label map of one image."
        )
    if num_labels is not None and int(label_map.max()) >= num_labels:
        raise ValueError(
            f"The label map contains label {int(label_map.max())}; expected labels from 0 to {num_labels - 1}. Pass "
            "all labels of the vocabulary."
        )
    if not np.can_cast(label_map.dtype, np.int32):  # other numbers would become wrong labels
        bounds = np.iinfo(np.int32)
        if int(label_map.max()) > bounds.max:
            raise ValueError(
                f"The label map contains label {int(label_map.max())}; expected at most {bounds.max}. Pass the "
                "numbers of the labels."
            )
        if int(label_map.min()) < bounds.min:
            label_map = np.maximum(label_map, -1)  # none of the labels
    return label_map.astype(np.int32, copy=False)
