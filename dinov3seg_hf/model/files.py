# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Files that appear whole or not at all, and disks that are full or gone in one sentence."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def disk_errors_as_value_errors(what: str, remedy: str, error_class: type[ValueError] = ValueError) -> Iterator[None]:
    """Inside, a disk that is full, gone or not ours to write to is told in one sentence.

    Args:
        what: What is being written, at the beginning of a sentence.
        remedy: What to do about it, a sentence.
        error_class: What is raised.

    Raises:
        ValueError: In place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ValueError):  # said already
            raise
        raise error_class(f"{what} cannot be written: {error.strerror or error}. {remedy}") from error


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file beside its place and moves it there: nobody ever sees half of it.

    Raises:
        ValueError: The path cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with disk_errors_as_value_errors(repr(str(path)), "Choose a path in a folder that can be."):
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
