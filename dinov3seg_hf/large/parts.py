# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finished tiles of an incomplete run, one file each, beside the output: an interrupted run goes on from them."""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..model.files import disk_errors_as_value_errors, write_atomically
from .tiles import Tile

RUN = "run.json"
# Rows of an array that are in memory at once to identify it.
BAND_BYTES = 16 * 2**20


class Parts:
    """The folder `<output>.parts`.

    Args:
        output: The file that the parts are for.
        run: What the parts depend on, as values of JSON.

    Raises:
        ValueError: If the folder cannot be written, or has parts of another image, model or setting.
    """

    def __init__(self, output: Path, run: dict[str, Any]):
        self.folder = output.with_name(f"{output.name}.parts")
        description = json.dumps(run, sort_keys=True, ensure_ascii=False, indent=1, default=str)
        with disk_errors_as_value_errors(repr(str(self.folder))):
            self.folder.mkdir(exist_ok=True)
            known = self.folder / RUN
            if known.exists() and (old := known.read_text(encoding="utf-8")) != description:
                changed = _difference(old, run)
                raise ValueError(
                    f"{str(self.folder)!r} has parts of a run with another {changed}. Run the same command as before "
                    "to finish it, or remove the folder."
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
