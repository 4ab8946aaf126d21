# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Shows results of a pipeline in a notebook: the overlay with its legend, as HTML."""

import base64
import html
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ..model.image_input import ImageError, open_image
from ..model.pipeline_results import Segmentation, Segments
from .colors import label_palette
from .legend import with_legend
from .pictures import overlay, regions_of

# Longest side of a picture in a notebook, in pixels; a notebook stores each picture.
MAX_SIDE = 1024


def result_as_html(result: Any) -> str | None:
    """Returns the overlay of a result, with its legend, as an HTML image; on white, if the image is not known.

    Args:
        result: A `Segments` or a `Segmentation`.

    Returns:
        The HTML, or `None` if the result has neither masks nor a label map.
    """
    if isinstance(result, Segmentation):
        label_map, labels, segments = result["label_map"], result["labels"], result["segments"]
    else:
        segments, labels = result, [segment["label"] for segment in result]
        if not segments or any("mask" not in segment for segment in segments):
            return None
        label_map = np.full(segments[0]["mask"].size[::-1], -1, np.int32)
        for index, segment in enumerate(segments):
            label_map[np.asarray(segment["mask"]) > 0] = index
    scores = {segment["label"]: segment["score"] for segment in segments}
    image = _image_of(result, label_map.shape)
    palette = label_palette(labels)
    picture = with_legend(
        overlay(image, label_map, palette=palette), regions_of(label_map, labels, scores), palette=palette
    )
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    file = BytesIO()
    picture.save(file, "PNG")
    alt = html.escape(", ".join(scores), quote=True)
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _image_of(result: Segments | Segmentation, shape: tuple[int, int]) -> Image.Image:
    try:
        image = None if result.image is None else open_image(result.image)
    except ImageError:  # an encoded image, or a file that is gone or was read
        image = None
    if image is None or image.size != shape[::-1]:
        return Image.new("RGB", shape[::-1], "white")
    return image


__all__ = ["result_as_html"]
