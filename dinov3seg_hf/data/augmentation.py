# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Random scale, crop, flip and color of an image together with its label map.

Every number is drawn from the generator that is passed in: the same generator gives the same bytes in every process.
Pixels are resampled and colored by Pillow, the library that the image processor's default backend resizes with, so
that training sees what inference sees. (Of the usual libraries, albumentations is no longer kept and its successor's
license is AGPL, torchvision cannot be imported beside a CPU-only torch, and kornia's crops do not antialias.)
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

IGNORED = -1  # the label of pixels that belong to no class, and of the border around a shrunken image

HUE_CIRCLE = 256  # steps of Pillow's hue channel


@dataclass(frozen=True)
class PairedTransform:
    """One crop of fixed size from an image and its label map.

    The image is scaled so that its shorter side is `scale` times the crop's shorter side, with the scale drawn
    log-uniformly (twice the size is as likely as half of it). A crop is cut from it at random; where the image is
    smaller than the crop, it is set into a border of the mean color of ImageNet, whose labels are ignored. Then flip
    and color.

    Args:
        crop_size: One number or (height, width) in pixels.
        scale: Least and greatest scale.
        flip: Probability of a mirror image.
        brightness, contrast, saturation: A factor is drawn between 1 - x and 1 + x, `0 <= x < 1`.
        hue: The hue is turned by up to this share of the color circle, at most 0.5.
        color: Probability that the colors are changed at all.
        border: RGB of the border.

    Raises:
        ValueError: A number out of its range.
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

    def __post_init__(self):
        size = (self.crop_size, self.crop_size) if isinstance(self.crop_size, int) else tuple(self.crop_size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"crop_size is {self.crop_size!r}; expected pixels, one number or (height, width).")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale!r}; expected (least, greatest), both positive.")
        for name, largest in {"flip": 1, "color": 1, "hue": 0.5}.items():
            if not 0 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a number between 0 and {largest}.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected at least 0 and less than 1.")
        object.__setattr__(self, "crop_size", size)
        object.__setattr__(self, "scale", tuple(self.scale))

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts one crop.

        Args:
            image: uint8 `(H, W, 3)`.
            labels: Signed integers `(H, W)`, negative = ignored.
            rng: Where all chance comes from.

        Returns:
            uint8 `(*crop_size, 3)`, and labels `(*crop_size)` of the dtype that was given.

        Raises:
            ValueError: The two have different sizes, or labels are no signed integers.
        """
        if image.shape[:2] != labels.shape:
            raise ValueError(f"The image is {image.shape[:2]} and its label map {labels.shape}; expected one size.")
        if labels.dtype.kind != "i":
            raise ValueError(f"The labels are {labels.dtype}; expected signed integers, which can be ignored (-1).")
        picture, labels = self._crop(image, labels, rng)
        if rng.random() < self.flip:
            picture, labels = ImageOps.mirror(picture), labels[:, ::-1]
        if rng.random() < self.color:
            picture = self._recolor(picture, rng)
        return np.array(picture), np.ascontiguousarray(labels)

    def _crop(self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
        crop_size = self.crop_size
        assert not isinstance(crop_size, int)  # `__post_init__` has made a pair of it
        low, high = np.log(self.scale)
        factor = np.exp(rng.uniform(low, high)) * min(crop_size) / min(labels.shape)
        visible, offsets, places = [], [], []
        for side, crop in zip(labels.shape, crop_size):
            scaled = max(1, round(side * factor))
            visible.append(min(scaled, crop))
            offsets.append(int(rng.integers(max(0, scaled - crop) + 1)) * side / scaled)  # in pixels of the source
            places.append(int(rng.integers(max(0, crop - scaled) + 1)))
        spans = [seen * side / max(1, round(side * factor)) for seen, side in zip(visible, labels.shape)]

        (top, left), (height, width) = offsets, spans
        box = (left, top, min(left + width, labels.shape[1]), min(top + height, labels.shape[0]))
        window = Image.fromarray(image).resize(visible[::-1], Image.Resampling.BICUBIC, box=box)
        canvas = Image.new("RGB", crop_size[::-1], self.border)
        canvas.paste(window, (places[1], places[0]))

        # nearest neighbor by the centers of the pixels; by index, for labels of any dtype
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
        # the order matters: darker and then more contrast is another picture than the reverse
        for index in rng.permutation(len(steps)):
            enhance, strength = steps[index]
            image = enhance(image).enhance(1 + strength * rng.uniform(-1, 1))
        turn = round(HUE_CIRCLE * self.hue * rng.uniform(-1, 1))
        if turn:
            hue, saturation, value = image.convert("HSV").split()
            hue = Image.fromarray(np.array(hue) + np.uint8(turn % HUE_CIRCLE))  # uint8 goes round like the circle
            image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        return image


__all__ = ["IGNORED", "PairedTransform"]
