# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Scores of label maps. Integers only until the end: one confusion matrix, whatever the number of images."""

from collections.abc import Sequence

import numpy as np


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
        """Adds label maps of equal shape.

        Raises:
            ValueError: If the shapes differ: nothing is resized here.
        """
        if predictions.shape != labels.shape:
            raise ValueError(
                f"The prediction has shape {predictions.shape}, the label map {labels.shape}; resize the prediction "
                "to the label map first."
            )
        predictions, labels = predictions.astype(np.int64).ravel(), labels.astype(np.int64).ravel()
        valid = (labels >= 0) & (labels < self.num_classes)
        predictions, labels = predictions[valid], labels[valid]
        predictions = np.where((predictions >= 0) & (predictions < self.num_classes), predictions, self.num_classes)
        counts = np.bincount(labels * (self.num_classes + 1) + predictions, minlength=self.counts.size)
        self.counts += counts.reshape(self.counts.shape)

    def iou(self) -> np.ndarray:
        """Intersection over union a class, `(C,)` float64; NaN for a class without a ground-truth pixel."""
        correct = np.diagonal(self.counts).astype(np.float64)
        truth = self.counts.sum(axis=1)
        union = truth + self.counts[:, :-1].sum(axis=0) - correct
        return np.where(truth > 0, correct / np.maximum(union, 1), np.nan)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Mean over the classes that have a ground-truth pixel (of `classes`, if given), between 0 and 1."""
        iou = self.iou() if classes is None else self.iou()[list(classes)]
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right."""
        return float(np.diagonal(self.counts).sum() / max(self.counts.sum(), 1))
