# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads images and label maps from a stored data set, row by row, for training and evaluation."""

import hashlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..model.checks import checked_integer
from ..model.vocabulary import Vocabulary
from .rows import RowError, SegmentationRows


class SegmentationDataset(SegmentationRows, torch.utils.data.Dataset):
    """Rows of a stored data set, in any order. With `skip_bad`, the next readable row replaces a bad row."""

    def __init__(self, dataset: datasets.Dataset, vocabulary: Vocabulary, **options: Any):
        super().__init__(dataset, vocabulary, **options)
        self._bad = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        self._fingerprint: str | None = None

    def _checked(self, dataset: Any) -> datasets.Dataset:
        if not isinstance(dataset, datasets.Dataset):
            raise ValueError(
                f"The data set is a {type(dataset).__name__}; expected a datasets.Dataset of one split. Open the split "
                "with open_dataset, or use StreamedSegmentationDataset for a streamed data set."
            )
        if len(dataset) == 0:
            raise ValueError("The data set is empty; expected at least one row. Choose another split.")
        return dataset

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_skipped(self) -> int:
        """The number of rows that could not be read so far, in all workers of this process."""
        return int(self._bad.sum())

    def read(self, index: int) -> dict[str, Any]:
        """Reads a row without augmentation. Bad rows are not skipped.

        Raises:
            RowError: If the row cannot be read; `num_skipped` counts such rows too.
        """
        try:
            image, labels = self._reader.read(self._rows[index], index)
        except RowError:
            self._bad[index] = True
            raise
        return {"image": image, "labels": labels, "index": index}

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = checked_integer(index, "index")
        if not -len(self) <= index < len(self):
            raise IndexError(f"index is {index}; expected {-len(self)} to {len(self) - 1}, the rows.")
        index = index % len(self)
        for step in range(len(self)):
            try:
                # a replacement row gets the augmentation of the requested row
                return self.augmented(self.read((index + step) % len(self)), index)
            except RowError:
                if not self.skip_bad:
                    raise
        raise RowError(f"All {len(self)} rows are unreadable. Check the columns and the vocabulary.")

    @property
    def fingerprint(self) -> str:
        """The SHA-256 (hex) of the stored images and masks, row by row. It does not depend on the storage location.

        The first access reads all data (about one second per gigabyte, plus the time of the disk). Access this property
        in one process only.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            slow = len(self) > 5000
            for row in tqdm(self._rows, desc="Hashing the data", unit="row", disable=not slow):
                for value in row.values():
                    digest.update(digest_of(value))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def digest_of(value: Any) -> bytes:
    """The SHA-256 of a stored image or mask: of the bytes of its file, or of its integers."""
    if isinstance(value, dict):
        stored = value.get("bytes")
        if stored is None:
            stored = Path(value["path"]).read_bytes() if value.get("path") else b""
    elif value is None:
        stored = b""
    else:
        array = np.asarray(value)
        stored = str(array.shape).encode() + np.ascontiguousarray(array, np.int64).tobytes()
    return hashlib.sha256(stored).digest()
