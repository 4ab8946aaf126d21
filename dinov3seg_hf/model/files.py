# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Atomic file writes, and one error message for disks that are full, missing or not writable."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def disk_errors_as_value_errors(what: str, remedy: str, error_class: type[ValueError] = ValueError) -> Iterator[None]:
    """Converts an `OSError` inside the `with` block to a `ValueError` with a remedy.

    Args:
        what: The object that is written, as the beginning of a sentence.
        remedy: The remedy, as a full sentence.
        error_class: The class of the error that is raised.

    Raises:
        ValueError: If the block raises an `OSError`, for example because the disk is full, missing or not writable.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ValueError):  # already a ValueError
            raise
        raise error_class(f"{what} cannot be written: {error.strerror or error}. {remedy}") from error


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a temporary file next to `path`, then renames it: readers never see a partial file.

    Raises:
        ValueError: If the path cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with disk_errors_as_value_errors(repr(str(path)), "Choose a path in a writable folder."):
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
