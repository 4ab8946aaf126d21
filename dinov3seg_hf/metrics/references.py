# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The options of `evaluate`'s mean_iou that change ground-truth label maps before they are compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

    Raises:
        ValueError: If a value is not an integer (in `label_map` also as text, as in JSON), or `reduce_labels` no bool.
    """

    label_map: Mapping[int, int] | None = None
    reduce_labels: bool = False
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        if self.label_map is not None:
            if not isinstance(self.label_map, Mapping):
                raise ValueError(
                    f"label_map is of type {type(self.label_map).__name__}; expected a mapping from old values to new "
                    "ones, such as {255: 0}."
                )
            changes = {_integer(old, "A value of label_map"): new for old, new in self.label_map.items()}
            changes = {old: _integer(new, f"The new value of {old} in label_map") for old, new in changes.items()}
            object.__setattr__(self, "label_map", changes)
        if not isinstance(self.reduce_labels, (bool, np.bool_)):
            raise ValueError(
                f"reduce_labels is of type {type(self.reduce_labels).__name__}; expected True or False. Pass a bool."
            )
        if self.ignore_index is not None:
            if isinstance(self.ignore_index, bool) or not isinstance(self.ignore_index, (int, np.integer)):
                raise ValueError(
                    f"ignore_index is of type {type(self.ignore_index).__name__}; expected an integer. Pass an int."
                )
            object.__setattr__(self, "ignore_index", _integer(self.ignore_index, "ignore_index"))

    def apply(self, references: np.ndarray) -> np.ndarray:
        """Returns the labels of ground-truth values, integers of any shape; ignored pixels become -1."""
        if not self.label_map and not self.reduce_labels and self.ignore_index is None:
            return references
        labels = references.astype(np.int64)
        for old, new in (self.label_map or {}).items():
            labels[references == old] = new
        if self.reduce_labels:
            labels = np.where((labels == 0) | (labels == REDUCED_IGNORE), -1, labels - 1)
        if self.ignore_index is not None:
            labels[labels == self.ignore_index] = -1
        return labels


def _integer(value: Any, what: str) -> int:
    number = None
    if isinstance(value, (int, float, str, np.number)) and not isinstance(value, bool):
        try:
            number = int(value)
        except (ValueError, OverflowError, TypeError):  # other text, NaN, infinity, a complex number
            pass
    if number is None or not (isinstance(value, str) or number == value) or not -(2**63) <= number < 2**63:
        shown = repr(value)
        raise ValueError(
            f"{what} is {shown if len(shown) <= 80 else f'{shown[:80]}...'} of type {type(value).__name__}; expected "
            "an integer of 64 bits. Pass an int."
        )
    return number


__all__ = ["ReferenceOptions"]
