# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The folder of a labeled data set: what was labeled with what, and which shards are done.

`data/train-<file>-<piece>.parquet` contains the rows of a shard; `.progress/<file>-<piece>.json` is written after it
and says that the shard is done, and which of its rows failed. `labeling.json` says what the labels were made with.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from ..annotations.parquet import rows_to_parquet
from ..annotations.writer import check_folder
from ..distributed import Processes
from ..model.files import disk_errors_as_value_errors, write_atomically
from .shards import Shard

DESCRIPTION, PROGRESS = "labeling.json", ".progress"


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is done.

    Attributes:
        num_rows: The number of labeled rows.
        failed: The rows that could not be labeled: their names and the reasons.
    """

    num_rows: int
    failed: tuple[tuple[str, str], ...]


class LabelFolder:
    """The folder that several processes write into.

    Args:
        path: The folder.
        description: What the labels depend on, as JSON values.
        processes: The processes that write.
        retry_failed: Whether shards in which a row failed count as not done.

    Raises:
        ValueError: If the folder cannot be written, or contains other labels or parquet files.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        description: dict[str, Any],
        processes: Processes,
        retry_failed: bool = False,
    ):
        self.path = Path(path)
        processes.from_main(lambda: self._begin(description))
        with self._disk_errors():
            (self.path / "data").mkdir(parents=True, exist_ok=True)  # on every machine
            (self.path / PROGRESS).mkdir(parents=True, exist_ok=True)
        # the main process reads before any process writes, so all processes know the same
        done, self.ended = processes.from_main(self.read)
        self.done = {shard: record for shard, record in done.items() if not (retry_failed and record.failed)}

    def _disk_errors(self):
        return disk_errors_as_value_errors(repr(str(self.path)), "Choose a writable folder.")

    def _begin(self, description: dict[str, Any]) -> None:
        check_folder(self.path)
        file = self.path / DESCRIPTION
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            # through JSON, in which tuples are lists
            if different := _differences(found, json.loads(json.dumps(description))):
                if "dataset.files" in different:
                    raise ValueError(
                        f"{str(self.path)!r} contains labels of a folder of images whose files have changed. Restore "
                        "the names of the files to resume, or choose another folder."
                    )
                raise ValueError(
                    f"{str(self.path)!r} contains labels that were made with another {' and '.join(different)}. Choose "
                    "another folder, or pass the same options to resume."
                )
            return
        if any(self.path.glob("data/*.parquet")):
            raise ValueError(
                f"{str(self.path / 'data')!r} contains parquet files of another data set. Choose another folder."
            )
        with self._disk_errors():
            self.path.mkdir(parents=True, exist_ok=True)
        content = json.dumps(description, ensure_ascii=False, indent=2)
        write_atomically(file, f"{content}\n".encode())

    def read(self) -> tuple[dict[Shard, ShardRecord], dict[int, int]]:
        """Reads from the disk which shards are done, and how many shards each file has whose end was found."""
        done, ended = {}, {}
        for path in sorted((self.path / PROGRESS).glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            if path.stem.startswith("end-"):
                ended[int(path.stem.removeprefix("end-"))] = content["num_shards"]
            else:
                failed = tuple((name, reason) for name, reason in content["failed"])
                done[Shard.from_name(path.stem)] = ShardRecord(content["num_rows"], failed)
        return done, ended

    def write(
        self,
        shard: Shard,
        rows: Sequence[dict[str, Any]],
        features: datasets.Features,
        failed: Sequence[tuple[str, str]],
    ) -> None:
        """Writes a shard, whole or not at all. If an earlier run has labeled more of its rows, those are kept.

        Raises:
            ValueError: If the disk is full or not writable.
        """
        if self._num_rows_before(shard) > len(rows):  # such as when a retry cannot reach the images
            return
        path = self.path / "data" / f"train-{shard.name}.parquet"
        # those of an earlier run, if a row failed in it: a record must not be that of other rows
        self._record(shard.name).unlink(missing_ok=True)
        if not rows:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, rows_to_parquet(rows, features))
        self._write_record(shard.name, {"num_rows": len(rows), "failed": list(failed)})

    def _num_rows_before(self, shard: Shard) -> int:
        try:
            return json.loads(self._record(shard.name).read_text(encoding="utf-8"))["num_rows"]
        except FileNotFoundError:
            return 0

    def write_end(self, file: int, num_shards: int) -> None:
        """Notes how many shards a file has."""
        if file not in self.ended:
            self._write_record(f"end-{file:05d}", {"num_shards": num_shards})

    def _write_record(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self._record(name), json.dumps(content, ensure_ascii=False).encode())

    def _record(self, name: str) -> Path:
        return self.path / PROGRESS / f"{name}.json"


def _differences(found: Any, expected: Any, name: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted({*found, *expected})
        return [
            different
            for key in keys
            for different in _differences(found.get(key), expected.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if found == expected else [name]
