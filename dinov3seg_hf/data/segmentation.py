# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images and label maps, row by row, from a data set that is stored: what training and evaluation read."""

import hashlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..model.vocabulary import Vocabulary
from .rows import RowError, SegmentationRows


class SegmentationDataset(SegmentationRows, torch.utils.data.Dataset):
    """Rows that are stored, in any order. With `skip_bad` the next good row takes the place of a bad one."""

    def __init__(self, dataset: datasets.Dataset, vocabulary: Vocabulary, **options: Any):
        super().__init__(dataset, vocabulary, **options)
        self._bad = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        self._fingerprint: str | None = None

    def _checked(self, dataset: Any) -> datasets.Dataset:
        if not isinstance(dataset, datasets.Dataset):
            raise ValueError(
                f"Got {type(dataset).__name__}; expected a datasets.Dataset of one split. Open it with open_dataset; "
                "streamed ones are for StreamedSegmentationDataset."
            )
        if len(dataset) == 0:
            raise ValueError("The data set has no rows. Choose another split.")
        return dataset

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_skipped(self) -> int:
        """How many rows were found bad so far, by all workers of this process."""
        return int(self._bad.sum())

    def read(self, index: int) -> dict[str, Any]:
        """A row as it is, without augmentation or skips.

        Raises:
            RowError: It cannot be read; also counted in `num_skipped`.
        """
        try:
            image, labels = self._reader.read(self._rows[index], index)
        except RowError:
            self._bad[index] = True
            raise
        return {"image": image, "labels": labels, "index": index}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Row {index} of {len(self)}.")
        index = int(index) % len(self)
        for step in range(len(self)):
            try:
                # another row in its place is augmented as the one that was asked for
                return self.augmented(self.read((index + step) % len(self)), index)
            except RowError:
                if not self.skip_bad:
                    raise
        raise RowError(f"None of the {len(self)} rows can be read. Check the columns and the vocabulary.")

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the stored images and masks, row by row: the same data, wherever it lies.

        Reads everything once (about a second a gigabyte, and what the disk takes): call it in one process.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            slow = len(self) > 5000
            for row in tqdm(self._rows, desc="Hashing the data", unit="row", disable=not slow):
                for value in row.values():
                    digest.update(_digest(value))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _digest(value: Any) -> bytes:
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
