# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The boundary F-score: how well the outlines of a label map follow those of the ground truth.

The mIoU hardly shows a rounded corner, because few pixels are involved; this score consists of outlines only (Csurka et
al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013).
"""

import math
from numbers import Real

import numpy as np

from .scoring import checked_pair

# The tolerance as a share of the image diagonal, as in the publication.
TOLERANCE = 0.0075


class BoundaryScore:
    """The mean boundary F-score over images.

    For each class in the ground truth of an image, precision is the share of the predicted outline that is near the
    true outline, and recall is the share of the true outline that is near the predicted one. The score of an image is
    the mean of their harmonic mean over these classes.

    Args:
        tolerance: Largest distance, in pixels, at which outlines count as near. Default: `TOLERANCE` times the diagonal
            of the image, at least 1.

    Raises:
        ValueError: If the tolerance is no distance.
    """

    def __init__(self, tolerance: float | None = None):
        if tolerance is not None and not (isinstance(tolerance, Real) and 0 <= tolerance < math.inf):
            raise ValueError(f"tolerance is {tolerance!r}; expected a distance in pixels of at least 0.")
        self.tolerance = tolerance
        self.scores: list[float] = []

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Adds an image.

        Args:
            prediction: Label map, integers `(H, W)`.
            truth: Label map, integers `(H, W)`; pixels with negative labels are left out, and so are images without
                any other pixel.

        Raises:
            ValueError: If the shapes differ, or a label map does not contain integers.
        """
        if np.shape(prediction) != np.shape(truth) or np.ndim(truth) != 2:
            raise ValueError(
                f"The prediction has shape {np.shape(prediction)} and the ground truth has shape {np.shape(truth)}; "
                "expected the same (height, width). Resize the prediction."
            )
        prediction, truth = checked_pair(prediction, truth)
        tolerance = max(1.0, TOLERANCE * math.hypot(*truth.shape)) if self.tolerance is None else self.tolerance
        prediction = np.where(truth < 0, -1, prediction)
        scores = []
        for label in np.unique(truth[truth >= 0]):
            predicted, true = outline(prediction == label), outline(truth == label)
            precision = share(predicted, widened(true, tolerance))
            recall = share(true, widened(predicted, tolerance))
            scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        if scores:
            self.scores.append(float(np.mean(scores)))

    def mean(self) -> float:
        """The mean over the images, between 0 and 1; NaN without an image."""
        return float(np.mean(self.scores)) if self.scores else math.nan


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask with a neighbor (of four) outside the mask; the border of the image is no outline.

    A mask that covers the image has no outline, so its border is taken instead.
    """
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    if mask.all():
        inner = np.zeros_like(mask)
        inner[1:-1, 1:-1] = True
    return mask & ~inner


def widened(outlines: np.ndarray, radius: float) -> np.ndarray:
    """The pixels whose distance to an outline is at most `radius`."""
    height, width = outlines.shape
    reach = int(radius)
    padded = np.pad(outlines, reach)
    near = np.zeros_like(outlines)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if down**2 + right**2 <= radius**2:
                near |= padded[reach + down : reach + down + height, reach + right : reach + right + width]
    return near


def share(pixels: np.ndarray, area: np.ndarray) -> float:
    """The share of `pixels` that lies in `area`; 0 if there are no pixels."""
    count = int(pixels.sum())
    return float((pixels & area).sum() / count) if count else 0.0
