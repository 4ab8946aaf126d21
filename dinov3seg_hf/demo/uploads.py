# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The folder of uploads and results, of which old ones are removed, whatever requests name as files.

Gradio's own cleaning ends at the first request whose file is a folder, and does not limit the total size.
"""

import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..model.files import locked_folder, remove_leftovers

PREFIX = "dinov3seg-uploads-"
LEFTOVER = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")

# A page that is left open loses its image after an hour; the next request says to upload it again.
MAX_AGE_SECONDS, INTERVAL_SECONDS = 3600, 30

_log = logging.getLogger(__name__)


@contextmanager
def new_upload_folder() -> Iterator[str]:
    """Creates a folder that only this user can read, and removes it at the end of the `with` block.

    A server that is killed leaves the images of its visitors behind. The next one removes them; the folders of running
    servers are locked, and stay.
    """
    remove_leftovers(Path(tempfile.gettempdir()), LEFTOVER)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder, locked_folder(Path(folder)):
        yield folder


def sweep(
    folder: str | os.PathLike[str], keep: Container[str], max_bytes: int, max_age: float = MAX_AGE_SECONDS
) -> None:
    """Removes the files that are older than `max_age` seconds, and the oldest ones beyond `max_bytes` in total.

    Args:
        folder: The folder of the uploads. Links are not followed.
        keep: Paths of files that stay.
        max_bytes: The maximum size of all other files.
        max_age: The maximum age in seconds.
    """
    found = []
    for place, folders, names in os.walk(os.fspath(folder), topdown=False):
        for path in (os.path.join(place, name) for name in names):
            try:
                status = os.lstat(path)
            except OSError:  # Gradio has removed it
                continue
            if path not in keep:
                found.append((status.st_ctime, status.st_size, path))
        if folders or names or place == os.fspath(folder):
            continue
        try:
            if time.time() - os.lstat(place).st_ctime > max_age:
                os.rmdir(place)
        except OSError:  # a new upload is in it
            continue
    total = sum(size for _, size, _ in found)
    for changed, size, path in sorted(found):
        if total <= max_bytes and time.time() - changed <= max_age:
            break
        total -= size
        Path(path).unlink(missing_ok=True)


@contextmanager
def swept(folder: str | os.PathLike[str], keep: Container[str], max_bytes: int) -> Iterator[None]:
    """Sweeps the folder every half minute inside the `with` block."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(INTERVAL_SECONDS):
            try:
                sweep(folder, keep, max_bytes)
            except OSError:  # of a disk; the next sweep tries again
                _log.exception("Old uploads were not removed.")

    thread = threading.Thread(target=work, name="sweep-uploads", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
