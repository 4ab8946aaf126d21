# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Prepares rows of a data set for the model: this process's share of the rows that are not yet scored, in batches."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.rows import RowError
from ..data.segmentation import SegmentationDataset
from ..data.streamed import StreamedSegmentationDataset
from ..distributed import Processes
from ..model.image_stages import EncodedImage, PreparedImage
from ..model.inference_settings import InferenceSettings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.workers import end_with_parent


@dataclass(frozen=True)
class PreparedRow:
    """A row that is prepared for scoring.

    Attributes:
        index: Number of the row in the data set.
        image: Prepared or encoded image for the pipeline.
        labels: Label map, int64 `(H, W)`; ignored pixels are -1.
    """

    index: int
    image: PreparedImage | EncodedImage
    labels: np.ndarray


@dataclass(frozen=True)
class UnreadableRow:
    """A row that cannot be read.

    Attributes:
        index: Number of the row in the data set.
        problem: Reason why the row cannot be read.
    """

    index: int
    problem: str


def prepared_batches(
    pipe: OpenVocabularySegmentationPipeline,
    data: SegmentationDataset | StreamedSegmentationDataset,
    settings: InferenceSettings,
    batch_size: int,
    num_workers: int,
    processes: Processes,
    done: Container[int],
) -> tuple[Iterator[list[PreparedRow | UnreadableRow]], int | None]:
    """The batches of rows of this process, and their total number of rows (`None` for a stream: unknown).

    Args:
        pipe: Pipeline that prepares the images.
        data: The rows. If its `skip_bad` is not set, a row that cannot be read raises an error.
        settings: Inference settings.
        batch_size: Number of rows per batch.
        num_workers: Number of processes that read rows (stored data sets only).
        processes: The processes that share the rows.
        done: Numbers of the rows that are already scored.

    Raises:
        RowError: If a row cannot be read, during the iteration.
    """
    prepare = partial(_prepare, pipe, settings)
    if isinstance(data, StreamedSegmentationDataset):
        return _in_batches(map(prepare, _share_of_stream(data, processes, done)), batch_size), None
    share = [index for index in range(len(data)) if index not in done][processes.rank :: processes.count]
    loader = DataLoader(
        _Share(data, share, prepare),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
        worker_init_fn=end_with_parent,
        generator=torch.Generator(),  # the default generator is torch's global one, which training also uses
    )
    return _readable(loader, data.skip_bad), len(share)


def _readable(
    batches: Iterable[list[PreparedRow | UnreadableRow]], skip_bad: bool
) -> Iterator[list[PreparedRow | UnreadableRow]]:
    """Raises the error of a bad row here: from a worker, its message would begin with a traceback."""
    for batch in batches:
        bad = next((row for row in batch if isinstance(row, UnreadableRow)), None)
        if bad is not None and not skip_bad:
            raise RowError(bad.problem)
        yield batch


def _prepare(
    pipe: OpenVocabularySegmentationPipeline, settings: InferenceSettings, item: dict[str, Any] | UnreadableRow
) -> PreparedRow | UnreadableRow:
    if isinstance(item, UnreadableRow):
        return item
    return PreparedRow(item["index"], pipe.prepare(item["image"], settings), item["labels"])


class _Share(torch.utils.data.Dataset):
    """A subset of the rows of a stored data set."""

    def __init__(self, data: SegmentationDataset, indices: list[int], prepare: Any):
        self.data, self.indices, self.prepare = data, indices, prepare

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> PreparedRow | UnreadableRow:
        index = self.indices[place]
        try:
            item: dict[str, Any] | UnreadableRow = self.data.read(index)
        except RowError as error:
            item = UnreadableRow(index, str(error))
        return self.prepare(item)


def _share_of_stream(
    data: StreamedSegmentationDataset, processes: Processes, done: Container[int]
) -> Iterator[dict[str, Any] | UnreadableRow]:
    for index, item in data.rows(processes.rank, processes.count, without=done):
        if isinstance(item, RowError):
            if not data.skip_bad:
                raise item
            yield UnreadableRow(index, str(item))
        else:
            yield item


def _in_batches(rows: Iterable[PreparedRow | UnreadableRow], size: int) -> Iterator[list[PreparedRow | UnreadableRow]]:
    batch: list[PreparedRow | UnreadableRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
