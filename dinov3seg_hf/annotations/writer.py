# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The writers that all formats derive from: one file for all images, or a folder with files for each image.

A writer is opened once, gets one image after the other, and is closed. It keeps no image in memory.
"""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, NoReturn

from PIL import Image

from ..about import __version__
from ..extras import require_extra
from ..model.files import FREE_SPACE, disk_errors_as_value_errors, open_atomically, write_atomically
from ..model.image_formats import safe_formats
from ..model.vocabulary import Vocabulary
from ..visualization.files import check_writable
from .image import AnnotatedImage, Cleaned, ExportOptions, source_path
from .journal import Journal

# The EXIF tag that says how an image is rotated; 1 is upright.
ORIENTATION = 0x0112
# The remedy of a full disk for files of many images, in place of `FREE_SPACE`.
BEGIN_AGAIN = (
    "Free disk space, and run the same again; annotations in files of many images begin again with the first image."
)


class WouldOverwriteError(ValueError):
    """A file of an image exists with another content, perhaps corrected by hand. Nothing of the image was written."""


class AnnotationWriter:
    """Writes annotations, one image after the other.

    As a context manager, a writer is closed at the end, and discards unfinished files if there was an error.

    Args:
        path: The file or folder to write.
        vocabulary: The labels.
        options: The options.

    Raises:
        ValueError: If the path cannot be written, or a library is missing. Nothing is written before the first image.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("scipy",)
    extra: ClassVar[str] = "export"
    # whether a run can go on where another one stopped
    resumable: bool = False
    suffixes: ClassVar[tuple[str, ...] | None] = None
    # whether names of images are stored as text, which is UTF-8; names of files need not be
    stores_names: ClassVar[bool] = True
    # what is done of files of many images
    _journal: Journal | None = None

    def __init__(self, path: str | os.PathLike, vocabulary: Vocabulary, options: ExportOptions | None = None):
        self.path, self.vocabulary, self.options = Path(path), vocabulary, options or ExportOptions()
        if not is_text(self.options.image_prefix):
            raise ValueError(
                f"image_prefix is {self.options.image_prefix!r}, which is not UTF-8; expected text. Pass another one."
            )
        self.num_images = 0
        self._names: set[str] = set()
        small_parts = ("scipy",) if self.options.min_area > 1 else ()
        require_extra(self.extra, *self.needs, *small_parts, what=f"The format {self.name}")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels 0, 1, ..."""
        return self.vocabulary.names

    @property
    def stored_vocabulary(self) -> Vocabulary:
        """The vocabulary of the written masks: they contain labels, not the values of an original annotation."""
        given = self.vocabulary
        return Vocabulary(given.names, given.synonyms, given.templates, shared_synonyms=given.shared_synonyms)

    def add(self, image: AnnotatedImage) -> None:
        """Writes the annotations of an image. If there is an error, nothing of the image is in the result.

        Raises:
            ValueError: If the image or its files cannot be used, or an image of this name was added before.
        """
        # several formats name files after the image without its ending
        if image.stem in self._names:
            raise ValueError(
                f"An image named {image.stem!r} was added before; expected different names, also without their "
                "endings. Rename one of the images."
            )
        if self.stores_names and not is_text(image.file_name):
            raise ValueError(
                f"The file name is {image.file_name!r}, which is not UTF-8; expected text. Rename the image."
            )
        cleaned = Cleaned(image, self.options, len(self.labels))
        with self._disk_errors(f"The annotations of {image.file_name!r}"):
            if self.num_images == 0:
                self._begin()
            self._add(cleaned)
            self._note(image)
        self._names.add(image.stem)
        self.num_images += 1

    def close(self) -> None:
        """Finishes the files. Without any image, nothing is written.

        Raises:
            ValueError: If the path cannot be written.
        """
        try:
            if self.num_images:
                with self._disk_errors(repr(str(self.path))):
                    self._finish()
        finally:
            self.discard()

    @contextlib.contextmanager
    def _disk_errors(self, what: str) -> Iterator[None]:
        try:
            with disk_errors_as_value_errors(what):
                yield
        except ValueError as error:
            if self.resumable or not str(error).endswith(FREE_SPACE):
                raise
            # what waits to be written is lost
            raise ValueError(f"{str(error).removesuffix(FREE_SPACE)}{BEGIN_AGAIN}") from error

    def discard(self) -> None:
        """Removes what is not finished, and cannot be finished by another run."""
        if self._journal is not None:
            self._journal.close()

    def resume(self, run: Mapping[str, Any], sources: Mapping[str, Any]) -> frozenset[str]:
        """Goes on with an interrupted run of one file for all images, and lets another run go on with this one.

        Until it is complete, `<path>.journal` (of `parquet`, `<path>/data.journal`) contains what is done. Called once,
        before the first image. With the option `overwrite`, the interrupted run is left out.

        Args:
            run: What the annotations depend on besides the labels and options, as values of JSON: model, settings.
            sources: The file names of all images of this run, and what identifies each image, as a value of JSON, such
                as its path and time; an image with `None` is never taken as done.

        Returns:
            The file names of the images that are done, which must not be added again. None for formats with files for
            each image, see `files_of`.

        Raises:
            ValueError: If the interrupted run was another one, or another process writes the file.
        """
        if self._journal is None:
            return frozenset()
        ours, options = self.stored_vocabulary, asdict(self.options)
        del options["overwrite"]
        words = [ours.names, ours.synonyms, ours.templates]
        description = {"version": __version__, "format": self.name, "labels": words, **options, **run}
        self._journal.keep(description, sources, self._is_there, self.options.overwrite)
        self.resumable, self.num_images = True, len(self._journal)
        self._names.update(self._journal.stems)
        return frozenset(self._journal.names)

    def _is_there(self, file_name: str) -> bool:
        """Whether other files of an image exist, without which it is not done."""
        return True

    def files_of(self, file_name: str) -> list[Path]:
        """Returns the files that exist once an image is done; none if all images share one file."""
        return []

    @property
    def shared_files(self) -> list[Path]:
        """The files that hold something of all images."""
        return []

    @property
    def picture_folder(self) -> Path | None:
        """The folder in which pictures are written, which must not lie among the images; `None`: there is none."""
        return None

    def _begin(self) -> None:
        """Called before the first image."""

    def _add(self, cleaned: Cleaned) -> None:
        raise NotImplementedError

    def _note(self, image: AnnotatedImage) -> None:
        """Called after the annotations of an image were added."""

    def _finish(self) -> None:
        """Called after the last image, if there was one."""

    def __enter__(self) -> "AnnotationWriter":
        if self._journal is not None:
            self._journal.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class FileWriter(AnnotationWriter):
    """One file for all images. Records wait in a journal beside it until all images are done."""

    suffixes = (".json",)

    def __init__(self, path: str | os.PathLike, vocabulary: Vocabulary, options: ExportOptions | None = None):
        super().__init__(path, vocabulary, options)
        check_writable(self.path, self.suffixes)
        self._journal: Journal = Journal(self.path)
        self._lists: dict[str, list[str]] = {}

    @property
    def shared_files(self) -> list[Path]:
        """The file itself."""
        return [self.path]

    def add(self, image: AnnotatedImage) -> None:
        """Writes the annotations of an image. If there is an error, nothing of the image is in the result.

        Raises:
            ValueError: If the image cannot be used, or an image of this name was added before.
        """
        self._lists = {}
        super().add(image)

    def spool(self, name: str, records: Iterable[str]) -> None:
        """Adds records of the image to a list."""
        self._lists.setdefault(name, []).extend(records)

    def _note(self, image: AnnotatedImage) -> None:
        self._journal.add([image.file_name], self._lists)

    def records(self, name: str) -> Iterator[tuple[int, str]]:
        """Yields the records of a list, each with the number of its image, from 1."""
        for number, lists in enumerate(self._journal, start=1):
            yield from ((number, record) for record in lists.get(name, ()))

    def write(self, *pieces: bytes | Iterable[str], separator: bytes = b",\n") -> None:
        """Writes the file atomically: bytes as they are, and records with a separator between them.

        Raises:
            ValueError: If the path cannot be written, or the journal is damaged.
        """
        self._journal.check()
        with open_atomically(self.path) as file:
            for piece in pieces:
                if isinstance(piece, bytes):
                    file.write(piece)
                    continue
                for number, record in enumerate(piece):
                    if number:
                        file.write(separator)
                    file.write(record.encode())
        self._journal.remove()


class FolderWriter(AnnotationWriter):
    """A folder with files for each image, and a file with the labels of all of them.

    A run can go on where another one stopped: the files of an image are complete when they exist. An image whose files
    exist with another content is refused, unless `overwrite` is set: a person may have corrected them. Files that hold
    the labels of all images and exist are kept.
    """

    resumable = True
    labels_file: ClassVar[str] = "labels.json"
    # the folder of images, and the folder and ending of the file that is written last
    images_folder: ClassVar[str | None] = "images"
    files_folder: ClassVar[str] = ""
    ending: ClassVar[str]

    def __init__(self, path: str | os.PathLike, vocabulary: Vocabulary, options: ExportOptions | None = None):
        super().__init__(path, vocabulary, options)
        check_folder(self.path)
        self._check_labels()

    @property
    def shared_files(self) -> list[Path]:
        """The file of labels."""
        return [self.path / self.labels_file]

    def _check_labels(self) -> None:
        file = self.path / self.labels_file
        if file.is_file() and not self._has_same_labels(file):
            self._refuse_labels(file)

    def _refuse_labels(self, file: Path) -> NoReturn:
        raise ValueError(
            f"{str(self.path)!r} contains annotations with other labels; expected those of {str(file)!r}. Choose "
            "another folder, or remove the annotations."
        )

    def _has_same_labels(self, file: Path) -> bool:
        found, ours = Vocabulary.from_file(file), self.stored_vocabulary
        return (found.names, found.ignore_label, found.raw_ids) == (ours.names, ours.ignore_label, ours.raw_ids)

    def _save_labels(self) -> None:
        """Writes the labels of all images; a file that exists has the same ones, and can have more of a person."""
        if self._may_write(file := self.path / self.labels_file):
            self.stored_vocabulary.save(file)

    def _may_write(self, file: Path) -> bool:
        return self.options.overwrite or not file.exists()

    def files_of(self, file_name: str) -> list[Path]:
        """Returns the file of an image that is written last."""
        return [self.path / self.files_folder / PurePosixPath(file_name).with_suffix(self.ending)]

    @property
    def picture_folder(self) -> Path | None:
        """The folder itself."""
        return self.path

    def file_of(self, image: AnnotatedImage) -> Path:
        """Returns the file of an image that is written last."""
        (path,) = self.files_of(image.file_name)
        return path

    def _begin(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._check_labels()
        self._save_labels()

    def _add(self, cleaned: Cleaned) -> None:
        files = self._contents(cleaned)
        if self.options.overwrite:
            self._remove_old(self.file_of(cleaned.image))
        else:
            for path, content in files:
                if path.exists() and not _contains(path, content):
                    raise WouldOverwriteError(
                        f"{str(path)!r} exists with another content than the one for {cleaned.image.file_name!r}, so "
                        "the annotations of this image stay as they are. Keep them with --skip-existing, replace them "
                        "with --overwrite (in Python: overwrite=True), or choose another folder."
                    )
        for path, content in files:
            if not _contains(path, content):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)

    def _contents(self, cleaned: Cleaned) -> Sequence[tuple[Path, bytes]]:
        """Returns the files of an image and their contents; the last one is that of `file_of`."""
        raise NotImplementedError

    def _remove_old(self, file: Path) -> None:
        """Removes files of an image that a new run does not replace.

        Args:
            file: The file of the image that was written last.
        """

    def stored_image(self, image: AnnotatedImage) -> tuple[Path, bytes | None] | None:
        """The image in its folder: the file itself, or a PNG if the file is rotated by EXIF or does not exist.

        Returns:
            The file, and the content to write, `None` if it is there already; `None` if images are not copied.

        Raises:
            ValueError: If there are no pixels, or the image is rotated and its own folder is the target.
        """
        if not self.options.copy_images:
            return None
        target = self.path / (self.images_folder or "") / image.file_name
        source = source_path(image)
        upright = source is not None and is_stored_upright(source, image)
        if source is not None and target.exists() and os.path.samefile(source, target):
            if not upright:
                raise ValueError(
                    f"{str(source)!r} is rotated by its EXIF orientation, which readers of annotations ignore; "
                    "expected an upright image. Choose another folder, or rotate the pixels."
                )
            return target, None  # already where it belongs
        if source is not None and upright and source.suffix.lower() == target.suffix.lower():
            return target, source.read_bytes()
        return target.with_suffix(".png"), as_png(image.pixels())

    def new_image(self, image: AnnotatedImage) -> list[tuple[Path, bytes]]:
        """Returns the file of `stored_image` as far as it is to be written."""
        stored = self.stored_image(image)
        return [] if stored is None or stored[1] is None else [(stored[0], stored[1])]


def _contains(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def as_png(image: Image.Image) -> bytes:
    """Returns a picture as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def is_text(name: str) -> bool:
    """Returns whether a name is text, which can be stored; names of files on Linux are any bytes."""
    return name.encode(errors="ignore").decode() == name


def check_folder(path: Path) -> None:
    """Checks that files can be written into a folder, or that it can be created. Leaves nothing behind.

    Raises:
        ValueError: If the path is a file, or the folder cannot be written or created.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{str(path)!r} is a file; expected a folder, or nothing. Choose another name.")
    check_writable(path / "labels.json" if path.is_dir() else path)


def is_stored_upright(file: Path | BinaryIO, image: AnnotatedImage) -> bool:
    """Returns whether a reader that knows nothing of EXIF sees the image that was labeled."""
    try:
        with Image.open(file, formats=safe_formats()) as stored:
            return stored.getexif().get(ORIENTATION, 1) == 1 and stored.size == (image.width, image.height)
    except Exception:  # damaged files raise OSError, SyntaxError, ValueError, struct.error and others
        return False
