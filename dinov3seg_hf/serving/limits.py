# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The limits of the demo and of the service on requests and memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..model.image_input import ImageError

Progress = Callable[[float, str], None]  # called with the progress, from 0 to 1, and a description of the step

SLIDE_VALUES = 2**28  # maximum number of fp32 probabilities in sliding-window inference: 1 GiB


@dataclass(frozen=True)
class Limits:
    """Limits on each request, and on the stored values of all sessions together.

    Attributes:
        file_bytes: Maximum size of an image file in bytes.
        pixels: Maximum number of pixels of an image. Larger images are rejected before they are decoded.
        side: Maximum longer side of an image in pixels. Larger images are shrunk to it.
        aspect: Maximum longer side of an image, divided by its shorter side, if a model resizes the shorter side to a
            fixed length. The longer side has no bound then, and the time grows with its square.
        labels: Maximum number of labels (classes).
        words: Maximum number of words, including all synonyms.
        word_length: Maximum number of characters of a word.
        templates: Maximum number of prompt templates.
        prompts: Maximum number of prompts (words times templates).
        cache_bytes: Maximum size in bytes of the stored values of all sessions together. The least recently used values
            are evicted first.
        upload_bytes: Maximum size in bytes of all uploaded and written files of the demo. The oldest are removed first.
        seconds: Maximum time of a request: in the demo to compute it, in the service from its arrival to the answer (of
            each image, in a request of Label Studio).
        requests_per_minute: Maximum number of requests of a client of the demo per minute.
    """

    file_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    side: int = 1600
    aspect: int = 16
    labels: int = 1000
    words: int = 3000
    word_length: int = 100
    templates: int = 12
    prompts: int = 10_000
    cache_bytes: int = 768 * 2**20
    upload_bytes: int = 2 * 2**30
    seconds: float = 300
    requests_per_minute: int = 120


def check_aspect(limits: Limits, size: tuple[int, int], model_size: Mapping[str, int | None]) -> None:
    """Checks that an image is not so long and narrow that the model would get an endless one.

    Args:
        limits: The limit `aspect`.
        size: The sides of the image in pixels.
        model_size: The `size` of the image processor.

    Raises:
        ImageError: If it is.
    """
    bounds = ("height", "width", "longest_edge")
    if max(size) > limits.aspect * min(size) and not any(model_size.get(name) for name in bounds):
        raise ImageError(
            f"The image has sides of {size[0]} and {size[1]} pixels; expected a longer side of at most {limits.aspect} "
            "times the shorter one. Cut the image into pieces."
        )
