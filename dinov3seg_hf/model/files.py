# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Atomic file writes, one error message for disks that are full, missing or not writable, and bounded reads of text.

A process that is killed leaves its temporary files behind. The next process that writes to the folder removes them;
those of running processes are locked.
"""

import contextlib
import errno
import glob
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .checks import first_line

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

FREE_SPACE = "Free disk space, and run the same again; what was written before is complete."

MAX_TEXT_BYTES = 64 * 2**20  # of a file that people write: class names, cards, configurations

TEMPORARY_FILE = re.compile(r"\.[0-9a-f]{32}\.tmp")
_swept: set[str] = set()


@contextmanager
def disk_errors_as_value_errors(
    what: str, remedy: str | None = None, error_class: type[ValueError] = ValueError
) -> Iterator[None]:
    """Converts an `OSError` or `SafetensorError` inside the `with` block to a `ValueError` with a remedy.

    Args:
        what: The object that is written, as the beginning of a sentence.
        remedy: The remedy, as a full sentence. Default: another folder or disk, or more space on a full one.
        error_class: The class of the error that is raised.

    Raises:
        ValueError: If the block raises an `OSError`, for example because the disk is full, missing or not writable.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) or not _is_of_a_disk(error):
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        if remedy is None:
            remedy = FREE_SPACE if is_of_full_disk(error) else "Choose a path in a writable folder."
            if getattr(error, "errno", None) == errno.EFBIG:
                remedy = "Choose a path on a disk that allows larger files."
        raise error_class(f"{what} cannot be written: {reason}. {remedy}") from error


def is_of_full_disk(error: BaseException | None) -> bool:
    """Returns whether a full disk or an exceeded quota is among the causes of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_of_a_disk(error: Exception) -> bool:
    # by name, because this folder does not import safetensors, whose writer reports a full disk with its own class
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


def read_text_up_to(path: str | os.PathLike[str], what: str = "The file", limit: int = MAX_TEXT_BYTES) -> str:
    """Reads UTF-8 text, without a byte order mark and with the line ends of Python.

    Args:
        path: The file.
        what: What it is, as the beginning of a sentence.
        limit: The most bytes that are read.

    Raises:
        ValueError: If the file cannot be read, is larger, or is not UTF-8.
    """
    what = f"{what} {os.fspath(path)!r}"
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{what} cannot be read: {error.strerror}. Check the path.") from error
    if len(content) > limit:
        raise ValueError(f"{what} is larger than {limit / 2**20:.3g} MiB; expected a text file. Check the path.")
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8 text ({error}). Save the file as UTF-8.") from error


@contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file next to `path` for writing, and renames it at the end of the `with` block.

    Readers never see a partial file. If the block raises an error, the temporary file is removed.

    Raises:
        ValueError: If the path cannot be written.
    """
    path = Path(path)
    with disk_errors_as_value_errors(repr(str(path))):
        if (folder := os.path.abspath(path.parent)) not in _swept:
            _swept.add(folder)
            remove_leftovers(path.parent, TEMPORARY_FILE)
        temporary, file = _new_temporary(path.parent)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if fcntl is not None:
                    os.replace(temporary, path)  # before the lock ends with the file
            if fcntl is None:
                os.replace(temporary, path)  # Windows renames closed files only
        finally:
            temporary.unlink(missing_ok=True)


def _new_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        file = open(temporary, "xb")
        lock(file.fileno())
        if temporary.exists():
            return temporary, file
        file.close()  # removed by another process before it was locked


def lock(descriptor: int) -> None:
    """Marks an open file or folder as in use until it is closed; see `remove_leftovers`."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks, on which nothing is removed
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int) -> bool:
    """Marks an open file as in use until it is closed; `False` if another process has done so."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Marks a folder as in use inside the `with` block; see `remove_leftovers`."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: re.Pattern[str]) -> None:
    """Removes the temporary files and folders of killed processes; those in use are locked, and stay.

    Args:
        folder: The folder, which may not exist.
        name: The names of the temporary files and folders.
    """
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [Path(entry) for entry in entries if name.fullmatch(entry.name) and not entry.is_symlink()]
        for leftover in found:
            with contextlib.suppress(OSError):  # in use, or removed by another process
                is_folder = leftover.is_dir()
                descriptor = os.open(leftover, os.O_RDONLY if is_folder else os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(leftover) if is_folder else leftover.unlink()
                finally:
                    os.close(descriptor)


@contextmanager
def open_folder_atomically(output: Path) -> Iterator[Path]:
    """Yields an empty folder beside `output`, which takes its place at the end of the `with` block.

    If the block raises an error, an earlier `output` stays as it was, and the new folder is removed. Of a link, the
    folder that it leads to is replaced.
    """
    output = Path(os.path.realpath(output))  # a link would be replaced itself, and "." has no name
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.partial")
    earlier = partial.with_suffix(".earlier")
    recover_folder(output)
    try:
        partial.mkdir(parents=True)
        with locked_folder(partial):
            yield partial
            if output.exists():
                output.rename(earlier)
            partial.rename(output)
    finally:
        if earlier.exists() and not output.exists():
            earlier.rename(output)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)


def recover_folder(output: Path) -> None:
    """Removes what a killed process left beside a folder that it wrote; an earlier folder comes back."""
    output = Path(os.path.realpath(output))
    earlier = sorted(output.parent.glob(f".{glob.escape(output.name)}.????????.earlier"))
    if earlier and not output.exists():
        with contextlib.suppress(OSError):  # the process that writes there will name the reason
            earlier.pop().rename(output)
    name = re.escape(output.name)
    remove_leftovers(output.parent, re.compile(rf"\.{name}\.[0-9a-f]{{8}}\.(partial|earlier)"))


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file in one piece; see `open_atomically`.

    Raises:
        ValueError: If the path cannot be written.
    """
    with open_atomically(path) as file:
        file.write(content)
