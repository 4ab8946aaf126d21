# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The benchmarks: file layout of the original downloads, encoding of the annotations, and published scores.

Finds the images of an unpacked download and reads their annotations; `preparation.py` writes them as parquet. The
vocabulary of the same name maps raw values to classes; `Benchmark.ignored` lists the raw values without a class. Does
not use models and does not compute scores.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..model.checks import load_json, plain_reason, quoted
from ..model.files import read_text_up_to
from ..model.image_formats import safe_formats
from ..model.vocabulary import Vocabulary

# Increase this version if the same download gives different label maps than before.
PROTOCOL_VERSION = 1

# Published mIoU in %: dinov3.seg and the best of the other methods that its paper (arXiv 2603.19531) compares with.
PUBLISHED = {
    "ade20k-847": {"dinov3.seg (paper)": 20.09, "best elsewhere": 18.1, "by": "ESC-Net"},
    "pascal-context-459": {"dinov3.seg (paper)": 27.80, "best elsewhere": 27.0, "by": "ESC-Net"},
    "ade20k-150": {"dinov3.seg (paper)": 42.19, "best elsewhere": 44.0, "by": "RetCLIP"},
    "pascal-context-59": {"dinov3.seg (paper)": 64.27, "best elsewhere": 65.6, "by": "ESC-Net"},
    "pascal-voc-20": {"dinov3.seg (paper)": 97.86, "best elsewhere": 98.5, "by": "DPSeg"},
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image of a downloaded data set and how to read its annotation."""

    name: str
    image: Path
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One data set and its protocol.

    Attributes:
        name: Name of the benchmark and of its vocabulary preset.
        title: Name of the benchmark in papers.
        splits: Number of images of each split, by split name.
        layout: Description of the files in the unpacked download.
        find: Function `(source, split)` that returns the samples of a split, sorted by name.
        ignored: Raw values without a class; any other unknown value is an error. `None`: all unknown values are
            ignored.
        short_side: Maximum length of the shorter side in pixels. Larger images are shrunk to this length, together
            with their label maps. `None`: images are not shrunk.
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


def _folder(source: Path, *candidates: str) -> Path:
    """The first of the candidate folders that exists in `source`."""
    for candidate in candidates:
        if (source / candidate).is_dir():
            return source / candidate
    raise ValueError(f"Folder {' or '.join(map(repr, candidates))} was not found in {str(source)!r}.")


def _file(source: Path, *candidates: str) -> Path:
    for candidate in candidates:
        if (source / candidate).is_file():
            return source / candidate
    raise ValueError(f"File {' or '.join(map(repr, candidates))} was not found in {str(source)!r}.")


def _paired(images: Path, annotations: Path, read: Callable[[Path], np.ndarray]) -> list[Sample]:
    """The samples of two folders: images and annotations with the same file stem."""
    maps = {path.stem: path for path in annotations.glob("*.png")}
    photos = {path.stem: path for path in images.glob("*.jpg")}
    _refuse_unpaired(photos, maps, images, annotations)
    return [Sample(name, photos[name], functools.partial(read, maps[name])) for name in sorted(maps)]


def _refuse_unpaired(photos: dict[str, Any], maps: dict[str, Any], images: Path, annotations: Path) -> None:
    for those, others, kind, what, place in (
        (maps, photos, "annotations", "image", images),
        (photos, maps, "images", "annotation", annotations),
    ):
        if missing := sorted(set(those) - set(others)):
            raise ValueError(
                f"{len(missing)} of {len(those)} {kind} do not have an {what} in {str(place)!r}, such as "
                f"{missing[0]!r}. Unpack the download again."
            )


class UnsafeNameError(ValueError):
    """Raised if a list of files names one outside of its folder."""


def _inside(folder: Path, name: str) -> Path:
    """Returns a file of a folder by the name that a list of the download gives.

    Raises:
        UnsafeNameError: If the name leads out of the folder: whoever wrote the list could read any file.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise UnsafeNameError(
            f"A list of the download names the file {quoted(name)}; expected a file inside of {str(folder)!r}. "
            "Download the data set again, from its authors."
        )
    return folder / parts


def _read_png(path: Path) -> np.ndarray:
    """The pixel values of a PNG: 8-bit or 16-bit gray levels, or palette indices."""
    from ..model.image_input import read_label_map  # imports torch

    return read_label_map(path).numpy()


def _read_rgb_ids(path: Path) -> np.ndarray:
    from .rows import ade20k_raw_ids  # imports torch

    with Image.open(path, formats=safe_formats()) as image:
        if image.mode != "RGB":
            raise ValueError(
                f"the annotation {str(path)!r} has mode {image.mode}; expected RGB, the encoding of ADE20K. Unpack the "
                "download again."
            )
        return ade20k_raw_ids(np.asarray(image))


def _read_mat(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many types of errors for unreadable files
        raise ValueError(
            f"the annotation {str(path)!r} cannot be read ({error}). Unpack the download again."
        ) from error
    if "LabelMap" not in content:
        raise ValueError(
            f"the annotation {str(path)!r} contains {', '.join(sorted(content))}; expected 'LabelMap'. Unpack the "
            "download again."
        )
    return content["LabelMap"].astype(np.int64)


def _read_merged(annotations: Sequence[dict], size: tuple[int, int]) -> np.ndarray:
    """Merges masks into one map of category ids: later masks cover earlier masks, pixels without a mask are 0."""
    from pycocotools import mask as coco_mask

    raw = np.zeros(size, np.int64)
    for annotation in annotations:
        encoded = annotation["segmentation"]
        if isinstance(encoded, list) or isinstance(encoded.get("counts"), list):  # polygons, or uncompressed RLE
            encoded = coco_mask.frPyObjects(encoded, *size)
        if isinstance(encoded, list):
            encoded = coco_mask.merge(encoded)
        mask = coco_mask.decode(encoded)  # (H, W), 0 or 1
        if mask.shape != size:
            raise ValueError(
                f"the mask of annotation {annotation.get('id')} has size {mask.shape}; expected the size of the image, "
                f"{size} (height, width). Unpack the download again."
            )
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
    maps = {path.name.removesuffix("_seg.png"): path for path in root.rglob("*_seg.png")}  # one folder per scene type
    photos = {name: path.with_name(f"{name}.jpg") for name, path in maps.items()}
    photos = {name: path for name, path in photos.items() if path.is_file()}
    _refuse_unpaired(photos, maps, root, root)
    return [Sample(name, photos[name], functools.partial(_read_rgb_ids, maps[name])) for name in sorted(maps)]


def _find_pascal_context_59(source: Path, split: str) -> list[Sample]:
    images = _folder(source, "VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages", "JPEGImages")
    path = _file(source, "trainval_merged.json", "VOCdevkit/VOC2010/trainval_merged.json")
    try:
        content = load_json(path.read_text(encoding="utf-8"))
        records = [record for record in content["images"] if record["phase"] == "val"]
        annotations_of: dict[Any, list[dict]] = {record["image_id"]: [] for record in records}
        for annotation in content["annos_segmentation"]:
            if annotation["image_id"] in annotations_of:
                annotations_of[annotation["image_id"]].append(annotation)
        photos = {Path(name).stem: _inside(images, name) for name in (record["file_name"] for record in records)}
        sizes = {record["image_id"]: (int(record["height"]), int(record["width"])) for record in records}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UnsafeNameError):
            raise
        raise ValueError(
            f"{str(path)!r} is not the merged annotation file of Pascal Context ({plain_reason(error)}); expected "
            "'images' with phase and image_id, and 'annos_segmentation' with image_id, category_id and segmentation."
        ) from error
    photos = {name: photo for name, photo in photos.items() if photo.is_file()}
    _refuse_unpaired(photos, {Path(record["file_name"]).stem: record for record in records}, images, path)
    samples = []
    for record in records:
        name = Path(record["file_name"]).stem
        read = functools.partial(_read_merged, annotations_of[record["image_id"]], sizes[record["image_id"]])
        samples.append(Sample(name, photos[name], read))
    return sorted(samples, key=lambda sample: sample.name)


def _find_pascal_context_459(source: Path, split: str) -> list[Sample]:
    images = _folder(source, "VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages", "JPEGImages")
    maps = _folder(source, "trainval", "VOCdevkit/VOC2010/trainval", "pascal_context/trainval")
    voc = images.parent
    listed = _file(voc, "ImageSets/SegmentationContext/val.txt", "pascalcontext_val.txt", "ImageSets/Main/val.txt")
    samples = []
    for line in read_text_up_to(listed).splitlines():
        # one image of the list was never fully annotated and does not belong to the benchmark
        if line.strip() and (path := _inside(maps, f"{line.split()[0]}.mat")).is_file():
            photo = images / f"{path.stem}.jpg"
            if not photo.is_file():
                raise ValueError(f"Image {str(photo)!r} was not found. Unpack the download again.")
            samples.append(Sample(path.stem, photo, functools.partial(_read_mat, path)))
    return sorted(samples, key=lambda sample: sample.name)


def _find_pascal_voc(source: Path, split: str) -> list[Sample]:
    root = _folder(source, "VOCdevkit/VOC2012", "VOC2012", ".")
    names = read_text_up_to(_file(root, "ImageSets/Segmentation/val.txt")).split()
    photos = {name: _inside(root / "JPEGImages", f"{name}.jpg") for name in names}
    maps = {name: _inside(root / "SegmentationClass", f"{name}.png") for name in names}
    for path in (*photos.values(), *maps.values()):
        if not path.is_file():
            raise ValueError(
                f"File {str(path)!r}, listed in ImageSets/Segmentation/val.txt, was not found. Unpack the download "
                "again."
            )
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
    """The benchmark with a name or title; letter case is ignored.

    Raises:
        ValueError: If the name is unknown; the message lists all benchmarks.
    """
    for benchmark in BENCHMARKS.values():
        if name.casefold() in (benchmark.name, benchmark.title.casefold()):
            return benchmark
    known = ", ".join(f"{benchmark.title} ({benchmark.name})" for benchmark in BENCHMARKS.values())
    raise ValueError(f"Unknown benchmark {name!r}; expected one of {known}.")


def prepared_folder(benchmark: Benchmark, data: Path) -> Path:
    """The folder of a prepared benchmark in the folder of all of them.

    Raises:
        ValueError: If it does not exist; the message says how to create it.
    """
    place = data / benchmark.name
    if not place.is_dir():
        raise ValueError(
            f"Folder {str(place)!r} was not found. Create it with `dinov3seg prepare {benchmark.title} --source ... "
            f"--output {place}`, or choose another --data."
        )
    return place


__all__ = ["BENCHMARKS", "PUBLISHED", "Benchmark", "Sample", "find_benchmark", "prepared_folder"]
