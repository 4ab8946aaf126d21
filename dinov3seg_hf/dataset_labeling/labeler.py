# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Labels the rows of a data set: reads ahead in threads, segments in batches, writes shard by shard.

A batch never has rows of two shards, so the labels do not depend on which process labels which shard.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np
from datasets.features import Value
from PIL import Image
from tqdm import tqdm

from ..annotations.image import AnnotatedImage, Cleaned, ExportOptions
from ..annotations.parquet import parquet_features, parquet_row
from ..annotations.writer import is_stored_upright
from ..batches import IMAGE_ERRORS, segment_each
from ..data.parquet import encode_png
from ..data.stored_images import name_of, source_of
from ..distributed import Processes
from ..model.checks import checked_integer, checked_path, quoted
from ..model.fingerprints import weights_fingerprint
from ..model.image_input import open_image
from ..model.image_stages import EncodedImage, LabeledImage, PreparedImage
from ..model.inference_settings import InferenceSettings, checked_settings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.vocabulary import IGNORE_8_BIT, IGNORE_16_BIT, Vocabulary, as_vocabulary
from ..versions import library_versions
from .folder import LabelFolder
from .shards import Row, Shard, ShardedRows

# The rows that are read ahead, in batches of each thread.
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class LabelingResult:
    """What a folder of labels contains.

    Attributes:
        num_rows: The number of labeled rows, of earlier runs too.
        num_shards: The number of shards.
        num_done_before: The number of shards of earlier runs.
        failed: The rows that could not be labeled: their names and the reasons.
    """

    num_rows: int
    num_shards: int
    num_done_before: int
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A row that is ready for the model."""

    row: Row
    image: Image.Image
    prepared: PreparedImage | EncodedImage


@dataclass(frozen=True)
class _Failed:
    """A row that cannot be labeled, and the reason."""

    row: Row
    error: Exception


def label_dataset(
    pipe: OpenVocabularySegmentationPipeline,
    rows: ShardedRows,
    vocabulary: Vocabulary | Sequence[str],
    output: str | os.PathLike,
    *,
    settings: InferenceSettings | None = None,
    export: ExportOptions | None = None,
    root: str | os.PathLike | None = None,
    source: dict[str, Any] | None = None,
    batch_size: int = 1,
    num_workers: int = 1,
    retry_failed: bool = False,
    accelerator: Any = None,
    progress: bool = True,
) -> LabelingResult:
    """Labels every row of a data set, and writes a data set with images, masks and class names.

    Runs in one process, or in several processes started by `accelerate launch`, which share the shards; all of them
    return the same result. Started again with the same arguments, it continues with the shards that are not done, with
    any number of processes.

    Args:
        pipe: The model.
        rows: The rows, in shards.
        vocabulary: The labels, or their names.
        output: The folder to write, which all processes see: `open_dataset(output, "train")` reads it, also while it
            grows. Columns: those of `annotations.parquet`, `file` and `row` (where the row was in the data set), and
            the kept columns.
        settings: The inference settings. Default: those of the pipeline.
        export: `min_area`, `ignore_below` and `copy_images`. Without `copy_images`, the column `image` refers to the
            files of the data set.
        root: The folder of the images; their names in the result are relative to it. Default: the names of files.
        source: A description of the data set, which must be the same when the run is resumed.
        batch_size: Number of images that the model gets at once. Another number changes results by rounding.
        num_workers: Number of threads that read, prepare and encode images.
        retry_failed: Whether to label shards again in which a row failed.
        accelerator: The `accelerate.PartialState` or `Accelerator` of a run in several processes.
        progress: Whether the main process shows a progress bar.

    Raises:
        ValueError: If a number is too small, the folder contains other labels or cannot be written, the labels are
            calibrated for other settings, a stream cannot be read, or no row could be labeled.
        RuntimeError: If another process failed.
    """
    processes = Processes(accelerator)
    checked_integer(batch_size, "batch_size", least=1)  # without rows, every shard would be done
    checked_integer(num_workers, "num_workers", least=0)
    settings = checked_settings(settings, pipe.settings).resolved(pipe.model.config, pipe.image_processor)
    vocabulary, output = as_vocabulary(vocabulary), checked_path(output, "The folder of the labels")
    root = None if root is None else checked_path(root, "The folder of the images")
    export, source = ExportOptions() if export is None else export, {} if source is None else source
    for what, value, kind in (("rows", rows, ShardedRows), ("export", export, ExportOptions), ("source", source, dict)):
        if not isinstance(value, kind):
            raise ValueError(f"{what} is {quoted(value)}; expected {kind.__name__}. Pass an object of this type.")
    description = processes.from_main(lambda: _describe(pipe, rows, vocabulary, settings, export, source))
    folder = LabelFolder(output, description, processes, retry_failed)
    total = rows.num_rows_of_share(processes.rank, processes.count, list(folder.done))
    title = "Labeling" if processes.count == 1 else f"Labeling (one of {processes.count} processes)"
    shows = progress and processes.is_main

    def label_share() -> list[Shard]:
        with tqdm(desc=title, unit="image", total=total, disable=not shows) as bar:
            worker = _Worker(pipe, rows, vocabulary, settings, export, root)
            return worker.label(folder, processes, batch_size, num_workers, bar.update)

    written = processes.gather(label_share)
    return processes.from_main(lambda: _result(folder, rows, written))


def _result(folder: LabelFolder, rows: ShardedRows, written: Sequence[Shard]) -> LabelingResult:
    done, ended = folder.read()
    if missing := sorted(set(written) - set(done)):
        raise ValueError(
            f"{len(missing)} shards that other processes wrote are not in {str(folder.path)!r}, for example "
            f"{missing[0].name}; expected one folder that all machines share. Copy the folders data and .progress of "
            "the other machines into this one, then run the same command again."
        )
    if num_open := sum(file not in ended for file in range(rows.num_files)):
        raise ValueError(f"The end of {num_open} files was not reached. Run the same command again.")
    failed = tuple(itertools.chain.from_iterable(done[shard].failed for shard in sorted(done)))
    num_rows = sum(record.num_rows for record in done.values())
    if num_rows == 0:
        reason = f"; the first one: {failed[0][0]}: {failed[0][1]}" if failed else ", because there are none"
        raise ValueError(f"No row could be labeled{reason} Check the data set and the column of images.")
    return LabelingResult(num_rows, len(done), len(folder.done), failed)


def _describe(
    pipe: OpenVocabularySegmentationPipeline,
    rows: ShardedRows,
    vocabulary: Vocabulary,
    settings: InferenceSettings,
    export: ExportOptions,
    source: dict[str, Any],
) -> dict[str, Any]:
    """What the labels depend on. The batch size is left out: a run may be resumed with another one."""
    return {
        "dataset": {
            **source,
            "image_column": rows.image_column,
            "num_files": rows.num_files,
            "num_rows": rows.num_rows,
            "rows_per_shard": rows.rows_per_shard,
            "kept_columns": list(rows.kept),
        },
        "weights": weights_fingerprint(pipe.model),
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "labels": list(vocabulary.names),
        "vocabulary": vocabulary.fingerprint,
        "calibration": None if vocabulary.calibration is None else list(vocabulary.calibration.thresholds),
        "inference": settings.given(),
        "min_area": export.min_area,
        "ignore_below": export.ignore_below,
        "copy_images": export.copy_images,
        "versions": library_versions(),
    }


class _Worker:
    """Labels the shards of one process."""

    def __init__(
        self,
        pipe: OpenVocabularySegmentationPipeline,
        rows: ShardedRows,
        vocabulary: Vocabulary,
        settings: InferenceSettings,
        export: ExportOptions,
        root: str | os.PathLike | None,
    ):
        self._pipe, self._rows, self._settings, self._export = pipe, rows, settings, export
        self._text = pipe.encode_labels(vocabulary)
        pipe.check_calibration(self._text, settings)
        self._num_labels = len(vocabulary)
        self._ignored = IGNORE_8_BIT if len(vocabulary) <= IGNORE_8_BIT else IGNORE_16_BIT
        self._roots = () if root is None else (Path(os.path.abspath(root)), Path(root).resolve())
        features = parquet_features(vocabulary.names) | {"file": Value("int64"), "row": Value("int64")}
        if taken := sorted(set(features) & set(rows.kept)):
            raise ValueError(
                f"The column {taken[0]!r} cannot be kept, because the result has a column of this name. Rename it "
                "(`dataset.rename_column`), or leave it out."
            )
        self._features = datasets.Features({**features, **rows.kept})

    def label(
        self,
        folder: LabelFolder,
        processes: Processes,
        batch_size: int,
        num_workers: int,
        advance: Callable[[int], object],
    ) -> list[Shard]:
        """Labels and writes the shards of this process that are not done; returns them."""
        share = self._rows.share(processes.rank, processes.count, folder.done, folder.ended, folder.write_end)
        written = []
        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            loaded = read_ahead(pool, self._load, share, BATCHES_AHEAD * batch_size * max(1, num_workers))
            for shard, items in itertools.groupby(loaded, key=lambda item: item.row.shard):
                made: list[Future[dict[str, Any] | _Failed]] = []
                while batch := list(itertools.islice(items, batch_size)):
                    made += self._segment(pool, batch)
                    advance(len(batch))
                rows = [future.result() for future in made]
                failed = [row for row in rows if isinstance(row, _Failed)]
                folder.write(
                    shard,
                    [row for row in rows if not isinstance(row, _Failed)],
                    self._features,
                    [(self._rows.name_of(row.row), str(row.error)) for row in failed],
                )
                written.append(shard)
        return written

    def _load(self, row: Row) -> _Loaded | _Failed:
        try:
            stored = source_of(row.values[self._rows.image_column], "image", self._rows.of_hub)
            image = open_image(stored, self._pipe.image_processor.max_image_pixels, name_of(stored, "image"))
            return _Loaded(row, image, self._pipe.prepare(image, self._settings))
        except IMAGE_ERRORS as error:
            return _Failed(row, error)

    def _segment(self, pool: Executor, batch: Sequence[_Loaded | _Failed]) -> list["Future[dict[str, Any] | _Failed]"]:
        """Returns the rows of a batch, in order, which threads finish."""
        loaded = [item for item in batch if isinstance(item, _Loaded)]
        answers = iter(segment_each(self._pipe, [item.prepared for item in loaded], self._text, self._settings))
        return [
            pool.submit(self._finish, item, next(answers) if isinstance(item, _Loaded) else item.error)
            for item in batch
        ]

    def _finish(self, item: _Loaded | _Failed, answer: LabeledImage | Exception) -> dict[str, Any] | _Failed:
        row = item.row
        if isinstance(answer, Exception):
            return _Failed(row, answer)
        assert isinstance(item, _Loaded)  # only loaded rows have an answer
        try:
            name = self._name_of(row)
            annotated = AnnotatedImage(name, answer.label_map, answer.score_map, image=item.image)
            stored = self._stored_image(row, annotated)
            cleaned = Cleaned(annotated, self._export, self._num_labels)
            made = parquet_row(cleaned, stored, self._ignored)
        except IMAGE_ERRORS as error:
            return _Failed(row, error)
        kept = {column: row.values[column] for column in self._rows.kept}
        return {**made, "file": row.shard.file, "row": row.number, **kept}

    def _name_of(self, row: Row) -> str:
        path = (row.values[self._rows.image_column] or {}).get("path")
        if not path:
            return f"{row.shard.file:05d}-{row.number:09d}.png"
        for place in (Path(os.path.abspath(path)), Path(path).resolve()):  # links may lead out of the folder
            for root in self._roots:
                if place.is_relative_to(root):
                    return place.relative_to(root).as_posix()
        name = PurePosixPath(path.replace("\\", "/")).name or "image"
        return name if PurePosixPath(name).suffix else f"{name}.png"

    def _stored_image(self, row: Row, annotated: AnnotatedImage) -> dict[str, Any]:
        """The image of the row: a reference; or its file; or a PNG if readers that ignore EXIF would see it rotated."""
        value = row.values[self._rows.image_column]
        content, path = value["bytes"], value["path"]
        if not self._export.copy_images:
            if content is not None or not path:
                raise ValueError(
                    "the image is stored in the data set, not in a file of its own, so there is nothing to refer to; "
                    "expected a file. Let images be copied."
                )
            return {"bytes": None, "path": path if "://" in path else os.path.abspath(path)}
        if content is None and "://" not in path:
            content = Path(path).read_bytes()
        if content is not None and is_stored_upright(BytesIO(content), annotated):
            return {"bytes": content, "path": annotated.file_name}
        return {"bytes": encode_png(np.asarray(annotated.pixels())), "path": f"{annotated.stem}.png"}


def read_ahead(pool: Executor, function: Callable[[Any], Any], items: Iterable[Any], depth: int) -> Iterator[Any]:
    """Yields `function(item)` for each item, in order; up to `depth` items are computed ahead in the pool."""
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
