# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Scores of label maps: the confusion matrix, the counts of an image, and bootstrap intervals over images.

All counts are integers, so the scores do not depend on the order of the images or on the number of processes. Uses
numpy only.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

# Number of pixels that are counted at a time; small enough for the CPU cache.
COUNTED_PIXELS = 2**16

CONFIDENCE = 0.95

BOOTSTRAP_SEED = 0

# Maximum number of values of resampled counts held in memory at a time (64 MiB).
MAX_RESAMPLED_VALUES = 2**23


def checked_pair(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a predicted label map and its ground truth.

    Raises:
        ValueError: If the shapes differ (label maps are not resized), or a label map does not contain integers, or has
            pixels that are masked (`numpy.ma`).
    """
    for what, array in (("prediction", predictions), ("label map", labels)):
        if np.ma.is_masked(array):
            raise ValueError(
                f"The {what} has masked pixels; expected an integer for each pixel. Pass `label_map.filled(255)` and "
                "ignore 255."
            )
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape:
        raise ValueError(
            f"The prediction has shape {predictions.shape} and the label map has shape {labels.shape}; expected "
            "the same shape. Resize the prediction to the size of the label map first."
        )
    for what, array in (("prediction", predictions), ("label map", labels)):
        if array.dtype.kind not in "iu":
            raise ValueError(f"The {what} has dtype {array.dtype}; expected integers, one class per pixel.")
    return predictions, labels


class ConfusionMatrix:
    """Pixel counts of each pair (ground-truth class, predicted class), updated image by image.

    Args:
        num_classes: Number of classes C. Labels outside 0 .. C-1 are ignored; predictions outside 0 .. C-1 count as
            wrong for the ground-truth class.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        # the last column counts predictions outside 0 .. C-1
        self.counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    def update(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Adds a predicted label map and its ground truth, integers of the same shape.

        Raises:
            ValueError: If the shapes differ (label maps are not resized), or a label map does not contain integers.
        """
        predictions, labels = (array.ravel() for array in checked_pair(predictions, labels))
        for start in range(0, labels.size, COUNTED_PIXELS):
            self._count(predictions[start : start + COUNTED_PIXELS], labels[start : start + COUNTED_PIXELS])

    def _count(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        # one number per pixel: label * (C + 1) + prediction, with C for all values out of range
        places = _clamped(labels, self.num_classes)
        places *= np.uint32(self.num_classes + 1)
        places += _clamped(predictions, self.num_classes)
        # Label maps consist of regions, so counting runs of equal numbers instead of pixels is several times faster.
        starts = np.flatnonzero(places[1:] != places[:-1]) + 1
        if 4 * len(starts) > len(places) > self.counts.size:  # many short runs and few classes
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
        """Adds counts of pairs: int arrays of the same length; predictions that are not a class are `num_classes`."""
        np.add.at(self.counts, (labels, predictions), counts)

    def iou(self) -> np.ndarray:
        """The intersection over union per class, `(C,)` float64; NaN for classes without ground-truth pixels."""
        correct = np.diagonal(self.counts).astype(np.float64)
        truth = self.counts.sum(axis=1)
        union = truth + self.counts[:, :-1].sum(axis=0) - correct
        return np.where(truth > 0, correct / np.maximum(union, 1), np.nan)

    def accuracy(self) -> np.ndarray:
        """The share of correct ground-truth pixels per class, `(C,)` float64; NaN for classes without such pixels."""
        truth = self.counts.sum(axis=1)
        return np.where(truth > 0, np.diagonal(self.counts) / np.maximum(truth, 1), np.nan)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """The mean IoU over the classes (or over `classes`) that have ground-truth pixels, between 0 and 1."""
        return _mean(self.iou(), classes)

    def mean_iou_mmseg(self) -> float:
        """The mean IoU as mmseg and `evaluate` compute it, between 0 and 1.

        Classes without ground-truth pixels that are predicted somewhere count, with an IoU of 0.
        """
        predicted = self.counts[:, :-1].sum(axis=0)
        iou = self.iou()
        return _mean(np.where(np.isnan(iou) & (predicted > 0), 0.0, iou))

    def mean_accuracy(self) -> float:
        """The mean accuracy over the classes that have ground-truth pixels, between 0 and 1."""
        return _mean(self.accuracy())

    def pixel_accuracy(self) -> float:
        """The share of labeled pixels that are correct."""
        return float(np.diagonal(self.counts).sum() / max(self.counts.sum(), 1))

    def frequency_weighted_iou(self) -> float:
        """The mean IoU over the classes, weighted by their ground-truth pixels, between 0 and 1."""
        truth = self.counts.sum(axis=1)
        return float(np.nansum(truth * self.iou()) / truth.sum()) if truth.any() else float("nan")

    def scores(self) -> dict[str, float]:
        """The mean IoUs, mean accuracy, overall accuracy and frequency-weighted IoU; NaN if no pixel is labeled."""
        labeled = bool(self.counts.any())
        return {
            "mean_iou": self.mean_iou(),
            "mean_iou_mmseg": self.mean_iou_mmseg(),
            "mean_accuracy": self.mean_accuracy(),
            "overall_accuracy": self.pixel_accuracy() if labeled else float("nan"),
            "frequency_weighted_iou": self.frequency_weighted_iou(),
        }


def _clamped(values: np.ndarray, num_classes: int) -> np.ndarray:
    """Converts labels to uint32; values outside 0 .. C-1 become C (`num_classes`)."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.itemsize < 4:
        values = values.astype(np.int32)
    unsigned = np.uint64 if values.dtype.itemsize == 8 else np.uint32
    # as unsigned integers, negative numbers are also out of range
    return np.minimum(values.view(unsigned), unsigned(num_classes)).astype(np.uint32, copy=False)


def _mean(values: np.ndarray, classes: Sequence[int] | None = None) -> float:
    chosen = values if classes is None else values[list(classes)]
    return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")


@dataclasses.dataclass(frozen=True)
class ImageCounts:
    """The nonzero entries of the confusion matrix of one image.

    Attributes:
        index: Number of the row in the data set.
        labels, predictions, counts: int64, one entry for each pair (label, prediction) that occurs.
        skipped: Reason why the row could not be read; the arrays are then empty. `None` for a readable row.
    """

    index: int
    labels: np.ndarray
    predictions: np.ndarray
    counts: np.ndarray
    skipped: str | None = None

    @classmethod
    def of(cls, index: int, predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> "ImageCounts":
        """Counts the pairs (label, prediction) of a prediction and a label map of the same shape."""
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
    baseline: Sequence[ImageCounts] | None = None,
) -> dict[str, tuple[float, float]]:
    """Computes bootstrap percentile intervals of mean IoUs: the images are resampled with replacement.

    Args:
        images: Counts of each image.
        num_classes: Number of classes C.
        groups: Classes of each mean, by name of the group.
        num_resamples: Number of resamples.
        confidence: Share of the resampled means inside the interval, between 0 and 1.
        seed: Seed of the resampling.
        baseline: Counts of the same images in the same order with other predictions. The intervals are then those of
            the gain over them, and each resample takes the same images from both.

    Returns:
        (low, high) for each group; NaN if no class of the group has a pixel.

    Raises:
        ValueError: If the baseline is of other images.
    """
    means = _resampled_means(images, num_classes, groups, num_resamples, seed)
    if baseline is not None:
        if [image.index for image in images] != [image.index for image in baseline]:
            raise ValueError("The baseline is of other images; expected the same images in the same order.")
        before = _resampled_means(baseline, num_classes, groups, num_resamples, seed)
        means = {name: values - before[name] for name, values in means.items()}
    edges = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals = {}
    for name, values in means.items():
        values = values[np.isfinite(values)]
        intervals[name] = tuple(np.quantile(values, edges).tolist()) if values.size else (float("nan"),) * 2
    return intervals


def _resampled_means(
    images: Sequence[ImageCounts], num_classes: int, groups: dict[str, Sequence[int]], num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Returns the mean IoU of each group in each resample, float64 `(num_resamples,)`."""
    # per image and class: correct, ground-truth and predicted pixels; float64 represents these integers exactly
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
        # R resamples, N images, C classes
        draws = rng.multinomial(len(images), probabilities, size=size).astype(np.float64)  # (R, N)
        drawn_truth, drawn_correct = draws @ truth, draws @ correct  # (R, C)
        union = drawn_truth + draws @ predicted[:, :-1] - drawn_correct
        iou = np.where(drawn_truth > 0, drawn_correct / np.maximum(union, 1), np.nan)
        for name, classes in groups.items():
            chosen = iou[:, list(classes)]
            found = np.isfinite(chosen)
            totals = np.where(found, chosen, 0).sum(axis=1)
            means[name].append(np.where(found.any(axis=1), totals / np.maximum(found.sum(axis=1), 1), np.nan))
    return {name: np.concatenate(chunks) if chunks else np.zeros(0) for name, chunks in means.items()}


__all__ = ["ConfusionMatrix", "ImageCounts", "bootstrap_intervals"]
