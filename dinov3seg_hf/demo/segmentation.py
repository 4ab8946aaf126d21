# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A segmentation as the demo keeps it: before any threshold, so that the page may change that without the model."""

from dataclasses import dataclass, field

import numpy as np

from ..model.inference_settings import Head, Inference
from ..model.vocabulary import Vocabulary
from ..visualization.pictures import Region, regions_of
from .photos import Photo

# Scores are kept in steps of a hundredth, as fine as the page's threshold.
NUM_LEVELS = 101

LEVELS = np.arange(NUM_LEVELS, dtype=np.float32) / np.float32(100)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What the model says of every pixel of a photo, before any threshold.

    Attributes:
        key: Of everything that it was made of.
        photo, vocabulary, inference, head: What was asked.
        shown_labels: int16 or int32, the winning label of every pixel of `photo.shown`.
        shown_levels: uint8, its score in hundredths, rounded down.
        counts, sums: `(C, 101)`, pixels of `photo.image` that a label wins at each level, and the sum of their scores.
        scores: uint8 `(C, h, w)`, every label's score times 255, at the resolution of the model.
        seconds: What took how long: "read", "image", "text", "segment". Those that were remembered are missing.
        num_new_words: How many classes were encoded for it.
    """

    key: str
    photo: Photo
    vocabulary: Vocabulary
    inference: Inference
    head: Head
    shown_labels: np.ndarray
    shown_levels: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    scores: np.ndarray
    seconds: dict[str, float] = field(default_factory=dict)
    num_new_words: int = 0

    @property
    def num_bytes(self) -> int:
        """With the photo, which lives as long as this does."""
        arrays = (self.shown_labels, self.shown_levels, self.counts, self.sums, self.scores)
        return sum(array.nbytes for array in arrays) + self.photo.num_bytes

    def label_map(self, threshold: float = 0.0, *, shown: bool = False) -> np.ndarray:
        """The label of every pixel, -1 where its score is lower than a threshold.

        Args:
            threshold: In hundredths.
            shown: At the size that the page shows, instead of the image's own.

        Returns:
            int32 `(H, W)`.

        Raises:
            ValueError: A threshold outside of 0 to 1.
        """
        labels, levels = self.shown_labels, self.shown_levels
        if not shown:  # the middle of odd blocks is where the image's own pixels lie
            middle = slice(self.photo.factor // 2, None, self.photo.factor)
            labels, levels = labels[middle, middle], levels[middle, middle]
        return np.where(levels < level_of(threshold), -1, labels).astype(np.int32)

    def regions(self, threshold: float = 0.0) -> list[Region]:
        """The labels found, the largest first, with area and mean score; "none of these" last."""
        first = level_of(threshold)
        counts, sums = self.counts[:, first:].sum(axis=1), self.sums[:, first:].sum(axis=1)
        scores = {self.vocabulary.names[i]: float(sums[i] / counts[i]) for i in np.flatnonzero(counts).tolist()}
        return regions_of(self.label_map(threshold), self.vocabulary.names, scores)


def level_of(threshold: float) -> int:
    """A threshold in whole hundredths.

    Raises:
        ValueError: It is no number between 0 and 1.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold!r}; expected a number between 0 and 1.")
    return round(100 * threshold)
