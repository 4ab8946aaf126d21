# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The options of `evaluate`'s mean_iou that change ground-truth label maps before they are compared."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# The label that `reduce_labels` leaves out besides 0.
REDUCED_IGNORE = 255


@dataclass(frozen=True)
class ReferenceOptions:
    """How ground-truth values become labels, in the order of the arguments below.

    Args:
        label_map: New values of old values. All are replaced at once; others stay.
        reduce_labels: Whether 0 and 255 are ignored and all other values are reduced by 1, as in ADE20K.
        ignore_index: The value of pixels that are ignored, after the other two steps.
    """

    label_map: Mapping[int, int] | None = None
    reduce_labels: bool = False
    ignore_index: int | None = None

    def apply(self, references: np.ndarray) -> np.ndarray:
        """Returns the labels of ground-truth values, integers of any shape; ignored pixels become -1."""
        if not self.label_map and not self.reduce_labels and self.ignore_index is None:
            return references
        labels = references.astype(np.int64)
        for old, new in (self.label_map or {}).items():
            labels[references == int(old)] = int(new)
        if self.reduce_labels:
            labels = np.where((labels == 0) | (labels == REDUCED_IGNORE), -1, labels - 1)
        if self.ignore_index is not None:
            labels[labels == self.ignore_index] = -1
        return labels


__all__ = ["ReferenceOptions"]
