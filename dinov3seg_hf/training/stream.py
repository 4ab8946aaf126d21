# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Assigns the rows of a streamed data set to steps; this depends only on the seed, the epoch and the stream.

Every process and worker reads the whole stream, keeps the rows in their stored form and decodes only its share of the
rows. The number of processes and workers therefore does not change the content of a step, and a resumed run repeats
the uninterrupted run.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from ..data.rows import RowError
from ..data.streamed import StoredRow, StreamedSegmentationDataset

T = TypeVar("T")


class TrainingStream(torch.utils.data.IterableDataset):
    """The items of one process, epoch by epoch: random order of the shards, rows shuffled through `shuffle_buffer`.

    A `DataLoader` with `batch_size` equal to `images_at_once` makes the batches of a process, with any number of
    workers. Rows that do not fill a last step are left out.

    Args:
        data: The stream with its augmentation. Pass a whole split: on a stream with several shards, `take` and `skip`
            of `datasets` would apply to each shard separately.
        batch_size: Number of images per step, over all processes and accumulated batches.
        accumulation: Number of batches per step in each process.
        shuffle_buffer: Number of stored rows that each worker keeps in memory for shuffling; 1: the order of the
            stream.
        process_index, num_processes: The index of this process, and the number of processes.
    """

    def __init__(
        self,
        data: StreamedSegmentationDataset,
        batch_size: int,
        *,
        accumulation: int = 1,
        shuffle_buffer: int = 1000,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        self.data, self.batch_size, self.shuffle_buffer = data, batch_size, shuffle_buffer
        self.accumulation, self.process_index, self.num_processes = accumulation, process_index, num_processes
        self.images_at_once = batch_size // (accumulation * num_processes)
        self._epoch, self._first_step = 0, 0

    def set_position(self, epoch: int, first_step: int = 0) -> None:
        """Sets the start of the next iteration. The rows of earlier steps are read but not decoded."""
        self._epoch, self._first_step = epoch, first_step
        self.data.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        worker_index, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, rows in enumerate(self._steps()):
            if number < self._first_step:
                continue
            for part in range(self.accumulation):
                # a `DataLoader` takes batches from its workers in turn
                batch = (number - self._first_step) * self.accumulation + part
                if batch % num_workers != worker_index:
                    continue
                first = (part * self.num_processes + self.process_index) * self.images_at_once
                for place in range(first, first + self.images_at_once):
                    yield self._item(rows, place)

    def _steps(self) -> Iterator[list[StoredRow]]:
        """Yields the rows of each complete step."""
        rng = np.random.default_rng([self.data.seed, self._epoch])
        shuffled = self.shuffle_buffer > 1
        shards = rng.permutation(self.data.num_shards) if shuffled else range(self.data.num_shards)
        rows = (row for shard in shards for row in self.data.stored_rows(int(shard)))
        step = []
        for row in shuffle(rows, self.shuffle_buffer, rng):
            step.append(row)
            if len(step) == self.batch_size:
                yield step
                step = []

    def _item(self, rows: list[StoredRow], place: int) -> dict[str, Any]:
        """Reads one row of a step. With `skip_bad`, the next good row of the same step replaces a bad row."""
        for candidate in (*rows[place:], *rows[:place]):
            try:
                return self.data.item(candidate)
            except RowError:
                if not self.data.skip_bad:
                    raise
        raise RowError(f"All {len(rows)} rows of a step are unreadable. Check the columns and the vocabulary.")


def shuffle(values: Iterable[T], buffer_size: int, rng: np.random.Generator) -> Iterator[T]:
    """Shuffles values through a buffer of `buffer_size` values; 1 keeps the order."""
    buffer: list[T] = []
    for value in values:
        if len(buffer) < buffer_size:
            buffer.append(value)
        else:
            place = int(rng.integers(buffer_size))
            yield buffer[place]
            buffer[place] = value
    yield from (buffer[place] for place in rng.permutation(len(buffer)))
