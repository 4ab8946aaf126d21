# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`parquet`: a data set of Hugging Face: the columns image, mask and classes, in files of limited size.

`mask` is a PNG whose values are labels (255, or 65535 with more than 255 labels, is ignored). `classes` lists the
labels of an image; its type, `ClassLabel`, holds the names, so training needs no other file.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.features import ClassLabel, List

from ..data.parquet import encode_png, to_parquet
from ..model.files import write_atomically
from ..model.vocabulary import IGNORE_8_BIT, Vocabulary
from .image import Cleaned, ExportOptions, source_path
from .journal import Journal
from .writer import AnnotationWriter, check_folder, is_stored_upright

ROWS_PER_FILE, BYTES_PER_FILE = 256, 256 * 2**20


class ParquetWriter(AnnotationWriter):
    """Writes `data/train-00000.parquet` and so on; `open_dataset` opens the folder, also while it grows."""

    name = "parquet"
    needs = ("datasets",)

    def __init__(self, path: str | os.PathLike, vocabulary: Vocabulary, options: ExportOptions | None = None):
        super().__init__(path, vocabulary, options)
        self._folder = self.path / "data"
        check_folder(self.path)
        self._journal: Journal = Journal(self._folder)  # inside, because what is beside it may not be writable
        if not self._journal.path.exists():
            self._refuse_files()
        self._ignored = self.stored_vocabulary.ignore_label
        self._features = parquet_features(self.labels)
        self._rows: list[dict[str, Any]] = []
        self._names_of_rows: list[str] = []
        self._num_bytes = self._num_files = 0

    def _refuse_files(self) -> None:
        if any(self._folder.glob("*.parquet")):
            raise ValueError(
                f"{str(self._folder)!r} contains parquet files; expected none, because rows would be there twice. "
                "Choose another folder, or remove the files."
            )

    def resume(self, run: Mapping[str, Any], sources: Mapping[str, Any]) -> frozenset[str]:
        if self.options.overwrite:
            self._refuse_files()
        done = super().resume(run, sources)
        if self._journal.num_left_out or not all(self._file(number).is_file() for number in self._journal):
            self._journal.close()
            raise ValueError(
                f"{str(self._folder)!r} lacks files of an interrupted run, or contains rows of images that have "
                "changed or are not in this run. Restore them to finish it, or remove the folder and "
                f"{str(self._journal.path)!r}."
            )
        self._num_files = 1 + max(self._journal, default=-1)
        return done

    def _begin(self) -> None:
        if not self.resumable:
            self._refuse_files()

    def _add(self, cleaned: Cleaned) -> None:
        image = cleaned.image
        source = source_path(image)
        if source is not None and is_stored_upright(source, image):
            content, name = source.read_bytes(), image.file_name
        else:
            content, name = encode_png(np.asarray(image.pixels())), f"{image.stem}.png"
        row = parquet_row(cleaned, {"bytes": content, "path": name}, self._ignored)
        # before the row is added: a full disk must not leave it behind
        if len(self._rows) >= ROWS_PER_FILE or self._num_bytes + len(content) > BYTES_PER_FILE:
            self._flush()
        self._rows.append(row)
        self._names_of_rows.append(image.file_name)
        self._num_bytes += len(content) + len(row["mask"]["bytes"])

    def _finish(self) -> None:
        self._flush()
        if self.resumable:  # what an interrupted run wrote last, and did not note
            number = self._num_files
            while (path := self._file(number)).is_file():
                path.unlink()
                number += 1
            self._journal.remove()

    def _flush(self) -> None:
        if not self._rows:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._file(self._num_files)
        write_atomically(path, rows_to_parquet(self._rows, self._features))
        if self.resumable:
            try:
                self._journal.add(self._names_of_rows, self._num_files)
            except BaseException:
                path.unlink(missing_ok=True)  # its rows will be written again
                raise
        self._num_files += 1
        self._rows, self._names_of_rows, self._num_bytes = [], [], 0

    def _file(self, number: int) -> Path:
        return self._folder / f"train-{number:05d}.parquet"


def parquet_features(labels: Sequence[str]) -> datasets.Features:
    """Returns the columns: `image`, `mask`, `classes` (the labels of the image), `name`."""
    return datasets.Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "classes": List(ClassLabel(names=list(labels))),
            "name": datasets.Value("string"),
        }
    )


def parquet_row(cleaned: Cleaned, image: dict[str, Any], ignored: int) -> dict[str, Any]:
    """Returns the row of a labeled image.

    Args:
        cleaned: The label map.
        image: The stored image: `bytes` and `path`.
        ignored: The value of ignored pixels, `IGNORE_8_BIT` or `IGNORE_16_BIT`.
    """
    labels, stem = cleaned.label_map, cleaned.image.stem
    dtype = np.uint8 if ignored <= IGNORE_8_BIT else np.uint16
    mask = encode_png(np.where(labels < 0, ignored, labels).astype(dtype))
    return {
        "image": image,
        "mask": {"bytes": mask, "path": f"{stem}_mask.png"},
        "classes": np.unique(labels[labels >= 0]).tolist(),
        "name": stem,
    }


def rows_to_parquet(rows: Sequence[dict[str, Any]], features: datasets.Features) -> bytes:
    """Returns rows as the content of a parquet file. Large images are in several arrays: Arrow has 2 GiB for each."""
    parts: list[list[dict[str, Any]]] = [[]]
    num_bytes = 0
    for row in rows:
        size = _num_bytes(row)
        if parts[-1] and num_bytes + size > BYTES_PER_FILE:
            parts.append([])
            num_bytes = 0
        parts[-1].append(row)
        num_bytes += size
    made = [
        datasets.Dataset.from_dict({name: [row[name] for row in part] for name in features}, features=features)
        for part in parts
    ]
    if len(made) == 1:
        return to_parquet(made[0])
    return to_parquet(datasets.concatenate_datasets(made), batch_size=max(1, len(rows) // len(made)))


def _num_bytes(value: Any) -> int:
    """The bytes of images, and of what else a row contains, without small values."""
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, (dict, list)):
        return sum(_num_bytes(item) for item in (value.values() if isinstance(value, dict) else value))
    return 0
