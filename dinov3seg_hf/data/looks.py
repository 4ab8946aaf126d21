# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Looks at some rows of a data set before work on all of them begins."""

import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..model.checks import MaskWarning
from .rows import RowError
from .segmentation import SegmentationDataset
from .streamed import StreamedSegmentationDataset

# Number of rows to read: spread over the data set, or the first rows of a stream.
NUM_LOOKS = 32


def spread_rows(data: SegmentationDataset) -> list[int]:
    """The numbers of at most `NUM_LOOKS` rows, spread over the data set."""
    return sorted({index * len(data) // NUM_LOOKS for index in range(NUM_LOOKS)} if len(data) else ())


def warn_of_a_single_class(data: SegmentationDataset | StreamedSegmentationDataset) -> None:
    """Warns if the masks of some rows show a single class and ignored pixels: often 255 is the other class.

    Black and white masks with the values 0 and 255 are common, and 255 is the usual ignore label; a run on them learns
    nothing, and a score on them says nothing. Reads rows only until a second class appears.
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
    if found and is_ignored:
        vocabulary = data.vocabulary
        warnings.warn(
            f"In {num_rows} rows of the data, the masks show no class but {vocabulary.scored_names[found.pop()]!r}, "
            f"and ignored pixels (value {vocabulary.ignore_label}). If {vocabulary.ignore_label} is a class, as in "
            "black and white masks, list the values of the masks in the column raw_id of a .tsv file with the class "
            "names.",
            MaskWarning,
            stacklevel=2,
        )
