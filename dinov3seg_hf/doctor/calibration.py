# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures below which confidence a pixel shows none of the classes of a vocabulary, on typical images.

`model/background.py` explains the confidence and how one image gives a bound. Many images give a better one; images
with masks a bound per class. Points are the places where the confidence is measured, a few per patch (`points.py`).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..model.background import bound_between
from ..model.calibration import Calibration
from ..model.inference_settings import Head, InferenceSettings, checked_settings
from ..model.loss import IGNORED, NO_CLASS
from ..model.text_embeddings import TextEmbeddings, checked_embeddings
from ..model.vocabulary import Vocabulary
from .points import Measurement, Points

# The bound of a class that wins in n images moves n / (n + PRIOR_IMAGES) of the way from the bound of all classes to
# its own, because points of one image resemble each other. Measured; see docs/background.md.
PRIOR_IMAGES = 5


def measure(
    pipe: Any, image: Any, text: TextEmbeddings, settings: InferenceSettings, truth: np.ndarray | None = None
) -> Measurement:
    """Segments an image and returns the confidence at its points.

    Args:
        pipe: The pipeline.
        image: The image.
        text: The text embeddings of the vocabulary.
        settings: The settings; those of `background` do not matter.
        truth: `(H, W)` of the image; see `labels_of_mask`.

    Raises:
        ValueError: If the image cannot be read, the mask has another size, or an argument is of another type.
    """
    settings = replace(checked_settings(settings, pipe.settings), background="auto", threshold=None)
    settings = pipe.resolved_settings(settings)
    prepared = pipe.prepare(image, settings)
    if truth is not None and np.shape(truth) != tuple(prepared.size):
        raise ValueError(
            f"The mask is {' x '.join(map(str, np.shape(truth)))} and the image {prepared.size[0]} x "
            f"{prepared.size[1]} (height x width); expected the same size. Pass the mask of this image."
        )
    text = replace(checked_embeddings(text), calibration=None)
    (labeled,) = pipe.segment_prepared([prepared], text, settings)
    labels, values = labeled.confidence.labels.cpu(), labeled.confidence.values.cpu()
    decisive = labeled.confidence.without_seams().cpu()
    at_points = None
    if truth is not None:
        at_points = F.interpolate(torch.from_numpy(truth)[None, None].float(), size=labels.shape[1:], mode="nearest")
        at_points = at_points.long().flatten()
    return Measurement(
        labels[0].flatten(), values[0].flatten(), values[1].flatten(), decisive.flatten(), at_points, settings
    )


def labels_of_mask(vocabulary: Vocabulary, mask: np.ndarray) -> np.ndarray:
    """Converts the values of a mask to labels, int32 of the same shape.

    The ignore label stays ignored (`IGNORED`). All other values without a class are things that the vocabulary does not
    name (`NO_CLASS`).
    """
    labels = vocabulary.labels_from_raw(mask)
    labels = np.where(labels == vocabulary.ignore_label, NO_CLASS, labels)
    return np.where(mask == vocabulary.ignore_label, IGNORED, labels).astype(np.int32)


def calibrate(measurements: Iterable[Measurement] | Points, text: TextEmbeddings) -> Calibration:
    """Returns the bounds that make the fewest errors in the measured images.

    Without masks, all classes get the same bound: a bound per class was worse on the drawn world at any number of
    images, because whether a class is right is only guessed. With masks, each class has a bound of its own. Of many
    images, the points are a sample; see `points.py`.

    Args:
        measurements: The points of each image, with or without masks.
        text: The text embeddings of the vocabulary.

    Raises:
        ValueError: If there are no images, their settings differ, the head cannot be calibrated (see `check_head`), or
            the masks ignore everything.
    """
    points = measurements if isinstance(measurements, Points) else Points.of(measurements)
    settings = points.settings
    if settings is None:
        raise ValueError("Got no images; expected typical images of what the vocabulary is for.")
    assert settings.head is not None  # resolved
    check_head(settings.head, points.has_masks, len(text))
    columns = points.columns()
    if not points.has_masks:
        bound = bound_between(columns["best"], columns["runner_up"])
        return Calibration.measured((bound,) * len(text), text.model_fingerprint, settings)

    known = columns["is_known"]
    labels, confidence, is_right, weight = (
        columns[name][known] for name in ("label", "decisive", "is_right", "weight")
    )
    if not len(labels):
        raise ValueError("The masks ignore every pixel; expected labels, or values of things that no class names.")
    common = best_bound(confidence, is_right, weight)
    thresholds = []
    for label in range(len(text)):
        mine, num_images = labels == label, points.num_images_of[label]
        share = num_images / (num_images + PRIOR_IMAGES)
        own = best_bound(confidence[mine], is_right[mine]) if mine.any() else common
        thresholds.append(common + share * (own - common))
    return Calibration.measured(tuple(thresholds), text.model_fingerprint, settings)


def check_head(head: Head, has_masks: bool, num_labels: int) -> None:
    """Checks that a head can be calibrated.

    Raises:
        ValueError: If there are no masks for the full head, or fewer than three labels for the zero-shot head.
    """
    if head == "dinotxt" and num_labels < 3:
        raise ValueError(
            f"Got {num_labels} labels; expected at least 3 for the zero-shot head, which knows only which label fits "
            "better. Add labels of other things that the images show."
        )
    if head == "full" and not has_masks:
        raise ValueError(
            "Got no masks for the full head; expected masks, because without them its scores, which are probabilities, "
            'leave nothing to measure. Pass masks or head="dinotxt", or segment with background="auto", which uses one '
            "bound for all labels."
        )


def best_bound(confidence: torch.Tensor, is_right: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    """Returns the bound with the fewest errors: right labels that are dropped, and wrong ones that are kept.

    Args:
        confidence: `(N,)`.
        is_right: bool `(N,)`: whether the label is the right one.
        weight: float64 `(N,)`: how many errors one is. Default: 1.

    Returns:
        One of the confidences, halfway to the next lower one; 0 if keeping everything makes the fewest errors.
    """
    order = confidence.argsort()
    signs = torch.where(is_right, 1.0, -1.0).double()
    # errors gained by dropping everything up to here
    steps = (signs if weight is None else signs * weight)[order].cumsum(0)
    levels = confidence[order]
    last = torch.cat([levels[1:] > levels[:-1], levels.new_ones(1, dtype=torch.bool)])  # of equal confidences
    steps = steps.masked_fill(~last, np.inf)
    place = int(steps.argmin())
    if steps[place] >= 0:
        return 0.0
    if place + 1 == len(levels):
        return float(np.nextafter(levels[place].item(), np.inf, dtype=np.float32))
    return ((levels[place] + levels[place + 1]) / 2).item()
