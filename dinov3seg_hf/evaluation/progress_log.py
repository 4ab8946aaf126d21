# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Stores the counts of scored images on the disk, so that an interrupted evaluation can be resumed."""

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from ..distributed import Processes
from ..metrics.scoring import ImageCounts
from ..model.checks import checked_path


class ProgressLog:
    """A log with one line per scored image and one file per process and start. An incomplete last line is ignored."""

    def __init__(self, folder: str | os.PathLike, key: str, processes: Processes):
        self.done: dict[int, ImageCounts] = {}
        folder = Path(checked_path(folder, "resume_from"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # the main process lists the files before any process writes, so all processes read the same files
            for path in processes.from_main(lambda: sorted(folder.glob("scored-*.jsonl"))):
                self._read(path, key)
        except OSError as error:
            raise ValueError(
                f"Folder {str(folder)!r} cannot be used: {error.strerror}. Choose another folder."
            ) from error
        self._path = folder / f"scored-{uuid.uuid4().hex}.jsonl"
        self._key = key

    def _read(self, path: Path, key: str) -> None:
        lines = path.read_bytes().split(b"\n")[:-1]  # the last line is empty or incomplete
        if not lines:
            return
        if json.loads(lines[0]).get("evaluation") != key:
            raise ValueError(
                f"Folder {str(path.parent)!r} contains another evaluation, with other weights, data, vocabulary, "
                "settings or versions. Choose another folder, or remove the files scored-*.jsonl from this folder."
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
                f"{str(self._path)!r} cannot be written: {error.strerror}. Free disk space and start the evaluation "
                "again; it resumes from the scored images."
            ) from error
