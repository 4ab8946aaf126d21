# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finished tiles of an incomplete run, one file each, beside the output: an interrupted run goes on from them."""

import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..model.checks import quoted
from ..model.files import TEMPORARY_FILE, disk_errors_as_value_errors, try_lock, write_atomically
from .tiles import Tile

RUN = "run.json"
OURS = re.compile(rf"\d+_\d+\.npz|{TEMPORARY_FILE.pattern}")
# Rows of an array that are in memory at once to identify it.
BAND_BYTES = 16 * 2**20


class Parts:
    """The folder `<output>.parts`, as a context manager: inside the `with` block, no other process writes its output.

    Args:
        output: The file that the parts are for.
        run: What the parts depend on, as values of JSON.
    """

    def __init__(self, output: Path, run: dict[str, Any]):
        self.folder, self._run = output.with_name(f"{output.name}.parts"), run
        self._descriptor: int | None = None

    def __enter__(self) -> "Parts":
        """Opens or creates the folder.

        Raises:
            ValueError: If the folder cannot be written, is in use, has parts of another image, model or setting, or
                other files, which would be removed with it.
        """
        try:
            with disk_errors_as_value_errors(repr(str(self.folder))):
                self.folder.mkdir(exist_ok=True)
                self._refuse_others()
                self._describe()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _refuse_others(self) -> None:
        if os.name != "nt":  # which does not open folders
            self._descriptor = os.open(self.folder, os.O_RDONLY)
            if not try_lock(self._descriptor):
                raise ValueError(
                    f"{str(self.folder)!r} is in use, so another process writes this label map. Wait until it has "
                    "ended, or choose another name."
                )
        names = [path.name for path in self.folder.iterdir()]
        if RUN not in names and (others := [name for name in names if not OURS.fullmatch(name)]):
            raise ValueError(
                f"{str(self.folder)!r} has no parts of an interrupted run, but {quoted(others[0])}. The folder would "
                "be removed when the run is done: move it, or choose another name for the label map."
            )

    def _describe(self) -> None:
        description = json.dumps(self._run, sort_keys=True, ensure_ascii=False, indent=1, default=str)
        known = self.folder / RUN
        if known.exists() and (old := known.read_text(encoding="utf-8")) != description:
            changed = _difference(old, self._run)
            raise ValueError(
                f"{str(self.folder)!r} has parts of a run with another {changed}. Run the same command as before to "
                "finish it, or remove the folder."
            )
        write_atomically(known, description.encode())

    def path(self, tile: Tile) -> Path:
        return self.folder / f"{tile.row}_{tile.column}.npz"

    def save(self, tile: Tile, labels: np.ndarray, scores: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, labels=labels, scores=scores)
        write_atomically(self.path(tile), buffer.getvalue())

    def load(self, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        with np.load(self.path(tile)) as part:
            return part["labels"], part["scores"]

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _difference(old: str, run: dict[str, Any]) -> str:
    try:
        before = json.loads(old)
    except ValueError:
        return "description"
    after = json.loads(json.dumps(run, default=str))
    return " and ".join(sorted(key for key in {*before, *after} if before.get(key) != after.get(key))) or "description"


def digest(array: Any) -> str:
    """The SHA-256 (hex) of all values of an array, which is read in bands of rows: memory does not grow with it."""
    found = hashlib.sha256()
    num_rows = max(1, BAND_BYTES // max(1, np.asarray(array[:1]).nbytes))
    for first in range(0, array.shape[0], num_rows):
        found.update(np.ascontiguousarray(array[first : first + num_rows]).data)
    return found.hexdigest()
