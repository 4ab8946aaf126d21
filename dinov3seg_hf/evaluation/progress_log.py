# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Scored images on the disk, so that an evaluation that was broken off goes on where it stopped."""

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from ..distributed import Processes
from ..metrics.scoring import ImageCounts


class ProgressLog:
    """Scored images, a line each, in one file for each process and start; a line cut off counts for nothing."""

    def __init__(self, folder: str | os.PathLike, key: str, processes: Processes):
        self.done: dict[int, ImageCounts] = {}
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # all read before any writes, so that all see the same images done
            for path in processes.from_main(lambda: sorted(folder.glob("scored-*.jsonl"))):
                self._read(path, key)
        except OSError as error:
            raise ValueError(f"{str(folder)!r} cannot be used: {error.strerror}. Choose another folder.") from error
        self._path = folder / f"scored-{uuid.uuid4().hex}.jsonl"
        self._key = key

    def _read(self, path: Path, key: str) -> None:
        lines = path.read_bytes().split(b"\n")[:-1]  # the last is empty, or cut off
        if not lines:
            return
        if json.loads(lines[0]).get("evaluation") != key:
            raise ValueError(
                f"{str(path.parent)!r} holds another evaluation: of other weights, data, vocabulary, settings or "
                "versions. Choose another folder, or delete it."
            )
        for line in lines[1:]:
            image = ImageCounts.from_json(line.decode())
            self.done[image.index] = image

    def write(self, images: Sequence[ImageCounts]) -> None:
        lines = [image.to_json() for image in images]
        try:
            if not self._path.exists():
                lines.insert(0, json.dumps({"evaluation": self._key}))
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise ValueError(
                f"{str(self._path)!r} cannot be written: {error.strerror}. Make room and start again; it goes on here."
            ) from error
