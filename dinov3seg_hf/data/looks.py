# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Looks at some rows of a data set before work on all of them begins."""

import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..model.checks import MaskWarning
from ..model.vocabulary import Vocabulary
from .rows import RowError
from .segmentation import SegmentationDataset
from .streamed import StreamedSegmentationDataset

# Number of rows to read: spread over the data set, or the first rows of a stream.
NUM_LOOKS = 32


def spread_rows(data: SegmentationDataset) -> list[int]:
    """The numbers of at most `NUM_LOOKS` rows, spread over the data set."""
    return sorted({index * len(data) // NUM_LOOKS for index in range(NUM_LOOKS)} if len(data) else ())


def warn_of_a_single_class(data: SegmentationDataset | StreamedSegmentationDataset) -> None:
    """Warns if the masks of some rows show a single class or none: a run on them learns nothing.

    Black and white masks with the values 0 and 255 are common, and 255 is the usual ignore label. Values that are no
    raw id are ignored, too. Reads rows only until a second class appears.
    """
    if isinstance(data, SegmentationDataset):
        rows: Iterable[Any] = (data.read(row) for row in spread_rows(data))
    else:
        rows = (item for _, item in itertools.islice(data.rows(), NUM_LOOKS) if not isinstance(item, RowError))
    found, num_rows, is_ignored = set(), 0, False
    try:
        for row in rows:
            labels = row["labels"]
            found.update(np.unique(labels[labels >= 0]).tolist())
            num_rows, is_ignored = num_rows + 1, is_ignored or bool((labels < 0).any())
            if len(found) > 1:
                return
    except RowError:  # either the row is skipped, or the work on all rows will name it
        return
    if (seen := _what_masks_show(data.vocabulary, found, is_ignored)) is not None and num_rows:
        warnings.warn(f"In {num_rows} rows of the data, the masks show {seen}", MaskWarning, stacklevel=2)


def _what_masks_show(vocabulary: Vocabulary, found: set[int], is_ignored: bool) -> str | None:
    """What masks with at most one class show, and the remedy; `None` if the vocabulary has no other class."""
    raw = "" if vocabulary.raw_ids is None else " Values of the masks that are no raw_id of a class are ignored."
    if not found:
        return (
            f"no class at all, only ignored pixels (value {vocabulary.ignore_label}).{raw} Check the mask column and "
            "the class names."
        )
    name = vocabulary.scored_names[min(found)]
    if is_ignored:
        return (
            f"no class but {name!r}, and ignored pixels (value {vocabulary.ignore_label}).{raw} If "
            f"{vocabulary.ignore_label} is a class, as in black and white masks, list the values of the masks in the "
            "column raw_id of a .tsv file with the class names."
        )
    if len(vocabulary.scored_names) > 1:
        return f"no class but {name!r}. Check the mask column and the masks."
    return None
