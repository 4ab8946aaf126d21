# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The stored form of a segmentation. It is independent of the threshold, so a new threshold does not need the model."""

from dataclasses import dataclass, field

import numpy as np

from ..model.inference_settings import Head, Inference, Refine
from ..model.vocabulary import Vocabulary
from ..visualization.pictures import Region, regions_of
from .photos import Photo

# Scores are stored in steps of 0.01, like the threshold of the page.
NUM_LEVELS = 101

LEVELS = np.arange(NUM_LEVELS, dtype=np.float32) / np.float32(100)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result of the model for every pixel of a photo, before any threshold.

    Attributes:
        key: The hash of everything that the segmentation depends on.
        photo, vocabulary, inference, head, refine: The inputs of the segmentation.
        shown_labels: The winning label of each pixel of `photo.shown`, int16 or int32 `(height, width)`.
        shown_levels: The score of the winning label in hundredths, rounded down, uint8 `(height, width)`.
        counts, sums: For each label and each score in hundredths, the number of pixels of `photo.image` that the label
            wins with this score, and the sum of their scores, `(C, 101)`.
        scores: The score of each label, multiplied by 255, at the resolution of the model, uint8 `(C, h, w)`.
        seconds: The duration of each step: "read", "image", "text", "segment". "image" is missing if the features were
            stored or the inference is "slide". Empty if the whole segmentation was stored.
        num_new_words: The number of classes that were encoded for this segmentation.
    """

    key: str
    photo: Photo
    vocabulary: Vocabulary
    inference: Inference
    head: Head
    refine: Refine
    shown_labels: np.ndarray
    shown_levels: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    scores: np.ndarray
    seconds: dict[str, float] = field(default_factory=dict)
    num_new_words: int = 0

    @property
    def num_bytes(self) -> int:
        """The size in bytes, including the photo, which stays in memory as long as the segmentation."""
        arrays = (self.shown_labels, self.shown_levels, self.counts, self.sums, self.scores)
        return sum(array.nbytes for array in arrays) + self.photo.num_bytes

    def label_map(self, threshold: float = 0.0, *, shown: bool = False) -> np.ndarray:
        """Returns the label of each pixel, -1 for pixels whose score is lower than the threshold.

        Args:
            threshold: Minimum score, in [0, 1]. Rounded to hundredths.
            shown: Whether to return the labels of `photo.shown` instead of `photo.image`.

        Returns:
            int32 `(H, W)`.

        Raises:
            ValueError: If `threshold` is not between 0 and 1.
        """
        labels, levels = self.shown_labels, self.shown_levels
        if not shown:  # the pixels of the image are the centers of odd blocks
            middle = slice(self.photo.factor // 2, None, self.photo.factor)
            labels, levels = labels[middle, middle], levels[middle, middle]
        return np.where(levels < level_of(threshold), -1, labels).astype(np.int32)

    def regions(self, threshold: float = 0.0) -> list[Region]:
        """Returns the labels found, the largest first, with area and mean score; "none of these" is last."""
        first = level_of(threshold)
        counts, sums = self.counts[:, first:].sum(axis=1), self.sums[:, first:].sum(axis=1)
        scores = {self.vocabulary.names[i]: float(sums[i] / counts[i]) for i in np.flatnonzero(counts).tolist()}
        return regions_of(self.label_map(threshold), self.vocabulary.names, scores)


def level_of(threshold: float) -> int:
    """Returns a threshold in hundredths, rounded to an integer.

    Raises:
        ValueError: If `threshold` is not a number between 0 and 1.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold!r}; expected a number between 0 and 1.")
    return round(100 * threshold)
