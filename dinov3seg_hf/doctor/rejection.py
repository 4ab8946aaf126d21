# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Compares segmentations with `active_classes`, which rejects most classes early, with those of all classes."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.inference_settings import ActiveClasses
from ..model.pipeline_inputs import images_of
from ..model.text_embeddings import TextEmbeddings


@dataclass(frozen=True)
class Disagreement:
    """How the segmentation of an image with `active_classes` differs from that of all classes.

    Attributes:
        share: The share of pixels with another label.
        seconds: The seconds of the whole segmentation, on the clock.
        seconds_of_all: Those with all classes.
    """

    share: float
    seconds: float
    seconds_of_all: float


def verify_active_classes(
    pipe: Any,
    images: Iterable[Any],
    text: TextEmbeddings,
    active_classes: ActiveClasses = "auto",
    **options: Any,
) -> list[Disagreement]:
    """Segments images with `active_classes` and with all classes, and returns the disagreement of each image.

    Args:
        pipe: The pipeline.
        images: Images, or one; see the pipeline.
        text: The text embeddings of the vocabulary, or its names.
        active_classes: See `InferenceSettings`.
        options: Other options of the pipeline, such as `inference`.

    Raises:
        ValueError: If an option is invalid, or the head is the zero-shot one, which has nothing to reject.
    """
    settings = pipe.settings.updated(active_classes=active_classes, **options)
    settings = settings.resolved(pipe.model.config, pipe.image_processor)
    if settings.head == "dinotxt":
        raise ValueError(
            'head is "dinotxt", which has no late refinement to leave out; expected "full". Leave out active_classes.'
        )
    text = text if isinstance(text, TextEmbeddings) else pipe.encode_labels(text)
    found = []
    for image in images_of(images):
        maps, seconds = [], []
        for number in (active_classes, len(text)):  # with as many as there are, none is rejected
            start = time.perf_counter()
            result = pipe(image, text, active_classes=number, return_label_map=True, return_masks=False, **options)
            seconds.append(time.perf_counter() - start)
            maps.append(result["label_map"])
        found.append(Disagreement(float(np.mean(maps[0] != maps[1])), *seconds))
    return found
