# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Converts the original download of a benchmark to parquet: images, and label maps with the vocabulary's labels.

Every parquet file is written atomically, so an interrupted run can be resumed.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import yaml
from PIL import Image
from tqdm.auto import tqdm

from ..model.checks import load_json
from ..model.files import write_atomically
from ..model.image_input import open_image
from .benchmarks import Benchmark, Sample
from .parquet import PREPARED_FEATURES, encode_png, to_parquet
from .presets import PROTOCOL_COLUMN
from .rows import RowError

ROWS_PER_FILE = 256

PARTS_FOLDER, PLAN_FOLDER = "data", ".plan"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The result of the preparation of a split.

    Attributes:
        split: Name of the split.
        num_rows: Number of rows in all files of the split.
        skipped: Reasons for the skipped rows.
        num_new_files: Number of files that this run wrote.
        num_old_files: Number of files that earlier runs wrote.
    """

    split: str
    num_rows: int
    skipped: tuple[str, ...]
    num_new_files: int
    num_old_files: int


def prepare(
    benchmark: Benchmark,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    splits: Sequence[str] | None = None,
    partial: bool = False,
    skip_bad: bool = False,
    num_workers: int | None = None,
    rows_per_file: int = ROWS_PER_FILE,
    progress: bool = True,
) -> list[Prepared]:
    """Writes `output/data/<split>-*.parquet` and a data set card; resumes an interrupted run.

    The columns are `image` (the original file; large images of A-847 are shrunk and stored as PNG), `label_map` (8-bit
    or 16-bit PNG: labels of the vocabulary and its ignore label), `name` and `protocol`.

    Args:
        benchmark: The benchmark to prepare.
        source: Folder of the unpacked download; see `Benchmark.layout`.
        output: Output folder; created if it does not exist.
        splits: Splits to prepare. Default: all splits of the benchmark.
        partial: Whether to accept a download with a number of images that differs from the benchmark.
        skip_bad: Whether to skip images that cannot be read; `Prepared.skipped` contains the reasons.
        num_workers: Number of threads. Default: one per CPU core.
        rows_per_file: Number of images per file.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If files are missing, the number of images is wrong, or `output` contains another preparation.
        RowError: If an image or annotation cannot be read and `skip_bad` is not set; the message names the image.
    """
    source, output = Path(source), Path(output)
    splits = list(benchmark.splits) if splits is None else list(splits)
    if unknown := [split for split in splits if split not in benchmark.splits]:
        raise ValueError(
            f"Unknown split {unknown[0]!r} of {benchmark.title}; expected one of {', '.join(benchmark.splits)}."
        )
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file is {rows_per_file}; expected at least 1.")
    if not source.is_dir():
        raise ValueError(
            f"Folder {str(source)!r} was not found (current directory: {os.getcwd()!r}). Pass the folder of the "
            "unpacked download."
        )
    _refuse_other_protocols(benchmark, output)
    found = {}
    for split in splits:  # check all splits before anything is written
        try:
            found[split] = benchmark.find(source, split)
        except ValueError as error:
            raise ValueError(f"{error} Files of the {benchmark.title} download: {benchmark.layout}.") from error
        expected, count = benchmark.splits[split], len(found[split])
        if count == 0 or (count != expected and not partial):
            raise ValueError(
                f"{count:,} annotated images of the split {split!r} were found in {str(source)!r}; expected "
                f"{expected:,} for {benchmark.title}. Unpack the whole download, or set partial (--partial) to prepare "
                "an incomplete download."
            )
    results = []
    for split in splits:
        plan = _Plan(benchmark, split, found[split], output, rows_per_file)
        results.append(plan.carry_out(skip_bad, num_workers or os.cpu_count() or 1, progress))
    write_atomically(output / "README.md", _card(benchmark, output).encode())
    return results


def _refuse_other_protocols(benchmark: Benchmark, output: Path) -> None:
    """Raises an error if the folder has splits of another benchmark, which would become parts of one data set."""
    for record in sorted((output / PLAN_FOLDER).glob("*.json")):
        try:
            protocol = load_json(record.read_text(encoding="utf-8"))["protocol"]
        except (OSError, ValueError, LookupError, TypeError):
            continue  # no plan of ours; `_Plan` checks that of its own split
        if protocol != benchmark.protocol:
            raise ValueError(
                f"{str(output)!r} contains the split {record.stem!r} from another data set, {protocol}; expected only "
                f"{benchmark.protocol}. Choose another output folder."
            )


class _Plan:
    """The assignment of the samples of a split to files."""

    def __init__(self, benchmark: Benchmark, split: str, samples: list[Sample], output: Path, rows_per_file: int):
        self.benchmark, self.split = benchmark, split
        self.parts = [samples[first : first + rows_per_file] for first in range(0, len(samples), rows_per_file)]
        self.folder = output / PARTS_FOLDER
        self.files = [
            self.folder / f"{split}-{part:05d}-of-{len(self.parts):05d}.parquet" for part in range(len(self.parts))
        ]
        names = "\n".join(sample.name for sample in samples)
        content = {
            "protocol": benchmark.protocol,
            "split": split,
            "num_images": len(samples),
            "rows_per_file": rows_per_file,
            "names": hashlib.sha256(names.encode()).hexdigest(),
        }
        self._record = json.dumps(content, indent=1) + "\n"
        self._record_file = output / PLAN_FOLDER / f"{split}.json"

    def carry_out(self, skip_bad: bool, num_workers: int, progress: bool) -> Prepared:
        self._settle()
        old = {file for file in self.files if file.is_file()}
        total = sum(map(len, self.parts))
        skipped: list[str] = []
        bar = tqdm(
            total=total,
            initial=sum(len(part) for part, file in zip(self.parts, self.files) if file in old),
            desc=f"{self.benchmark.title}, {self.split}",
            unit="image",
            disable=not progress,
        )
        with bar, ThreadPoolExecutor(num_workers) as pool:
            for part, file in zip(self.parts, self.files):
                if file in old:
                    continue
                rows = []
                for row in pool.map(functools.partial(_row_or_reason, self.benchmark, skip_bad), part):
                    rows.append(row) if isinstance(row, dict) else skipped.append(row)
                    bar.update()
                _write_rows(rows, file)
        num_rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in self.files)
        if (before := total - num_rows - len(skipped)) > 0:
            skipped.append(f"{before} more rows in files of an earlier run")
        return Prepared(self.split, num_rows, tuple(skipped), len(self.files) - len(old), len(old))

    def _settle(self) -> None:
        """Writes the plan to the folder, or raises an error if the folder has a different plan."""
        others = (
            [path for path in self.folder.glob(f"{self.split}-*.parquet") if path not in self.files]
            if self.folder.is_dir()
            else []
        )
        noted = self._record_file.read_text() if self._record_file.is_file() else None
        if others or noted not in (None, self._record) or (noted is None and any(map(Path.is_file, self.files))):
            raise ValueError(
                f"{str(self.folder)!r} contains files of the split {self.split!r} from another data set, another "
                "download or with another number of rows per file. Choose another output folder, or remove these files "
                f"and {str(self._record_file)!r}."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._record_file.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"Folder {str(self.folder)!r} cannot be created: {error.strerror}. Choose another output folder."
            ) from error
        if noted is None:
            write_atomically(self._record_file, self._record.encode())


def _row_or_reason(benchmark: Benchmark, skip_bad: bool, sample: Sample) -> dict[str, Any] | str:
    try:
        return _row(benchmark, sample)
    except RowError as error:
        if not skip_bad:
            raise
        return str(error)


def _row(benchmark: Benchmark, sample: Sample) -> dict[str, Any]:
    vocabulary = benchmark.vocabulary
    try:
        image = open_image(sample.image)  # decodes the whole image, so a truncated file raises an error here
        raw = sample.read()
        if raw.shape != (image.height, image.width):
            raise ValueError(
                f"the annotation is {raw.shape[0]} x {raw.shape[1]} and the image is {image.height} x {image.width} "
                "(height x width); expected the same size. Unpack the download again."
            )
        if benchmark.ignored is not None:
            assert vocabulary.raw_ids is not None  # every preset has raw ids
            known = {*vocabulary.raw_ids, *benchmark.ignored}
            if strange := sorted(set(np.unique(raw).tolist()) - known):
                raise ValueError(
                    f"the annotation contains {', '.join(map(str, strange[:5]))}; expected only values of "
                    f"{benchmark.title}. Check that the annotation belongs to {benchmark.title}."
                )
    except (ValueError, OSError) as error:
        raise RowError(f"{sample.name} ({sample.image}): {error}") from error
    labels = vocabulary.labels_from_raw(raw)
    content, suffix = sample.image.read_bytes(), sample.image.suffix
    short_side = min(image.size)
    if benchmark.short_side is not None and short_side > benchmark.short_side:
        image, labels = _shrink(image, labels, benchmark.short_side / short_side)
        content, suffix = encode_png(np.asarray(image)), ".png"
    dtype = np.uint8 if vocabulary.ignore_label <= 255 else np.uint16
    return {
        "image": {"bytes": content, "path": f"{sample.name}{suffix}"},
        "label_map": {"bytes": encode_png(labels.astype(dtype)), "path": f"{sample.name}_labels.png"},
        "name": sample.name,
        PROTOCOL_COLUMN: benchmark.protocol,
    }


def _shrink(image: Image.Image, labels: np.ndarray, factor: float) -> tuple[Image.Image, np.ndarray]:
    height, width = (round(side * factor) for side in labels.shape)
    # nearest neighbor at pixel centers, in integer arithmetic
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return image.resize((width, height), Image.Resampling.BICUBIC), labels[rows[:, None], columns]


def _write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    columns = {name: [row[name] for row in rows] for name in PREPARED_FEATURES}
    write_atomically(path, to_parquet(datasets.Dataset.from_dict(columns, features=PREPARED_FEATURES)))


def _card(benchmark: Benchmark, output: Path) -> str:
    vocabulary = benchmark.vocabulary
    counts: dict[str, int] = {}
    for path in sorted((output / PARTS_FOLDER).glob("*.parquet")):
        split = path.name.partition("-")[0]
        counts[split] = counts.get(split, 0) + pyarrow.parquet.read_metadata(path).num_rows
    header = {
        "pretty_name": benchmark.title,
        "task_categories": ["image-segmentation"],
        "class_names": list(vocabulary.scored_names),
    }
    return (
        f"---\n{yaml.safe_dump(header, allow_unicode=True, sort_keys=False)}---\n\n"
        f"# {benchmark.title}\n\n"
        f"Protocol {benchmark.protocol}: {len(vocabulary.scored_names)} classes of the vocabulary `{benchmark.name}`; "
        f"`label_map` holds labels 0 to {len(vocabulary.scored_names) - 1}, and {vocabulary.ignore_label} for pixels "
        "of none.\n\n"
        + "".join(f"- {split}: {count:,} of {benchmark.splits[split]:,} images\n" for split, count in counts.items())
        + "\nMade from the original download by `scripts/prepare_benchmark.py` of dinov3seg_hf; images and annotations "
        "stay under their own licenses.\n"
    )


__all__ = ["Prepared", "prepare"]
