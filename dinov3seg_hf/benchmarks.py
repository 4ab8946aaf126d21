# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The benchmarks: where their original downloads keep what, how annotations are encoded, what has been published.

Turns an unpacked download into parquet with images as they are and label maps of the vocabulary's labels, in parts that
appear whole or not at all, so that a broken run goes on where it stopped. What a raw value means is said by the
vocabulary of the same name; which values may be there besides, here. Knows neither models nor scores.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import yaml
from PIL import Image
from tqdm.auto import tqdm

from .data import PREPARED_FEATURES, PROTOCOL_COLUMN, RowError, ade20k_raw_ids, encode_png, to_parquet
from .files import write_whole
from .image_input import open_image, read_label_map
from .vocabulary import Vocabulary

# Raised when the same download gives other label maps than before.
PROTOCOL_VERSION = 1
ROWS_PER_FILE = 256
PARTS_FOLDER, PLAN_FOLDER = "data", ".plan"

# mIoU in %, as published: dinov3.seg by its paper (arXiv 2603.19531), and the best of others that it compares with.
PUBLISHED = {
    "ade20k-847": {"dinov3.seg (paper)": 20.09, "best elsewhere": 18.1, "by": "ESC-Net"},
    "pascal-context-459": {"dinov3.seg (paper)": 27.80, "best elsewhere": 27.0, "by": "ESC-Net"},
    "ade20k-150": {"dinov3.seg (paper)": 42.19, "best elsewhere": 44.0, "by": "RetCLIP"},
    "pascal-context-59": {"dinov3.seg (paper)": 64.27, "best elsewhere": 65.6, "by": "ESC-Net"},
    "pascal-voc-20": {"dinov3.seg (paper)": 97.86, "best elsewhere": 98.5, "by": "DPSeg"},
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image of a download and how to read its annotation."""

    name: str
    image: Path
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One data set and its protocol.

    Attributes:
        name: That of its vocabulary preset.
        title: What papers call it.
        splits: Split -> number of images.
        layout: What the unpacked download holds.
        find: `(source, split)` -> its samples, sorted.
        ignored: Raw values that stand for no class; any other unknown value is an error. `None`: all unknown ones are.
        short_side: Images of a greater short side are shrunk to it, with their label maps.
    """

    name: str
    title: str
    splits: dict[str, int]
    layout: str
    find: Callable[[Path, str], list[Sample]]
    ignored: frozenset[int] | None
    short_side: int | None = None

    @property
    def protocol(self) -> str:
        return f"{self.name}/{PROTOCOL_VERSION}"

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.from_preset(self.name)


# --- the originals ----------------------------------------------------------------------------------------------------


def _folder(source: Path, *candidates: str) -> Path:
    """The first of the places that there is."""
    for candidate in candidates:
        if (source / candidate).is_dir():
            return source / candidate
    raise ValueError(f"{str(source)!r} has no folder {' or '.join(map(repr, candidates))}.")


def _file(source: Path, *candidates: str) -> Path:
    for candidate in candidates:
        if (source / candidate).is_file():
            return source / candidate
    raise ValueError(f"{str(source)!r} has no file {' or '.join(map(repr, candidates))}.")


def _paired(images: Path, annotations: Path, read: Callable[[Path], np.ndarray]) -> list[Sample]:
    """Images and annotations of the same stem in two folders."""
    maps = {path.stem: path for path in annotations.glob("*.png")}
    photos = {path.stem: path for path in images.glob("*.jpg")}
    _refuse_unpaired(photos, maps, images, annotations)
    return [Sample(name, photos[name], functools.partial(read, maps[name])) for name in sorted(maps)]


def _refuse_unpaired(photos: dict[str, Any], maps: dict[str, Any], images: Path, annotations: Path) -> None:
    for those, others, what, place in ((maps, photos, "image", images), (photos, maps, "annotation", annotations)):
        if missing := sorted(set(those) - set(others)):
            raise ValueError(
                f"{len(missing)} of {len(those)} have no {what} in {str(place)!r}, such as {missing[0]!r}. Unpack the "
                "download again."
            )


def _read_png(path: Path) -> np.ndarray:
    """Gray of 8 or 16 bits, or a palette's indices."""
    return read_label_map(path).numpy()


def _read_rgb_ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode != "RGB":
            raise ValueError(f"the annotation {str(path)!r} has mode {image.mode}; expected RGB, as ADE20K encodes it.")
        return ade20k_raw_ids(np.asarray(image))


def _read_mat(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # scipy reports what it cannot read in many ways
        raise ValueError(f"the annotation {str(path)!r} cannot be read ({error}).") from error
    if "LabelMap" not in content:
        raise ValueError(f"the annotation {str(path)!r} has no 'LabelMap', but {', '.join(sorted(content))}.")
    return content["LabelMap"].astype(np.int64)


def _read_merged(annotations: Sequence[dict], size: tuple[int, int]) -> np.ndarray:
    """Masks of categories laid over each other in their order; 0 where there is none."""
    from pycocotools import mask as coco_mask

    raw = np.zeros(size, np.int64)
    for annotation in annotations:
        encoded = annotation["segmentation"]
        if isinstance(encoded, list) or isinstance(encoded.get("counts"), list):  # polygons, or uncompressed runs
            encoded = coco_mask.frPyObjects(encoded, *size)
        if isinstance(encoded, list):
            encoded = coco_mask.merge(encoded)
        mask = coco_mask.decode(encoded)  # (H, W), 0 or 1
        if mask.shape != size:
            raise ValueError(f"the mask of annotation {annotation.get('id')} is {mask.shape}; its image is {size}.")
        raw[mask > 0] = annotation["category_id"]
    return raw


def _find_coco_stuff(source: Path, split: str) -> list[Sample]:
    part = {"train": "train2017", "validation": "val2017"}[split]
    images = _folder(source, f"images/{part}", part)
    maps = _folder(source, f"stuffthingmaps/{part}", f"stuffthingmaps_trainval2017/{part}", f"annotations/{part}")
    return _paired(images, maps, _read_png)


def _find_ade20k_150(source: Path, split: str) -> list[Sample]:
    root = source / "ADEChallengeData2016"
    root = root if root.is_dir() else source
    return _paired(_folder(root, "images/validation"), _folder(root, "annotations/validation"), _read_png)


def _find_ade20k_847(source: Path, split: str) -> list[Sample]:
    root = source / "ADE20K_2021_17_01"
    root = _folder(root if root.is_dir() else source, "images/ADE/validation", "images/validation")
    maps = {path.name.removesuffix("_seg.png"): path for path in root.rglob("*_seg.png")}  # a folder for each scene
    photos = {name: path.with_name(f"{name}.jpg") for name, path in maps.items()}
    photos = {name: path for name, path in photos.items() if path.is_file()}
    _refuse_unpaired(photos, maps, root, root)
    return [Sample(name, photos[name], functools.partial(_read_rgb_ids, maps[name])) for name in sorted(maps)]


def _find_pascal_context_59(source: Path, split: str) -> list[Sample]:
    images = _folder(source, "VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages", "JPEGImages")
    path = _file(source, "trainval_merged.json", "VOCdevkit/VOC2010/trainval_merged.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records = [record for record in content["images"] if record["phase"] == "val"]
        annotations_of: dict[Any, list[dict]] = {record["image_id"]: [] for record in records}
        for annotation in content["annos_segmentation"]:
            if annotation["image_id"] in annotations_of:
                annotations_of[annotation["image_id"]].append(annotation)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{str(path)!r} is not the merged annotation of Pascal Context ({error}): expected 'images' with phase and "
            "image_id, and 'annos_segmentation' with image_id, category_id and segmentation."
        ) from error
    photos = {Path(record["file_name"]).stem: images / record["file_name"] for record in records}
    photos = {name: photo for name, photo in photos.items() if photo.is_file()}
    _refuse_unpaired(photos, {Path(record["file_name"]).stem: record for record in records}, images, path)
    samples = []
    for record in records:
        name = Path(record["file_name"]).stem
        read = functools.partial(_read_merged, annotations_of[record["image_id"]], (record["height"], record["width"]))
        samples.append(Sample(name, photos[name], read))
    return sorted(samples, key=lambda sample: sample.name)


def _find_pascal_context_459(source: Path, split: str) -> list[Sample]:
    images = _folder(source, "VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages", "JPEGImages")
    maps = _folder(source, "trainval", "VOCdevkit/VOC2010/trainval", "pascal_context/trainval")
    voc = images.parent
    listed = _file(voc, "ImageSets/SegmentationContext/val.txt", "pascalcontext_val.txt", "ImageSets/Main/val.txt")
    samples = []
    for line in listed.read_text().splitlines():
        # one image of the list was never annotated in full, and is no part of the set
        if line.strip() and (path := maps / f"{line.split()[0]}.mat").is_file():
            photo = images / f"{path.stem}.jpg"
            if not photo.is_file():
                raise ValueError(f"There is no image {str(photo)!r}. Unpack the download again.")
            samples.append(Sample(path.stem, photo, functools.partial(_read_mat, path)))
    return sorted(samples, key=lambda sample: sample.name)


def _find_pascal_voc(source: Path, split: str) -> list[Sample]:
    root = _folder(source, "VOCdevkit/VOC2012", "VOC2012", ".")
    names = _file(root, "ImageSets/Segmentation/val.txt").read_text().split()
    photos = {name: root / "JPEGImages" / f"{name}.jpg" for name in names}
    maps = {name: root / "SegmentationClass" / f"{name}.png" for name in names}
    for path in (*photos.values(), *maps.values()):
        if not path.is_file():
            raise ValueError(f"There is no file {str(path)!r}, which the list names. Unpack the download again.")
    return [Sample(name, photos[name], functools.partial(_read_png, maps[name])) for name in sorted(names)]


VOC_2010 = "VOCdevkit/VOC2010/JPEGImages/*.jpg"
VOC_2012 = "VOCdevkit/VOC2012/ with ImageSets/Segmentation/val.txt, JPEGImages/*.jpg, SegmentationClass/*.png"

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "coco-stuff-171",
            "COCO-Stuff",
            {"train": 118_287, "validation": 5_000},
            "train2017/*.jpg, val2017/*.jpg, stuffthingmaps/train2017/*.png, stuffthingmaps/val2017/*.png",
            _find_coco_stuff,
            ignored=None,
        ),
        Benchmark(
            "ade20k-150",
            "A-150",
            {"validation": 2_000},
            "ADEChallengeData2016/images/validation/*.jpg and annotations/validation/*.png",
            _find_ade20k_150,
            ignored=frozenset({0}),
        ),
        Benchmark(
            "ade20k-847",
            "A-847",
            {"validation": 2_000},
            "ADE20K_2021_17_01/images/ADE/validation/**/*.jpg and *_seg.png",
            _find_ade20k_847,
            ignored=None,
            short_side=512,
        ),
        Benchmark(
            "pascal-context-59",
            "PC-59",
            {"validation": 5_105},
            f"trainval_merged.json and {VOC_2010}",
            _find_pascal_context_59,
            ignored=None,
        ),
        Benchmark(
            "pascal-context-459",
            "PC-459",
            {"validation": 5_104},
            f"trainval/*.mat, VOCdevkit/VOC2010/ImageSets/Main/val.txt and {VOC_2010}",
            _find_pascal_context_459,
            ignored=frozenset({0}),
        ),
        Benchmark(
            "pascal-voc-20", "PAS-20", {"validation": 1_449}, VOC_2012, _find_pascal_voc, ignored=frozenset({0, 255})
        ),
        Benchmark(
            "pascal-voc-20b", "PAS-20b", {"validation": 1_449}, VOC_2012, _find_pascal_voc, ignored=frozenset({255})
        ),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by its name or title, whatever the letter case.

    Raises:
        ValueError: There is none; says which there are.
    """
    for benchmark in BENCHMARKS.values():
        if name.casefold() in (benchmark.name, benchmark.title.casefold()):
            return benchmark
    known = ", ".join(f"{benchmark.title} ({benchmark.name})" for benchmark in BENCHMARKS.values())
    raise ValueError(f"There is no benchmark {name!r}. Known are {known}.")


# --- preparing --------------------------------------------------------------------------------------------------------


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
        expected, came = benchmark.splits[split], len(found[split])
        if came == 0 or (came != expected and not partial):
            raise ValueError(
                f"{came:,} annotated images of {split!r} were found in {str(source)!r}; {benchmark.title} has "
                f"{expected:,}. Unpack the whole download, or take what is there with partial (--partial)."
            )
    results = []
    for split in splits:
        plan = _Plan(benchmark, split, found[split], output, rows_per_file)
        results.append(plan.carry_out(skip_bad, num_workers or os.cpu_count() or 1, progress))
    write_whole(output / "README.md", _card(benchmark, output).encode())
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
            write_whole(self._record_file, self._record.encode())


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
    write_whole(path, to_parquet(datasets.Dataset.from_dict(columns, features=PREPARED_FEATURES)))


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


__all__ = ["BENCHMARKS", "PUBLISHED", "Benchmark", "Prepared", "Sample", "find_benchmark", "prepare"]
