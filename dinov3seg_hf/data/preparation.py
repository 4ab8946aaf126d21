# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The original download of a benchmark to parquet: images as they are, label maps of the vocabulary's labels.

In parts that appear whole or not at all, so that a broken run goes on where it stopped.
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
    """What a preparation wrote of a split: rows in the files, rows skipped, files made now and found from before."""

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
    """Writes `output/data/<split>-*.parquet` and a data set card; goes on where an earlier run was broken off.

    The columns are `image` (the original file; A-847's large ones shrunk, as PNG), `label_map` (PNG of 8 or 16 bits:
    labels of the vocabulary and its ignore label), `name` and `protocol`.

    Args:
        benchmark: Which.
        source: The unpacked download; see `Benchmark.layout`.
        output: A folder; made if need be.
        splits: All of the benchmark's unless given.
        partial: Takes a download with another number of images than the benchmark has.
        skip_bad: Leaves out images that cannot be read, and says how many.
        num_workers: Threads; by default one for each core.
        rows_per_file: Images a file.
        progress: Shows a bar.

    Raises:
        ValueError: Something is missing, the counts are wrong, or the folder holds something else.
        RowError: An image or annotation cannot be read; names it.
    """
    source, output = Path(source), Path(output)
    splits = list(benchmark.splits) if splits is None else list(splits)
    if unknown := [split for split in splits if split not in benchmark.splits]:
        raise ValueError(f"{benchmark.title} has no split {unknown[0]!r}, but {', '.join(benchmark.splits)}.")
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file is {rows_per_file}; expected at least 1.")
    if not source.is_dir():
        raise ValueError(f"There is no folder {str(source)!r} (now in {os.getcwd()!r}). Unpack the download there.")
    found = {}
    for split in splits:  # all that can go wrong early goes wrong before anything is written
        try:
            found[split] = benchmark.find(source, split)
        except ValueError as error:
            raise ValueError(f"{error} {benchmark.title} is unpacked as {benchmark.layout}.") from error
        expected, count = benchmark.splits[split], len(found[split])
        if count == 0 or (count != expected and not partial):
            raise ValueError(
                f"{count:,} annotated images of {split!r} were found in {str(source)!r}; {benchmark.title} has "
                f"{expected:,}. Unpack the whole download, or take what is there with partial (--partial)."
            )
    results = []
    for split in splits:
        plan = _Plan(benchmark, split, found[split], output, rows_per_file)
        results.append(plan.carry_out(skip_bad, num_workers or os.cpu_count() or 1, progress))
    write_atomically(output / "README.md", _card(benchmark, output).encode())
    return results


class _Plan:
    """Which samples go into which file of a split."""

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
            skipped.append(f"{before} more in files from before")
        return Prepared(self.split, num_rows, tuple(skipped), len(self.files) - len(old), len(old))

    def _settle(self) -> None:
        """Notes the plan, or refuses a folder with another."""
        others = (
            [path for path in self.folder.glob(f"{self.split}-*.parquet") if path not in self.files]
            if self.folder.is_dir()
            else []
        )
        noted = self._record_file.read_text() if self._record_file.is_file() else None
        if others or noted not in (None, self._record) or (noted is None and any(map(Path.is_file, self.files))):
            raise ValueError(
                f"{str(self.folder)!r} holds files of {self.split!r} from another data set, download or number of "
                "rows a file. Choose another output folder, or delete it."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._record_file.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"{str(self.folder)!r} cannot be made: {error.strerror}. Choose another.") from error
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
        image = open_image(sample.image)  # decoded all through: a truncated file is found now
        raw = sample.read()
        if raw.shape != (image.height, image.width):
            raise ValueError(
                f"the annotation is {raw.shape[0]} x {raw.shape[1]}, the image {image.height} x {image.width} (h x "
                "w). Unpack the download again."
            )
        if benchmark.ignored is not None:
            assert vocabulary.raw_ids is not None  # all presets have them
            known = {*vocabulary.raw_ids, *benchmark.ignored}
            if strange := sorted(set(np.unique(raw).tolist()) - known):
                raise ValueError(
                    f"the annotation holds {', '.join(map(str, strange[:5]))}, which {benchmark.title} does not know. "
                    "Is it the annotation of another set?"
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
    # nearest neighbor by the centers of the pixels, in whole numbers
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
