# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Random scale, crop, flip and color changes of an image and its label map.

Every random number comes from the generator passed in: the same generator gives the same bytes in every process.
Pillow resamples and colors the pixels. The image processor's default backend also resizes with Pillow, so training and
inference resample images in the same way. (Other libraries: albumentations is no longer maintained and its successor
is AGPL; torchvision cannot be imported next to a CPU-only torch; kornia's crops do not antialias.)
"""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ..model.checks import is_number, quoted
from ..model.loss import IGNORED

HUE_CIRCLE = 256  # number of values in Pillow's hue channel


@dataclass(frozen=True)
class PairedTransform:
    """A random crop of fixed size from an image and its label map, with random flip and color changes.

    The image is scaled so that its shorter side is `scale` times the shorter side of the crop. The scale is drawn
    log-uniformly (twice the size is as likely as half the size). The crop is cut at a random position. If the scaled
    image is smaller than the crop, it is placed at a random position inside a border; the labels of the border are
    ignored. Finally, the crop is flipped and recolored at random.

    Args:
        crop_size: Size of the crop in pixels: one number or (height, width).
        scale: Smallest and largest scale.
        flip: Probability of a horizontal flip.
        brightness, contrast, saturation: Strength x of the change, `0 <= x < 1`. The factor is drawn uniformly between
            1 - x and 1 + x.
        hue: Largest hue shift in both directions, as a share of the color circle; at most 0.5.
        color: Probability that the colors are changed.
        border: RGB color of the border. Default: the mean color of ImageNet.

    Raises:
        ValueError: If an argument is out of range.
    """

    crop_size: int | tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.05
    color: float = 0.8
    border: tuple[int, int, int] = (124, 116, 104)

    def __post_init__(self) -> None:
        given = self.crop_size
        size: Any = (given, given) if isinstance(given, Integral) else given
        if not (_is_list(size, 2) and all(_is_integer(side, 1) for side in size)):
            raise ValueError(f"crop_size is {quoted(given)}; expected a positive number of pixels or (height, width).")
        is_range = _is_list(self.scale, 2) and all(is_number(bound) for bound in self.scale)
        if not is_range or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"scale is {quoted(self.scale)}; expected (smallest, largest) with 0 < smallest <= largest."
            )
        for name, largest in {"flip": 1, "color": 1, "hue": 0.5}.items():
            if not is_number(getattr(self, name), 0, largest):
                raise ValueError(f"{name} is {quoted(getattr(self, name))}; expected a number between 0 and {largest}.")
        for name in ("brightness", "contrast", "saturation"):
            if not is_number(getattr(self, name), 0) or getattr(self, name) >= 1:
                raise ValueError(f"{name} is {quoted(getattr(self, name))}; expected at least 0 and less than 1.")
        if not (_is_list(self.border, 3) and all(_is_integer(value, 0, 255) for value in self.border)):
            raise ValueError(
                f"border is {quoted(self.border)}; expected three integers from 0 to 255, red, green, blue."
            )
        object.__setattr__(self, "crop_size", tuple(map(int, size)))
        object.__setattr__(self, "scale", tuple(self.scale))
        object.__setattr__(self, "border", tuple(map(int, self.border)))

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts a random crop from an image and its label map, and flips and recolors the crop at random.

        Args:
            image: The image, uint8 `(H, W, 3)`.
            labels: The label map, signed integers `(H, W)`; negative labels are ignored.
            rng: The generator of all random numbers.

        Returns:
            The image, uint8 `(*crop_size, 3)`, and the label map `(*crop_size)` in the dtype of `labels`.

        Raises:
            ValueError: If image and label map differ in size or are of other types, or the labels are not signed
                integers.
        """
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"The image is {found}; expected uint8 (H, W, 3). Convert it, as open_image does.")
        if not isinstance(labels, np.ndarray) or not isinstance(rng, np.random.Generator):
            raise ValueError(
                f"The labels are of type {type(labels).__name__} and rng is of type {type(rng).__name__}; expected an "
                "array and a Generator. Pass np.random.default_rng(seed)."
            )
        if image.shape[:2] != labels.shape:
            raise ValueError(
                f"The image has size {image.shape[:2]} and its label map has size {labels.shape} (height, width); "
                "expected the same size. Resize the label map by nearest neighbor."
            )
        if labels.dtype.kind != "i":
            raise ValueError(
                f"The labels have dtype {labels.dtype}; expected signed integers, because -1 marks ignored pixels. "
                "Convert the labels to int64, with -1 for ignored pixels."
            )
        picture, labels = self._crop(image, labels, rng)
        if rng.random() < self.flip:
            picture, labels = ImageOps.mirror(picture), labels[:, ::-1]
        if rng.random() < self.color:
            picture = self._recolor(picture, rng)
        return np.array(picture), np.ascontiguousarray(labels)

    def _crop(self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
        crop_size = self.crop_size
        assert not isinstance(crop_size, int)  # `__post_init__` converts a single number to a pair
        low, high = np.log(self.scale)
        factor = np.exp(rng.uniform(low, high)) * min(crop_size) / min(labels.shape)
        visible, offsets, places = [], [], []
        for side, crop in zip(labels.shape, crop_size):
            scaled = max(1, round(side * factor))
            visible.append(min(scaled, crop))
            offsets.append(int(rng.integers(max(0, scaled - crop) + 1)) * side / scaled)  # in original pixels
            places.append(int(rng.integers(max(0, crop - scaled) + 1)))
        spans = [seen * side / max(1, round(side * factor)) for seen, side in zip(visible, labels.shape)]

        (top, left), (height, width) = offsets, spans
        box = (left, top, min(left + width, labels.shape[1]), min(top + height, labels.shape[0]))
        window = Image.fromarray(image).resize(visible[::-1], Image.Resampling.BICUBIC, box=box)
        canvas = Image.new("RGB", crop_size[::-1], self.border)
        canvas.paste(window, (places[1], places[0]))

        # nearest neighbor at pixel centers, by indexing, which supports labels of any dtype
        rows, columns = (
            np.minimum(offset + (np.arange(seen) + 0.5) * span / seen, side - 1).astype(np.intp)
            for offset, seen, span, side in zip(offsets, visible, spans, labels.shape)
        )
        cropped = np.full(crop_size, IGNORED, labels.dtype)
        cropped[places[0] : places[0] + visible[0], places[1] : places[1] + visible[1]] = labels[rows[:, None], columns]
        return canvas, cropped

    def _recolor(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        steps = (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        )
        # random order, because the order of the changes affects the result
        for index in rng.permutation(len(steps)):
            enhance, strength = steps[index]
            image = enhance(image).enhance(1 + strength * rng.uniform(-1, 1))
        turn = round(HUE_CIRCLE * self.hue * rng.uniform(-1, 1))
        if turn:
            hue, saturation, value = image.convert("HSV").split()
            hue = Image.fromarray(np.array(hue) + np.uint8(turn % HUE_CIRCLE))  # uint8 wraps around, like the hue
            image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        return image


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == length


def _is_integer(value: Any, least: int, most: float = math.inf) -> bool:
    return isinstance(value, Integral) and is_number(value, least, most)


__all__ = ["PairedTransform"]
