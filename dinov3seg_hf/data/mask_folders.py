# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Opens a folder of images beside a folder of masks, the layout of most hand-labeled data, as a `datasets` data set.

Recognized layouts, for each split:

- `train/images/*.jpg` with `train/masks/*.png`
- `images/train/*.jpg` with `masks/train/*.png`
- `images/*.jpg` with `masks/*.png`: the split is named train

The folder of masks may also be named `annotations` or `labels`; if several of them exist, the first that holds masks
counts. An image and its mask have the same name up to the
ending. Reads file names only, not pixels.
"""

from collections.abc import Iterator
from pathlib import Path

import datasets

from ..file_names import IMAGE_ENDINGS, MASK_ENDINGS

IMAGES = "images"
MASKS = ("masks", "annotations", "labels")
# Files that list the class names, in the root folder.
CLASS_FILES = ("classes.tsv", "classes.json", "classes.txt", "labels.tsv", "labels.json", "labels.txt")


def find_mask_folders(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Returns the folder of images and the folder of masks of each split; empty if the folder has another layout.

    Of several folders that may hold the masks of a split, the first in the order of `MASKS` that has a file in a format
    of masks counts: `labels` and `annotations` beside `masks` often contain text or JSON for other tools.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for split, images, masks in _candidates(folder):
        if split not in found or (_holds_masks(masks) and not _holds_masks(found[split][1])):
            found[split] = (images, masks)
    return found


def _candidates(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yields splits with a folder of images and one that may hold their masks, in the order of `MASKS`."""
    for name in MASKS:
        if holds_files(folder / IMAGES) and holds_files(folder / name):
            yield "train", folder / IMAGES, folder / name
        for split in subfolders(folder):
            if (split / IMAGES).is_dir() and (split / name).is_dir():
                yield split.name, split / IMAGES, split / name
        for split in subfolders(folder / name):
            if (folder / IMAGES / split.name).is_dir():
                yield split.name, folder / IMAGES / split.name, split


def _holds_masks(folder: Path) -> bool:
    return any(file.suffix.lower() in MASK_ENDINGS for file in _files(folder))


def open_mask_folders(splits: dict[str, tuple[Path, Path]]) -> datasets.DatasetDict:
    """Returns the splits with the columns `image` and `mask`, in the order of the file names.

    Raises:
        ValueError: If a split has no images, an image has no mask or several, a mask has no image, or masks are in a
            lossy format.
    """
    return datasets.DatasetDict({split: _paired(*folders) for split, folders in splits.items()})


def class_file(folder: Path) -> Path | None:
    """Returns the file with the class names in the root folder; `None` if there is none."""
    return next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)


def _paired(images: Path, masks: Path) -> datasets.Dataset:
    image_of, mask_of = _by_stem(images, IMAGE_ENDINGS), _by_stem(masks, MASK_ENDINGS)
    if not image_of:
        raise ValueError(f"{str(images)!r} contains no images; expected {', '.join(IMAGE_ENDINGS)}. Check the folder.")
    if lonely := sorted(image_of.keys() - mask_of.keys()):
        others = [file.name for file in _files(masks) if file.stem == lonely[0]]
        raise ValueError(
            f"{len(lonely)} images in {str(images)!r} have no mask in {str(masks)!r}, for example "
            f"{image_of[lonely[0]].name}"
            + (f", which has only {others[0]}" if others else "")
            + f"; expected the same name with {', '.join(MASK_ENDINGS)}. Add the masks, or move the images away."
        )
    if lonely := sorted(mask_of.keys() - image_of.keys()):
        raise ValueError(
            f"{len(lonely)} masks in {str(masks)!r} have no image in {str(images)!r}, for example "
            f"{mask_of[lonely[0]].name}; expected the same names. Add the images, or move the masks away."
        )
    stems = sorted(image_of)
    rows = {"image": [str(image_of[stem]) for stem in stems], "mask": [str(mask_of[stem]) for stem in stems]}
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    return datasets.Dataset.from_dict(rows, features=features)


def _by_stem(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in _files(folder):
        if file.suffix.lower() in endings:
            if file.stem in found:
                raise ValueError(
                    f"{str(folder)!r} contains both {found[file.stem].name} and {file.name}; expected one file per "
                    "name. Remove one of them."
                )
            found[file.stem] = file
    return found


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith("."))


def holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(True for _ in _files(folder))


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
