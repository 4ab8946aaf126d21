# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A file for libraries in C++ that write to Python's files, and do not survive its errors, such as a full disk."""

import io
from collections.abc import Callable
from typing import Any, BinaryIO


class FileWithKeptError(io.RawIOBase):
    """Writes to a file; the first error is kept until `check`, and what is written after it is lost.

    PyAV prints the traceback of an error in the middle of a call, and torch.export ends the process.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: Any) -> int:
        """Writes to the file, unless it has failed before."""
        return self._unless_failed(lambda: self._file.write(data), len(data))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Changes the place in the file, unless it has failed before."""
        return self._unless_failed(lambda: self._file.seek(offset, whence), offset)

    def check(self) -> None:
        """Raises the error that was kept.

        Raises:
            OSError: If not all was written.
        """
        if self._error is not None:
            raise self._error

    def _unless_failed(self, call: Callable[[], int], pretended: int) -> int:
        if self._error is None:
            try:
                return call()
            except OSError as error:
                self._error = error
        return pretended


__all__ = ["FileWithKeptError"]
