# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Which rows of a streamed data set make a step: a function of the seed, the epoch and the stream, and of nothing else.

Processes and workers each read the whole stream, hold its rows as they are stored, and decode those alone that they
were given. So who reads what never changes what a step sees, and a run that goes on repeats the uninterrupted one.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from ..data.rows import RowError
from ..data.streamed import StoredRow, StreamedSegmentationDataset

T = TypeVar("T")


class TrainingStream(torch.utils.data.IterableDataset):
    """The items of one process, epoch by epoch: shards in random order, rows shuffled among `shuffle_buffer` of them.

    A `DataLoader` with `batch_size` equal to `images_at_once` makes the batches of a process, with any number of
    workers. What does not fill a last step is left out.

    Args:
        data: The stream, with its augmentation: a whole split. Of one in several shards, `take` and `skip` of
            `datasets` take and skip in every shard.
        batch_size: Images a step, over all processes and accumulated batches.
        accumulation: Batches that a process cuts its part of a step into.
        shuffle_buffer: How many rows are held for it, as they are stored, by each worker; 1 for the stream's order.
        process_index, num_processes: Whose part this is.
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
        """Where the next iteration begins; the steps before are read and not decoded."""
        self._epoch, self._first_step = epoch, first_step
        self.data.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        worker_index, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, rows in enumerate(self._steps()):
            if number < self._first_step:
                continue
            for part in range(self.accumulation):
                # a data loader takes the batches of its workers in turn
                batch = (number - self._first_step) * self.accumulation + part
                if batch % num_workers != worker_index:
                    continue
                first = (part * self.num_processes + self.process_index) * self.images_at_once
                for place in range(first, first + self.images_at_once):
                    yield self._item(rows, place)

    def _steps(self) -> Iterator[list[StoredRow]]:
        """The rows of each whole step."""
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
        """A row of a step; for a bad one, where that is asked for, the next good one of the same step."""
        for candidate in (*rows[place:], *rows[:place]):
            try:
                return self.data.item(candidate)
            except RowError:
                if not self.data.skip_bad:
                    raise
        raise RowError(f"None of the {len(rows)} rows of a step can be read. Check the columns and the vocabulary.")


def shuffle(values: Iterable[T], buffer_size: int, rng: np.random.Generator) -> Iterator[T]:
    """The values in random order, as far as that can be with `buffer_size` of them in memory; 1 keeps the order."""
    buffer: list[T] = []
    for value in values:
        if len(buffer) < buffer_size:
            buffer.append(value)
        else:
            place = int(rng.integers(buffer_size))
            yield buffer[place]
            buffer[place] = value
    yield from (buffer[place] for place in rng.permutation(len(buffer)))
