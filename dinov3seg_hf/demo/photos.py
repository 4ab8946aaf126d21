# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Uploaded images, shrunk to what the demo computes with and enlarged to what the page shows."""

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..model.image_input import open_image
from .limits import Limits


@dataclass(frozen=True, eq=False)
class Photo:
    """An uploaded image.

    Attributes:
        digest: SHA-256 of the file.
        image: RGB, upright, shrunk to the limit.
        shown: The image as the page shows it: `image`, or for a small one a whole and odd multiple of its size.
        source_size: (height, width) of the file's image.
    """

    digest: str
    image: Image.Image
    shown: Image.Image
    source_size: tuple[int, int]

    @property
    def factor(self) -> int:
        return self.shown.height // self.image.height

    @cached_property
    def jpeg(self) -> bytes:
        """What the page gets to see."""
        buffer = BytesIO()
        self.shown.save(buffer, "JPEG", quality=88)
        return buffer.getvalue()

    @property
    def num_bytes(self) -> int:
        """Both images, and a byte a pixel for the JPEG."""
        own, shown = (image.width * image.height for image in (self.image, self.shown))
        return (3 * own if self.factor > 1 else 0) + 3 * shown + shown


def open_photo(path: Path, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """An upright RGB image and its (height, width) in the file.

    A JPEG is decoded at a fraction of its size where that suffices: photos of telephones open several times faster.
    """
    try:
        file = Image.open(path)
    except Exception:  # open_image says what is wrong
        file = None
    if file is None or file.format != "JPEG" or file.width * file.height > limits.pixels:
        if file is not None:
            file.close()
        image = open_image(path, max_pixels=limits.pixels)
        return image, (image.height, image.width)
    with file:
        source_size = (file.height, file.width)
        file.draft(None, (limits.side, limits.side))
        drafted_size = (file.height, file.width)
        image = open_image(file, max_pixels=limits.pixels)
    turned = drafted_size[0] != drafted_size[1] and image.size == drafted_size  # (width, height) were swapped by EXIF
    return image, source_size[::-1] if turned else source_size
