# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads uploaded images. Large images are shrunk for the model; small images are enlarged for the page."""

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..model.image_input import open_image
from ..serving.limits import Limits


@dataclass(frozen=True, eq=False)
class Photo:
    """An uploaded image.

    Attributes:
        digest: The SHA-256 of the file, as hex.
        image: The upright RGB image, shrunk to `Limits.side`.
        shown: The image as the page shows it: `image`, enlarged by an odd integer factor if it is small.
        source_size: (height, width) of the upright image in the file, in pixels.
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
        """The image as JPEG bytes, as sent to the page."""
        buffer = BytesIO()
        self.shown.save(buffer, "JPEG", quality=88)
        return buffer.getvalue()

    @property
    def num_bytes(self) -> int:
        """The size of both images in bytes, plus one byte per pixel for the JPEG."""
        own, shown = (image.width * image.height for image in (self.image, self.shown))
        return (3 * own if self.factor > 1 else 0) + 3 * shown + shown


def open_photo(path: Path, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """Returns the upright RGB image and its (height, width) in the file.

    A JPEG is decoded at a reduced size if the reduced size is large enough for `Limits.side`. Phone photos open several
    times faster this way.
    """
    try:
        file = Image.open(path, formats=["JPEG"])
    except Exception:  # `open_image` raises the error with an explanation
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
    turned = drafted_size[0] != drafted_size[1] and image.size == drafted_size  # EXIF swapped width and height
    return image, source_size[::-1] if turned else source_size
