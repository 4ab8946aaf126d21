# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Divides the rows of a data set into shards, and the shards among processes. Decodes no images.

A shard is a number of consecutive rows. The rows of a stored data set are numbered from 0; those of a stream are
numbered in each of its files, so that a process can read its files and no others. Which rows a shard has does not
depend on the number of processes.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from ..compat import with_features
from ..data.columns import Dataset, find_image_column, images_in
from ..data.stored_images import is_of_hub
from ..data.streamed import read_stream
from ..model.checks import checked_integer, first_line, quoted


@dataclass(frozen=True, order=True)
class Shard:
    """Consecutive rows of a data set.

    Attributes:
        file: The number of the file of a stream; 0 for a stored data set.
        piece: The number of the shard in the file.
    """

    file: int
    piece: int

    @property
    def name(self) -> str:
        """The name in files: `"00000-00012"`."""
        return f"{self.file:05d}-{self.piece:05d}"

    @classmethod
    def from_name(cls, name: str) -> "Shard":
        """Returns the shard of a name."""
        file, piece = name.split("-")
        return cls(int(file), int(piece))


@dataclass(frozen=True)
class Row:
    """A stored row, not decoded.

    Attributes:
        shard: The shard of the row.
        number: The number of the row in its file.
        values: The stored values of the columns.
    """

    shard: Shard
    number: int
    values: dict[str, Any]


class ShardedRows:
    """The rows of a data set in shards.

    Args:
        dataset: One split, stored or streamed.
        image_column: The column of images. Default: found by type and name.
        keep: Other columns to keep.
        rows_per_shard: Number of rows in a shard.

    Raises:
        ValueError: If the data set is empty or cannot be read, a column does not exist or cannot be kept, or a number
            is less than 1.
    """

    def __init__(
        self, dataset: Dataset, image_column: str | None = None, keep: Sequence[str] = (), rows_per_shard: int = 128
    ):
        self.rows_per_shard = checked_integer(rows_per_shard, "rows_per_shard", least=1)
        if not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
            raise ValueError(
                f"The data set is a {type(dataset).__name__}; expected one split of a data set. Open it with "
                "open_dataset, or choose a split."
            )
        is_list = isinstance(keep, Sequence) and not isinstance(keep, str) and all(isinstance(c, str) for c in keep)
        if not is_list or len(set(keep)) < len(keep):
            raise ValueError(f"keep is {quoted(keep)}; expected a list of different columns. Pass ['caption'], say.")
        self.is_streamed = isinstance(dataset, datasets.IterableDataset)
        self.of_hub = is_of_hub(dataset)
        if self.is_streamed:
            try:
                dataset = with_features(dataset)
            except Exception as error:
                raise ValueError(
                    f"The first rows of the stream cannot be read: {first_line(error)}. Check the files of the stream, "
                    "or set its features (`dataset.cast(features)`)."
                ) from error
        elif len(dataset) == 0:
            raise ValueError("The data set is empty; expected at least one row. Choose another split.")
        self.image_column = find_image_column(dataset, image_column)
        if not isinstance(feature := dataset.features[self.image_column], datasets.Image):
            raise ValueError(
                f"The column {self.image_column!r} has the type {feature}; expected images. Pass a column of images, "
                "or cast it (`dataset.cast_column(name, datasets.Image())`)."
            )
        for column in keep:
            if column not in dataset.features or column == self.image_column:
                others = ", ".join(name for name in dataset.features if name != self.image_column) or "none"
                raise ValueError(f"The column {column!r} cannot be kept; expected one of the other columns: {others}.")
        self.kept = datasets.Features({column: dataset.features[column] for column in keep})
        dataset = dataset.select_columns([self.image_column, *keep]).with_format(None)
        for column in images_in(dataset.features):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        self._rows = dataset

    @property
    def num_files(self) -> int:
        """The number of files of a stream; 1 for a stored data set."""
        return self._rows.num_shards if self.is_streamed else 1

    @property
    def num_rows(self) -> int | None:
        """The number of rows; `None` if a stream does not know it."""
        if not self.is_streamed:
            return len(self._rows)
        info, split = self._rows.info, self._rows.split
        known = (info.splits or {}).get(str(split)) if info is not None else None
        return None if known is None else known.num_examples or None

    def name_of(self, row: Row) -> str:
        """The name of a row in messages."""
        return f"row {row.number}" + (f" of file {row.shard.file}" if self.num_files > 1 else "")

    def share(
        self,
        rank: int,
        count: int,
        done: Container[Shard],
        ended: Mapping[int, int],
        on_end: Callable[[int, int], None],
    ) -> Iterator[Row]:
        """Yields the rows that a process labels, shard by shard; rows of shards that are done are not read.

        Args:
            rank: The number of the process.
            count: The number of processes.
            done: The shards that were labeled before.
            ended: The number of shards of the files whose end is known.
            on_end: Called with a file and its number of shards when the end of the file is found.

        Raises:
            ValueError: If a stream cannot be read.
        """
        if not self.is_streamed:
            size, num_rows = self.rows_per_shard, len(self._rows)
            shards = [Shard(0, piece) for piece in range(-(-num_rows // size))]
            on_end(0, len(shards))
            for shard in [shard for shard in shards if shard not in done][rank::count]:
                for number in range(shard.piece * size, min(num_rows, (shard.piece + 1) * size)):
                    yield Row(shard, number, self._rows[number])
            return
        open_files = [file for file in range(self.num_files) if not self._is_done(file, done, ended)]
        by_file = len(open_files) >= count  # else every process reads every file and labels some of its shards
        for file in open_files[rank::count] if by_file else open_files:
            piece = -1
            for number, values in enumerate(self._read_file(file)):
                piece = number // self.rows_per_shard
                shard = Shard(file, piece)
                if (by_file or piece % count == rank) and shard not in done:
                    yield Row(shard, number, values)
            on_end(file, piece + 1)

    def _read_file(self, file: int) -> Iterator[dict[str, Any]]:
        stream = self._rows.shard(num_shards=self.num_files, index=file)
        return read_stream(stream, lambda number: f"{number} of file {file}")

    def _is_done(self, file: int, done: Container[Shard], ended: Mapping[int, int]) -> bool:
        return file in ended and all(Shard(file, piece) in done for piece in range(ended[file]))

    def num_rows_of_share(self, rank: int, count: int, done: Sequence[Shard]) -> int | None:
        """The number of rows that a process labels, as far as it is known before: exactly for a stored data set."""
        if self.num_rows is None:
            return None
        size = self.rows_per_shard
        if self.is_streamed:
            return max(0, self.num_rows - len(done) * size) // count
        lengths, done_before = [min(size, self.num_rows - first) for first in range(0, self.num_rows, size)], set(done)
        return sum([length for piece, length in enumerate(lengths) if Shard(0, piece) not in done_before][rank::count])
