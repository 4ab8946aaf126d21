# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The images that a command is given: files, folders, patterns and addresses, in the order of the command line."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from ..file_names import IMAGE_ENDINGS, MASK_ENDINGS


@dataclass(frozen=True)
class ImageInput:
    """An image to read.

    Attributes:
        source: A path or an address.
        name: The path of its output files in a folder, without ending: the name of the image, and below a folder that
            was searched recursively also its subfolders.
    """

    source: str
    name: Path

    @property
    def path(self) -> Path | None:
        """The file; `None` for an address."""
        return None if is_address(self.source) else Path(self.source)

    @property
    def file_name(self) -> str:
        """The name in annotations: `name` with the ending of the image, and "/" between folders."""
        if self.path is not None:
            ending = self.path.suffix
        else:
            ending = PurePosixPath(urlparse(self.source).path).suffix
            ending = ending if ending.lower() in IMAGE_ENDINGS else ""  # an address may end in that of a program
        return f"{self.name.as_posix()}{ending or '.png'}"


def find_images(given: Sequence[str], recursive: bool = False) -> list[ImageInput]:
    """Finds the images.

    Args:
        given: Files, HTTP(S) addresses, folders (their image files, sorted by name), or patterns with `*`, `?` and `[]`
            that the shell did not replace (`**` for any subfolders).
        recursive: Whether to search the subfolders of folders, too. Hidden files and folders are left out.

    Returns:
        The images; a file that is found several times stands at its first place only.

    Raises:
        ValueError: If a file does not exist, or a folder or pattern has no images.
    """
    found: dict[object, ImageInput] = {}
    for item in given:
        for image in _images_of(item, recursive):
            path = image.path
            found.setdefault(image.source if path is None else path.resolve(), image)
    return list(found.values())


def find_masks(images: Sequence[ImageInput], folder: Path) -> list[Path]:
    """Finds the mask of each image: the file with the same name and the ending of a lossless format.

    Raises:
        ValueError: If the folder does not exist, or an image has no mask or several.
    """
    if not folder.is_dir():
        raise ValueError(f"The folder of masks {str(folder)!r} was not found. Check the path.")
    masks = []
    for image in images:
        found = [path for ending in MASK_ENDINGS if (path := folder / f"{image.name}{ending}").is_file()]
        if len(found) != 1:
            raise ValueError(
                f"The image {image.source!r} has {len(found)} masks in {str(folder)!r}; expected one file "
                f"{image.name} that ends in {', '.join(MASK_ENDINGS)}. Add or remove masks, or move the image away."
            )
        masks += found
    return masks


def is_address(image: str) -> bool:
    return image.startswith(("http://", "https://", "data:image/"))


def _images_of(item: str, recursive: bool) -> Iterator[ImageInput]:
    path = Path(item)
    if is_address(item):
        stem = "" if item.startswith("data:image/") else Path(urlparse(item).path).stem
        yield ImageInput(item, Path(stem or "image"))
    elif path.is_dir():
        images = [file for file in _files_in(path, recursive) if file.suffix.lower() in IMAGE_ENDINGS]
        if not images:
            remedy = "Check the path." if recursive else "Check the path, or search its subfolders (--recursive)."
            raise ValueError(f"The folder {item!r} contains no images ({', '.join(IMAGE_ENDINGS)}). {remedy}")
        for file in images:
            yield ImageInput(str(file), file.relative_to(path).with_suffix(""))
    elif path.exists():
        yield ImageInput(item, Path(path.stem or "image"))
    elif glob.has_magic(item):
        files = [file for file in sorted(glob.glob(item, recursive=True)) if Path(file).is_file()]
        if not files:
            raise ValueError(f"The pattern {item!r} matches no file (current directory: {os.getcwd()!r}).")
        for name in files:
            yield ImageInput(name, Path(Path(name).stem))
    else:
        raise ValueError(f"Image {item!r} was not found (current directory: {os.getcwd()!r}). Check the path.")


def _files_in(folder: Path, recursive: bool) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield path
        elif recursive and path.is_dir() and not path.is_symlink():  # links could lead back
            yield from _files_in(path, recursive)
