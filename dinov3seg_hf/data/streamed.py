# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images and label maps, row by row, from a data set that is streamed: each row has a number, whoever reads it."""

import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import torch

from ..compat import with_features
from ..model.checks import first_line
from ..model.vocabulary import Vocabulary
from .columns import Dataset
from .rows import RowError, SegmentationRows
from .segmentation import SegmentationDataset


@dataclass(frozen=True)
class StoredRow:
    """A row of a stream, not decoded.

    Attributes:
        index: Its number in the stream; of a stream in shards read one by one, its number in the shard times their
            number, plus that of the shard.
        name: What errors call it.
        values: What is stored.
    """

    index: int
    name: int | str
    values: dict[str, Any]


class StreamedSegmentationDataset(SegmentationRows, torch.utils.data.IterableDataset):
    """Rows of a streamed data set, in its order. With `skip_bad` bad rows are left out.

    `index` counts the rows of the stream (in training those of its shards, see `StoredRow`). Workers share the rows
    out between them; each reads the whole stream and decodes its part, so that a row has its number, and with it its
    augmentation, however many there are. Take few workers. There is no fingerprint: nobody has seen all of the data.
    """

    fingerprint = None

    def __init__(self, dataset: datasets.IterableDataset, vocabulary: Vocabulary, **options: Any):
        super().__init__(dataset, vocabulary, **options)
        self._num_skipped = torch.zeros((), dtype=torch.int64).share_memory_()

    def _checked(self, dataset: Any) -> datasets.IterableDataset:
        if not isinstance(dataset, datasets.IterableDataset):
            raise ValueError(
                f"Got {type(dataset).__name__}; expected a datasets.IterableDataset of one split. Open it with "
                "open_dataset(streaming=True), or use SegmentationDataset."
            )
        try:
            return with_features(dataset)
        except Exception as error:
            raise ValueError(
                f"The first rows of the stream cannot be read: {first_line(error)}. Look at its files, or say what "
                "its columns hold (`dataset.cast(features)`)."
            ) from error

    @property
    def num_skipped(self) -> int:
        """How often a row was skipped so far, by all workers of this process."""
        return int(self._num_skipped)

    def rows(
        self, first: int = 0, step: int = 1, without: Container[int] = ()
    ) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
        """Every `step`-th row from `first` on, without augmentation: its number, and its item or what is wrong with it.

        Args:
            first: The number of the first row.
            step: From a row to the next; greater than `first`.
            without: Numbers of rows that are left out, undecoded.
        """
        for row in self.stored_rows():
            if row.index % step != first or row.index in without:
                continue
            try:
                yield row.index, self._read(row)
            except RowError as error:
                yield row.index, error

    @property
    def num_shards(self) -> int:
        """How many files, as a rule, the stream is made of."""
        return self._rows.num_shards

    def stored_rows(self, shard: int | None = None) -> Iterator[StoredRow]:
        """All rows in the stream's order, or those of a shard; nothing is decoded."""
        num_shards, rows = self.num_shards, self._rows
        if shard is not None:
            rows = rows.shard(num_shards=num_shards, index=shard)
        # not iter(): in a worker of a data loader the library would share out shards, and numbers would be lost
        batches = rows.iter(batch_size=1)
        for number in itertools.count():
            try:
                batch = next(batches, None)
            except Exception as error:  # of files, of the network, of whatever was mapped over the stream
                where = number if shard is None else self.name_of(number * num_shards + shard)
                raise ValueError(
                    f"The stream cannot be read from row {where} on: {first_line(error)}. Look at its files and at the "
                    "connection; what was interrupted can be gone on with."
                ) from error
            if batch is None:
                return
            values = {key: column[0] for key, column in batch.items()}
            if shard is None:
                yield StoredRow(number, number, values)
            else:
                index = number * num_shards + shard
                yield StoredRow(index, self.name_of(index), values)

    def name_of(self, index: int) -> int | str:
        """What errors call the row of an item that was read shard by shard."""
        number, shard = divmod(index, self.num_shards)
        return index if self.num_shards == 1 else f"{number} of shard {shard}"

    def item(self, row: StoredRow) -> dict[str, Any]:
        """A row, augmented.

        Raises:
            RowError: It cannot be read; also counted in `num_skipped`.
        """
        try:
            item = self._read(row)
        except RowError:
            self._num_skipped += 1
            raise
        return self.augmented(item, row.index)

    def _read(self, row: StoredRow) -> dict[str, Any]:
        image, labels = self._reader.read(row.values, row.name)
        return {"image": image, "labels": labels, "index": row.index}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for row in self.stored_rows():
            if row.index % step != first:
                continue
            try:
                yield self.item(row)
            except RowError:
                if not self.skip_bad:
                    raise


def segmentation_dataset(
    dataset: Dataset, vocabulary: Vocabulary, **options: Any
) -> SegmentationDataset | StreamedSegmentationDataset:
    """The one of the two that the data set needs; arguments as for `SegmentationDataset`."""
    streamed = isinstance(dataset, datasets.IterableDataset)
    return (StreamedSegmentationDataset if streamed else SegmentationDataset)(dataset, vocabulary, **options)
