# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The images that a command is given: files, folders, patterns and addresses, in the order of the command line."""

import glob
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlparse

from ..file_names import IMAGE_ENDINGS, MASK_ENDINGS, VIDEO_ENDINGS
from .console import print_error

if TYPE_CHECKING:
    from PIL import Image

Item = TypeVar("Item")
Result = TypeVar("Result")

STDIN = "-"
# A JPEG with several pictures (MPO) has its thumbnail or its other eye in the others.
ONE_FRAME_ENDINGS = (".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class ImageInput:
    """An image to read.

    Attributes:
        source: A path or an address.
        name: The path of its output files in a folder, without ending: the name of the image, and below a folder that
            was searched recursively also its subfolders.
        frame: The number of the page or frame, from 0; `None`: the file has one, or its first one is meant.
        content: The bytes of an image on standard input, which can be read only once.
    """

    source: str
    name: Path
    frame: int | None = None
    content: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> Path | None:
        """The file; `None` for an address and for standard input."""
        return None if is_address(self.source) or self.source == STDIN else Path(self.source)

    @property
    def identity(self) -> list[str | int | None] | None:
        """What tells the image from others and from earlier ones, as a value of JSON; `None`: nothing does."""
        if self.source == STDIN:
            return None
        if self.path is None:
            return [
                hashlib.sha256(self.source.encode(errors="surrogatepass")).hexdigest()
            ]  # "data:" addresses are long
        try:
            stat = self.path.stat()
        except OSError:  # reported where the image is read
            return None
        return [str(self.path.resolve()), self.frame, stat.st_size, stat.st_mtime_ns]

    @property
    def is_video(self) -> bool:
        """Whether the ending is that of a video."""
        name = self.source if self.path is not None else urlparse(self.source).path
        return PurePosixPath(name).suffix.lower() in VIDEO_ENDINGS

    @property
    def title(self) -> str:
        """The name for people: the source, and the number of the page or frame, from 1."""
        return self.source if self.frame is None else f"{self.source} ({self.frame + 1})"

    @property
    def file(self) -> "str | io.BytesIO":
        """What PIL opens."""
        return self.source if self.content is None else io.BytesIO(self.content)

    @property
    def stored_source(self) -> str | None:
        """The source, if its file is this image and nothing else."""
        return None if self.frame is not None or self.source == STDIN else self.source

    def open(self, max_pixels: int) -> "Image.Image":
        """Reads the image; see `open_image` for the errors."""
        from PIL import Image

        from ..model.image_formats import safe_formats
        from ..model.image_input import ImageError, open_image

        if self.frame is None:
            return open_image(self.source if self.content is None else self.content, max_pixels)
        try:
            with Image.open(self.file, formats=safe_formats()) as file:
                file.seek(self.frame)
                return open_image(file, max_pixels)
        except ImageError:
            raise
        except Exception as error:  # as in `num_frames`
            raise ImageError(
                f"The image {self.title!r} could not be decoded ({error}). The file may be truncated or damaged."
            ) from error

    @property
    def file_name(self) -> str:
        """The name in annotations: `name` with the ending of the image, and "/" between folders."""
        if self.path is not None:
            ending = self.path.suffix if self.frame is None else ".png"
        else:
            ending = PurePosixPath(urlparse(self.source).path).suffix
            ending = ending if ending.lower() in IMAGE_ENDINGS else ""  # an address may end in that of a program
        return f"{self.name.as_posix()}{ending or '.png'}"


def find_images(
    given: Sequence[str],
    recursive: bool = False,
    *,
    stdin: bool = False,
    all_frames: bool = False,
    videos: bool = False,
) -> list[ImageInput]:
    """Finds the images.

    Args:
        given: Files, HTTP(S) addresses, folders (their image files, sorted by name), or patterns with `*`, `?` and `[]`
            that the shell did not replace (`**` for any subfolders).
        recursive: Whether to search the subfolders of folders, too. Hidden files and folders are left out.
        stdin: Whether `-` is the image on standard input, and not a file.
        all_frames: Whether each page or frame of a file is an image, named after the file and its number from 1.
        videos: Whether a folder without images stands for its videos.

    Returns:
        The images; a file that is found several times stands at its first place only.

    Raises:
        ValueError: If a file does not exist, or a folder or pattern has no images.
    """
    found: dict[object, ImageInput] = {}
    for item in given:
        is_stdin = stdin and item == STDIN
        images: Iterable[ImageInput]
        if is_stdin:
            images = [ImageInput(STDIN, Path("stdin"), content=sys.stdin.buffer.read())]
        else:
            images = _images_of(item, recursive, videos)
        for image in images:
            path = image.path
            found.setdefault(image.source if path is None else path.resolve(), image)
    return [frame for image in found.values() for frame in (_frames_of(image) if all_frames else (image,))]


def num_frames(image: ImageInput) -> int:
    """The number of pages or frames of a file; 1 if it cannot be read, which is reported where it is read."""
    if image.content is None and image.path is None:
        return 1
    if image.path is not None and image.path.suffix.lower() in (*ONE_FRAME_ENDINGS, *VIDEO_ENDINGS):
        return 1
    from PIL import Image

    from ..model.image_formats import safe_formats

    try:
        with Image.open(image.file, formats=safe_formats()) as file:
            return getattr(file, "n_frames", 1)
    except Exception:  # damaged files raise OSError, SyntaxError, ValueError, struct.error and others
        return 1


def warn_of_frames(images: Sequence[ImageInput]) -> None:
    """Tells of files with several pages or frames, of which the first one is segmented."""
    several = [(image, number) for image in images if (number := num_frames(image)) > 1]
    if several:
        (image, number), more = several[0], len(several) - 1
        others = f" and {more} more file{'s' * (more > 1)} have" if more else " has"
        source = "standard input" if image.source == STDIN else image.source
        print_error(
            "dinov3seg segment",
            f"{source}{others} several pages or frames ({number}); the first one is segmented. Add --all-frames for "
            "all of them.",
        )


def _frames_of(image: ImageInput) -> list[ImageInput]:
    if is_address(image.source):
        raise ValueError(f"Got --all-frames and the address {image.source!r}; expected files. Download it first.")
    number = num_frames(image)
    if number == 1:
        return [image]
    digits = len(str(number))
    return [
        replace(image, name=image.name.with_name(f"{image.name.name}_{frame + 1:0{digits}d}"), frame=frame)
        for frame in range(number)
    ]


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


def each_readable(prog: str, items: Iterable[Item], read: Callable[[Item], Result]) -> Iterator[Result]:
    """Yields what is read of each item. One that cannot be read is reported and left out, unless it is the first one.

    After the first one, there is work that an error must not throw away.

    Args:
        prog: The name of the command in messages.
        items: What to read.
        read: Reads an item.

    Raises:
        ValueError: If the first item cannot be read; also `OSError` and `MemoryError`.
    """
    from tqdm import tqdm

    from ..batches import IMAGE_ERRORS

    is_first = True
    for item in items:
        try:
            result = read(item)
        except IMAGE_ERRORS as error:
            if is_first:
                raise
            with tqdm.external_write_mode(file=sys.stderr):
                print_error(prog, error)
            continue
        is_first = False
        yield result


def is_address(image: str) -> bool:
    return image.startswith(("http://", "https://", "data:image/"))


def _images_of(item: str, recursive: bool, videos: bool) -> Iterator[ImageInput]:
    path = Path(item)
    if is_address(item):
        stem = "" if item.startswith("data:image/") else Path(urlparse(item).path).stem
        yield ImageInput(item, Path(stem or "image"))
    elif path.is_dir():
        files = list(_files_in(path, recursive))
        images = [file for file in files if file.suffix.lower() in IMAGE_ENDINGS]
        if videos and not images:
            images = [file for file in files if file.suffix.lower() in VIDEO_ENDINGS]
        if not images:
            remedy = "Check the path." if recursive else "Check the path, or search its subfolders (--recursive)."
            raise ValueError(f"The folder {item!r} contains no images ({', '.join(IMAGE_ENDINGS)}). {remedy}")
        for file in images:
            yield ImageInput(str(file), file.relative_to(path).with_suffix(""))
    elif path.exists():
        yield ImageInput(item, Path(path.stem or "image"))
    elif glob.has_magic(item):
        matches = [file for file in sorted(glob.glob(item, recursive=True)) if Path(file).is_file()]
        if not matches:
            raise ValueError(f"The pattern {item!r} matches no file (current directory: {os.getcwd()!r}).")
        for name in matches:
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
