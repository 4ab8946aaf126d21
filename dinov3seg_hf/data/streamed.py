# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads images and label maps from a streamed data set, row by row.

The number of a row does not depend on the process or worker that reads the row.
"""

import hashlib
import itertools
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch

from ..compat import with_features
from ..model.checks import checked_integer, first_line, quoted
from ..model.vocabulary import Vocabulary
from .columns import Dataset
from .rows import RowError, SegmentationRows
from .segmentation import SegmentationDataset, digest_of

# Rows at the beginning of a stream that tell it from others.
NUM_HASHED_ROWS = 8


@dataclass(frozen=True)
class StoredRow:
    """A row of a stream, not decoded.

    Attributes:
        index: Number of the row in the stream. If shards are read separately: the number of the row in its shard, times
            the number of shards, plus the number of the shard.
        name: Name of the row in error messages.
        values: Stored values of the columns.
    """

    index: int
    name: int | str
    values: dict[str, Any]


class StreamedSegmentationDataset(SegmentationRows, torch.utils.data.IterableDataset):
    """Rows of a streamed data set, in order. With `skip_bad`, bad rows are skipped.

    `index` counts the rows of the stream (in training, the rows of its shards; see `StoredRow`). Each worker reads the
    whole stream and decodes its share of the rows, so the index and the augmentation of a row do not depend on the
    number of workers. Use few workers. The fingerprint is `None`, because the data is not read in full beforehand.
    """

    fingerprint = None

    def __init__(self, dataset: datasets.IterableDataset, vocabulary: Vocabulary, **options: Any):
        super().__init__(dataset, vocabulary, **options)
        self.num_rows: int | None = None  # known after `rows` has reached the end
        self._num_skipped = torch.zeros((), dtype=torch.int64).share_memory_()

    def _checked(self, dataset: Any) -> datasets.IterableDataset:
        if not isinstance(dataset, datasets.IterableDataset):
            raise ValueError(
                f"The data set is a {type(dataset).__name__}; expected a datasets.IterableDataset of one split. Open "
                "the split with open_dataset(streaming=True), or use SegmentationDataset."
            )
        try:
            return with_features(dataset)
        except Exception as error:
            raise ValueError(
                f"The first rows of the stream cannot be read: {first_line(error)}. Check the files of the stream, or "
                "set its features (`dataset.cast(features)`)."
            ) from error

    @property
    def num_skipped(self) -> int:
        """The number of failed reads so far, in all workers of this process; a row counts once per read."""
        return int(self._num_skipped)

    def rows(
        self, first: int = 0, step: int = 1, without: Container[int] = ()
    ) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
        """Yields every `step`-th row from `first` on, without augmentation: its number, and its item or error.

        Args:
            first: Number of the first row.
            step: Distance between two rows; greater than `first`.
            without: Numbers of rows that are skipped and not decoded.

        Raises:
            ValueError: If a number is out of range, or the stream cannot be read.
        """
        if checked_integer(first, "first", least=0) >= checked_integer(step, "step", least=1):
            raise ValueError(f"first is {first} and step is {step}; expected a step greater than the first row.")
        if not isinstance(without, Container) or isinstance(without, (str, bytes)):
            raise ValueError(f"without is {quoted(without)}; expected numbers of rows. Pass a set of them.")
        num_rows = 0
        for row in self.stored_rows():
            num_rows += 1
            if row.index % step != first or row.index in without:
                continue
            try:
                yield row.index, self._read(row)
            except RowError as error:
                yield row.index, error
        self.num_rows = num_rows

    def fingerprint_of_start(self) -> str:
        """The SHA-256 (hex) of the first rows as they are stored: tells streams apart that are not read in full."""
        digest = hashlib.sha256()
        for row in itertools.islice(self.stored_rows(), NUM_HASHED_ROWS):
            for value in row.values.values():
                place = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else None
                is_remote = place is not None and not Path(place).is_file()
                digest.update(str(place).encode() if is_remote else digest_of(value))
        return digest.hexdigest()

    @property
    def num_shards(self) -> int:
        """The number of shards of the stream, usually its number of files."""
        return self._rows.num_shards

    def stored_rows(self, shard: int | None = None) -> Iterator[StoredRow]:
        """Yields all rows in the order of the stream, or only the rows of a shard, without decoding."""
        num_shards, rows = self.num_shards, self._rows
        if shard is not None:
            rows = rows.shard(num_shards=num_shards, index=shard)

        def index_of(number: int) -> int:
            return number if shard is None else number * num_shards + shard

        def name_of(number: int) -> int | str:
            return number if shard is None else self.name_of(index_of(number))

        for number, values in enumerate(read_stream(rows, name_of)):
            yield StoredRow(index_of(number), name_of(number), values)

    def name_of(self, index: int) -> int | str:
        """The name, in error messages, of a row that was read shard by shard."""
        number, shard = divmod(index, self.num_shards)
        return index if self.num_shards == 1 else f"{number} of shard {shard}"

    def item(self, row: StoredRow) -> dict[str, Any]:
        """The augmented row.

        Raises:
            RowError: If the row cannot be read; `num_skipped` counts such rows too.
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


def read_stream(
    rows: datasets.IterableDataset, name_of: Callable[[int], int | str] = lambda number: number
) -> Iterator[dict[str, Any]]:
    """Yields the stored values of a stream row by row, in a data loader worker too.

    Args:
        rows: The stream.
        name_of: The name, in error messages, of the row with a number.

    Raises:
        ValueError: If the files, the network or a function mapped over the stream fails.
    """
    # not iter(): in a data loader worker, the library would distribute the shards, and row numbers would be wrong
    batches = rows.iter(batch_size=1)
    for number in itertools.count():
        try:
            batch = next(batches, None)
        except Exception as error:  # errors of files, of the network, of functions mapped over the stream
            raise ValueError(
                f"The stream cannot be read from row {name_of(number)} on: {first_line(error)}. Check the files of the "
                "stream and the connection, then resume the interrupted run."
            ) from error
        if batch is None:
            return
        yield {key: column[0] for key, column in batch.items()}


def segmentation_dataset(
    dataset: Dataset, vocabulary: Vocabulary, **options: Any
) -> SegmentationDataset | StreamedSegmentationDataset:
    """Creates the class that fits the data set, stored or streamed; see `SegmentationRows` for the arguments."""
    streamed = isinstance(dataset, datasets.IterableDataset)
    return (StreamedSegmentationDataset if streamed else SegmentationDataset)(dataset, vocabulary, **options)
