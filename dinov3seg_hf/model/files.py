# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Atomic file writes, and one error message for disks that are full, missing or not writable."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .checks import first_line


@contextmanager
def disk_errors_as_value_errors(what: str, remedy: str, error_class: type[ValueError] = ValueError) -> Iterator[None]:
    """Converts an `OSError` or `SafetensorError` inside the `with` block to a `ValueError` with a remedy.

    Args:
        what: The object that is written, as the beginning of a sentence.
        remedy: The remedy, as a full sentence.
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
        raise error_class(f"{what} cannot be written: {reason}. {remedy}") from error


def _is_of_a_disk(error: Exception) -> bool:
    # by name, because this folder does not import safetensors, whose writer reports a full disk with its own class
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


@contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file next to `path` for writing, and renames it at the end of the `with` block.

    Readers never see a partial file. If the block raises an error, the temporary file is removed.

    Raises:
        ValueError: If the path cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with disk_errors_as_value_errors(repr(str(path)), "Choose a path in a writable folder."):
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file in one piece; see `open_atomically`.

    Raises:
        ValueError: If the path cannot be written.
    """
    with open_atomically(path) as file:
        file.write(content)
