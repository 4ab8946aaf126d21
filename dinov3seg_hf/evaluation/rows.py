# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Rows of a data set made ready for the model: this process's share of those that are not scored yet, in batches."""

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


@dataclass(frozen=True)
class PreparedRow:
    """A row, ready to be scored.

    Attributes:
        index: Its number in the data set.
        image: For the pipeline.
        labels: int64 `(H, W)`, ignored pixels -1.
    """

    index: int
    image: PreparedImage | EncodedImage
    labels: np.ndarray


@dataclass(frozen=True)
class UnreadableRow:
    """A row that cannot be read.

    Attributes:
        index: Its number in the data set.
        problem: What is wrong with it.
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
    """Batches of rows, and how many rows they are in all; `None` for a stream, which does not know.

    Args:
        pipe: Prepares images.
        data: The rows. Without its `skip_bad`, a row that cannot be read is an error.
        settings: How images will be segmented.
        batch_size: Rows at a time.
        num_workers: Processes that read rows that are stored.
        processes: Those that share out the rows.
        done: Rows that were scored before.

    Raises:
        RowError: While reading.
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
        generator=torch.Generator(),  # without one it draws from torch's own, and training would go on otherwise
    )
    return iter(loader), len(share)


def _prepare(
    pipe: OpenVocabularySegmentationPipeline, settings: InferenceSettings, item: dict[str, Any] | UnreadableRow
) -> PreparedRow | UnreadableRow:
    if isinstance(item, UnreadableRow):
        return item
    return PreparedRow(item["index"], pipe.prepare(item["image"], settings), item["labels"])


class _Share(torch.utils.data.Dataset):
    """Some rows of a data set that is stored."""

    def __init__(self, data: SegmentationDataset, indices: list[int], prepare: Any):
        self.data, self.indices, self.prepare = data, indices, prepare

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> PreparedRow | UnreadableRow:
        index = self.indices[place]
        try:
            item: dict[str, Any] | UnreadableRow = self.data.read(index)
        except RowError as error:
            if not self.data.skip_bad:
                raise
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
