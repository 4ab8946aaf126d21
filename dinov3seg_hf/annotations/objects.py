# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Annotations as objects of other libraries, in memory."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.vocabulary import Vocabulary, as_vocabulary
from .image import AnnotatedImage, Cleaned, ExportOptions

if TYPE_CHECKING:
    from fiftyone import Segmentation
    from supervision import Detections


def to_detections(
    image: AnnotatedImage, labels: Sequence[str] | Vocabulary, *, min_area: int = 0, ignore_below: float | None = None
) -> "Detections":
    """Converts a labeled image to `supervision.Detections`; each connected part of a label is a detection.

    Args:
        image: The labeled image.
        labels: The class names, in the order of the labels.
        min_area: Smallest number of pixels of a detection.
        ignore_below: Score below which a pixel has no label. Needs a score map.

    Returns:
        Detections with `xyxy` (float32 `(N, 4)`, pixels; the right and lower edges are exclusive), `mask` (bool
        `(N, H, W)`), `class_id` (int64 `(N,)`, the label), `confidence` (float32 `(N,)`, the mean score of the pixels;
        `None` without a score map) and `data["class_name"]`.

    Raises:
        ValueError: If a label has no name, or the library `supervision` is missing.
    """
    supervision = _imported("supervision", "to_detections")
    names = as_vocabulary(labels).names
    parts = Cleaned(image, ExportOptions(min_area=min_area, ignore_below=ignore_below), len(names)).parts
    if not parts:
        return supervision.Detections.empty()
    boxes = [(left, top, left + width, top + height) for left, top, width, height in (part.box for part in parts)]
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32),
        mask=np.stack([part.full_mask(image.height, image.width) for part in parts]),
        class_id=np.array([part.label for part in parts]),
        confidence=None if image.score_map is None else np.array([part.score for part in parts], np.float32),
        data={"class_name": np.array([names[part.label] for part in parts])},
    )


def to_fiftyone(
    image: AnnotatedImage, labels: Sequence[str] | Vocabulary, *, min_area: int = 0, ignore_below: float | None = None
) -> "Segmentation":
    """Converts a labeled image to a `fiftyone.Segmentation`.

    In FiftyOne, 0 is the background, so a value is the label plus 1. The names belong to the data set:
    `dataset.default_mask_targets = {label + 1: name for label, name in enumerate(labels)}`.

    Args:
        image: The labeled image.
        labels: The class names, in the order of the labels.
        min_area: Smallest number of pixels of a connected part; smaller ones become 0.
        ignore_below: Score below which a pixel becomes 0. Needs a score map.

    Returns:
        A segmentation with `mask`, uint8 `(H, W)`, or uint16 with more than 254 labels.

    Raises:
        ValueError: If a label has no name, or the library `fiftyone` is missing.
    """
    fiftyone = _imported("fiftyone", "to_fiftyone")
    num_labels = len(as_vocabulary(labels))
    label_map = Cleaned(image, ExportOptions(min_area=min_area, ignore_below=ignore_below), num_labels).label_map
    return fiftyone.Segmentation(mask=(label_map + 1).astype(np.uint8 if num_labels < 255 else np.uint16))


def _imported(library: str, function: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        # too large for an extra
        raise ValueError(
            f"{function} requires {library}, but {library} cannot be imported ({error}). Install it: pip install "
            f"{library}"
        ) from error
