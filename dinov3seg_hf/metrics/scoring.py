# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Scores of label maps: the confusion matrix, what is kept of an image, and how sure a mean over images is.

Integers only until the end, so that scores do not depend on the order of images or on who counted them. numpy alone.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

# Pixels that are counted at a time: few enough to stay in the processor's cache.
COUNTED_PIXELS = 2**16

CONFIDENCE = 0.95

BOOTSTRAP_SEED = 0

# Values of resampled counts held at a time (64 MiB).
MAX_RESAMPLED_VALUES = 2**23


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pixels, added to image by image.

    Args:
        num_classes: C; labels outside 0 .. C-1 are ignored, predictions outside it count as wrong for the true class.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        # one column more: predictions of "none of these"
        self.counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    def update(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Adds label maps of integers, of equal shape.

        Raises:
            ValueError: If the shapes differ, nothing is resized here; or if they hold no integers.
        """
        predictions, labels = np.asarray(predictions), np.asarray(labels)
        if predictions.shape != labels.shape:
            raise ValueError(
                f"The prediction has shape {predictions.shape}, the label map {labels.shape}; resize the prediction "
                "to the label map first."
            )
        for what, array in (("prediction", predictions), ("label map", labels)):
            if array.dtype.kind not in "iu":
                raise ValueError(f"The {what} is {array.dtype}; expected integers, one class a pixel.")
        predictions, labels = predictions.ravel(), labels.ravel()
        for start in range(0, labels.size, COUNTED_PIXELS):
            self._count(predictions[start : start + COUNTED_PIXELS], labels[start : start + COUNTED_PIXELS])

    def _count(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        # one number a pixel, label * (C + 1) + prediction, where C stands for whatever is out of range
        places = _clamped(labels, self.num_classes)
        places *= np.uint32(self.num_classes + 1)
        places += _clamped(predictions, self.num_classes)
        # Label maps are made of regions: counting runs of equal numbers in place of pixels is several times faster.
        starts = np.flatnonzero(places[1:] != places[:-1]) + 1
        if 4 * len(starts) > len(places) > self.counts.size:  # noise, and few classes
            self.counts += np.bincount(places, minlength=self.counts.size)[: self.counts.size].reshape(
                self.counts.shape
            )
            return
        starts = np.concatenate([[0], starts])
        lengths = np.diff(starts, append=len(places))
        places = places[starts].astype(np.intp)
        labeled = places < self.counts.size
        np.add.at(self.counts.reshape(-1), places[labeled], lengths[labeled])

    def add(self, labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> None:
        """Adds counts of pairs: int arrays of one length, predictions of none of the classes as `num_classes`."""
        np.add.at(self.counts, (labels, predictions), counts)

    def iou(self) -> np.ndarray:
        """Intersection over union a class, `(C,)` float64; NaN for a class without a ground-truth pixel."""
        correct = np.diagonal(self.counts).astype(np.float64)
        truth = self.counts.sum(axis=1)
        union = truth + self.counts[:, :-1].sum(axis=0) - correct
        return np.where(truth > 0, correct / np.maximum(union, 1), np.nan)

    def accuracy(self) -> np.ndarray:
        """Share of a class's pixels that are right, `(C,)` float64; NaN for a class without a ground-truth pixel."""
        truth = self.counts.sum(axis=1)
        return np.where(truth > 0, np.diagonal(self.counts) / np.maximum(truth, 1), np.nan)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Mean over the classes that have a ground-truth pixel (of `classes`, if given), between 0 and 1."""
        return _mean(self.iou(), classes)

    def mean_accuracy(self) -> float:
        """Mean over the classes that have a ground-truth pixel, between 0 and 1."""
        return _mean(self.accuracy())

    def pixel_accuracy(self) -> float:
        """Share of labeled pixels that are right."""
        return float(np.diagonal(self.counts).sum() / max(self.counts.sum(), 1))

    def frequency_weighted_iou(self) -> float:
        """Mean of the classes' IoU, weighted by their ground-truth pixels, between 0 and 1."""
        truth = self.counts.sum(axis=1)
        return float(np.nansum(truth * self.iou()) / truth.sum()) if truth.any() else float("nan")

    def scores(self) -> dict[str, float]:
        """All of the above as one number each; NaN where no pixel is labeled."""
        labeled = bool(self.counts.any())
        return {
            "mean_iou": self.mean_iou(),
            "mean_accuracy": self.mean_accuracy(),
            "overall_accuracy": self.pixel_accuracy() if labeled else float("nan"),
            "frequency_weighted_iou": self.frequency_weighted_iou(),
        }


def _clamped(values: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels as uint32, everything that is none of the C classes as C."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.itemsize < 4:
        values = values.astype(np.int32)
    unsigned = np.uint64 if values.dtype.itemsize == 8 else np.uint32
    # as unsigned, negative numbers are out of range as well
    return np.minimum(values.view(unsigned), unsigned(num_classes)).astype(np.uint32, copy=False)


def _mean(values: np.ndarray, classes: Sequence[int] | None = None) -> float:
    chosen = values if classes is None else values[list(classes)]
    return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")


@dataclasses.dataclass(frozen=True)
class ImageCounts:
    """The confusion matrix of one image, without its zeros.

    Attributes:
        index: The image's row in the data set.
        labels, predictions, counts: int64, one entry for each pair that occurs.
        skipped: In place of them, why the row could not be read.
    """

    index: int
    labels: np.ndarray
    predictions: np.ndarray
    counts: np.ndarray
    skipped: str | None = None

    @classmethod
    def of(cls, index: int, predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> "ImageCounts":
        """Counts a prediction against a label map of the same shape."""
        matrix = ConfusionMatrix(num_classes)
        matrix.update(predictions, labels)
        found = matrix.counts.nonzero()
        return cls(index, found[0], found[1], matrix.counts[found])

    @classmethod
    def bad(cls, index: int, reason: str) -> "ImageCounts":
        nothing = np.zeros(0, np.int64)
        return cls(index, nothing, nothing, nothing, reason)

    def to_json(self) -> str:
        if self.skipped is not None:
            return json.dumps({"index": self.index, "skipped": self.skipped}, ensure_ascii=False)
        pairs = [array.tolist() for array in (self.labels, self.predictions, self.counts)]
        return json.dumps({"index": self.index, "pairs": pairs})

    @classmethod
    def from_json(cls, line: str) -> "ImageCounts":
        content = json.loads(line)
        if "skipped" in content:
            return cls.bad(content["index"], content["skipped"])
        labels, predictions, counts = (np.array(values, np.int64) for values in content["pairs"])
        return cls(content["index"], labels, predictions, counts)


def bootstrap_intervals(
    images: Sequence[ImageCounts],
    num_classes: int,
    groups: dict[str, Sequence[int]],
    num_resamples: int = 1000,
    confidence: float = CONFIDENCE,
    seed: int = BOOTSTRAP_SEED,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of mean IoUs when the images are drawn anew, with replacement.

    Args:
        images: What was counted on each image.
        num_classes: C.
        groups: Which classes each mean is over.
        num_resamples: How often the images are drawn.
        confidence: Share of the resampled means that lie within, between 0 and 1.
        seed: Of the draws.

    Returns:
        For each group (low, high); NaN if no class of it has a pixel.
    """
    # per image and class: intersection, ground truth, union; float64 holds these integers exactly
    correct = np.zeros((len(images), num_classes))
    truth, predicted = np.zeros_like(correct), np.zeros((len(images), num_classes + 1))
    for row, image in enumerate(images):
        same = image.labels == image.predictions
        correct[row, image.labels[same]] = image.counts[same]
        np.add.at(truth[row], image.labels, image.counts)
        np.add.at(predicted[row], image.predictions, image.counts)
    rng = np.random.default_rng(seed)
    probabilities = np.full(len(images), 1 / max(len(images), 1))
    means: dict[str, list[np.ndarray]] = {name: [] for name in groups}
    chunk = max(1, MAX_RESAMPLED_VALUES // max(len(images), num_classes))
    for start in range(0, num_resamples if images else 0, chunk):
        size = min(chunk, num_resamples - start)
        draws = rng.multinomial(len(images), probabilities, size=size).astype(np.float64)  # (R, N)
        drawn_truth, drawn_correct = draws @ truth, draws @ correct  # (R, C)
        union = drawn_truth + draws @ predicted[:, :-1] - drawn_correct
        iou = np.where(drawn_truth > 0, drawn_correct / np.maximum(union, 1), np.nan)
        for name, classes in groups.items():
            chosen = iou[:, list(classes)]
            found = np.isfinite(chosen)
            totals = np.where(found, chosen, 0).sum(axis=1)
            means[name].append(np.where(found.any(axis=1), totals / np.maximum(found.sum(axis=1), 1), np.nan))
    edges = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals = {}
    for name, chunks in means.items():
        values = np.concatenate(chunks) if chunks else np.zeros(0)
        values = values[np.isfinite(values)]
        intervals[name] = tuple(np.quantile(values, edges).tolist()) if values.size else (float("nan"),) * 2
    return intervals


__all__ = ["ConfusionMatrix", "ImageCounts", "bootstrap_intervals"]
