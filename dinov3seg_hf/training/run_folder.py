# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The folder of a training run: its layout, what may be written, and atomic writes.

    run.json                     the resolved configuration and the provenance of the run
    log.jsonl                    one line of metrics every few steps
    checkpoints/step-00001000/   everything needed to resume from this step, written by Accelerate
    overlays/step-00001000/      evaluated images with ground truth and prediction
    tensorboard/                 files of the tracker
    results.json                 the last evaluation
    model/                       the trained model for `from_pretrained`, with a copy of run.json

Handles files and JSON, not models. Only one process writes; the caller chooses it.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save as to_safetensors

from ..evaluation.results import without_nan
from ..file_names import RUN_DESCRIPTION, TRAINED_MODEL
from ..model.checks import load_json
from ..model.files import write_atomically

LOG_FILE, LOCK_FILE = "log.jsonl", ".lock"
CHECKPOINT = re.compile(r"step-(\d{8,})")  # see `RunFolder.checkpoint`
# The remedy for a full disk.
RESUME = "Files written before are intact. Free disk space, then resume with --resume."


class RunFolder:
    """The folder of one run.

    Args:
        path: The path of the folder, which `claim` creates.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._lock: FileLock | None = None

    # --- checks and lock ---------------------------------------------------------------------------------------------

    def check(self, config: Mapping[str, Any], resume: bool, may_differ: frozenset[str] = frozenset()) -> None:
        """Checks whether a run with this configuration may write to the folder. Does not change any files.

        Args:
            config: All options of the run.
            resume: Whether to resume an earlier run in this folder.
            may_differ: Options whose value may differ from the earlier run.

        Raises:
            ValueError: If the path is a file, the folder contains other files or another run, or the options differ
                from those of the run to resume.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output {str(self.path)!r} is a file; expected a folder. Choose a new folder.")
        if not self.path.is_dir():
            return
        found = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        if not found:
            return
        if RUN_DESCRIPTION not in found:
            raise ValueError(
                f"The output folder {str(self.path)!r} contains other files ({', '.join(found[:3])}); expected a new "
                "folder, or the folder of an earlier run. Choose a new folder."
            )
        if not resume:
            steps = self.checkpoint_steps()
            state = f"with checkpoints up to step {steps[-1]}" if steps else "without a checkpoint yet"
            raise ValueError(
                f"The output folder {str(self.path)!r} already contains a run, {state}. Pass --resume to resume this "
                "run, or choose a new folder."
            )
        earlier = self.read_run()["config"]
        if "left_out_classes" not in earlier:
            raise ValueError(
                f"Cannot resume the run in {str(self.path)!r}: version 0.1.0 started it, with another loss. Start a "
                f"new run in another folder with --init {self.path}."
            )
        changed = [key for key, value in config.items() if key not in may_differ and earlier.get(key, value) != value]
        if changed:
            key = changed[0]
            raise ValueError(
                f"Cannot resume the run in {str(self.path)!r} because {key} is {config[key]!r}; expected "
                f"{earlier[key]!r}, the value of the earlier run. Restore the original value, or start a new run in "
                f"another folder with --init {self.path}."
            )

    def claim(self) -> None:
        """Creates the folder, locks it against other processes, and removes partial files of a killed run.

        Raises:
            ValueError: If the folder cannot be written, or another run is writing to it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / LOCK_FILE)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"Another process is training in {str(self.path)!r}. Wait for the other process, stop the other "
                "process, or choose a new folder."
            ) from None
        except OSError as error:
            raise ValueError(
                f"The output folder {str(self.path)!r} cannot be written: {error.strerror}. Choose another folder."
            ) from error
        for leftover in (*self.path.glob(".*.tmp"), *self.path.glob("checkpoints/.*.tmp")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def release(self) -> None:
        """Releases the lock of the folder."""
        if self._lock is not None:
            self._lock.release()

    def check_space(self, num_bytes: int) -> None:
        """Checks the free space on the disk of the folder, which may not exist yet.

        Args:
            num_bytes: What the run will need, from its first step on. Checkpoints that exist are a part of it, because
                new ones replace them.

        Raises:
            ValueError: If fewer than `num_bytes` bytes are free or taken by checkpoints.
        """
        files = self.path.glob("checkpoints/**/*")
        num_bytes -= sum(file.stat().st_size for file in files if file.is_file())
        existing = self.path.absolute()
        while not existing.exists():
            existing = existing.parent
        free = shutil.disk_usage(existing).free
        if free < num_bytes:
            raise ValueError(
                f"The run will write about {num_bytes / 2**20:.0f} MiB to {str(self.path)!r}, but only "
                f"{free / 2**20:.0f} MiB are free. Free disk space, lower keep_checkpoints, or choose another folder."
            )

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint(self, step: int) -> Path:
        """The path of the checkpoint of a step, which may not exist."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def checkpoint_steps(self) -> list[int]:
        """The steps that have a checkpoint, in ascending order. Folders that somebody renamed do not count."""
        names = (CHECKPOINT.fullmatch(folder.name) for folder in self.path.glob("checkpoints/step-*"))
        return sorted(int(name[1]) for name in names if name)

    def unfinished_checkpoint(self, step: int) -> Path:
        """The folder that all processes write to until `finish_checkpoint` is called."""
        return self.path / "checkpoints" / f".step-{step:08d}.tmp"

    def finish_checkpoint(self, step: int, keep: int) -> None:
        """Turns the written files into the checkpoint of `step` and removes all but the newest `keep` checkpoints."""
        unfinished, finished = self.unfinished_checkpoint(step), self.checkpoint(step)
        for file in unfinished.rglob("*"):
            _sync(file)
        if finished.exists():  # from an earlier attempt at the same step
            self._remove(finished)
        os.replace(unfinished, finished)
        _sync(finished.parent)
        for old in self.checkpoint_steps()[:-keep]:
            self._remove(self.checkpoint(old))

    def _remove(self, folder: Path) -> None:
        """Renames a folder before removing it, so that a killed run does not leave a partial folder in its place."""
        doomed = folder.with_name(f".{uuid.uuid4().hex}.tmp")
        os.replace(folder, doomed)
        shutil.rmtree(doomed)

    # --- metrics and provenance --------------------------------------------------------------------------------------

    def append_log(self, line: Mapping[str, Any]) -> None:
        """Appends one line of JSON to the log; NaN and infinity, such as a norm that fp16 cannot hold, become null."""
        with open(self.path / LOG_FILE, "a", encoding="utf-8") as file:
            file.write(_as_line(line))

    def read_log(self) -> list[dict[str, Any]]:
        """Reads the lines of the log; skips lines that a killed run left incomplete."""
        lines = []
        if (self.path / LOG_FILE).exists():
            for text in (self.path / LOG_FILE).read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(load_json(text))
                except ValueError:
                    continue
        return lines

    def is_evaluated(self, step: int) -> bool:
        """Returns whether the log has the scores of a step."""
        return any(line["step"] == step and "eval/mean_iou" in line for line in self.read_log())

    def rewind_log(self, step: int) -> None:
        """Removes the lines of the log after `step`, because these steps will be logged again."""
        lines = [_as_line(line) for line in self.read_log() if line["step"] <= step]
        write_atomically(self.path / LOG_FILE, "".join(lines).encode())

    def write_run(self, description: Mapping[str, Any]) -> None:
        """Writes `run.json`: the configuration and the provenance."""
        write_atomically(
            self.path / RUN_DESCRIPTION, (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
        )

    def read_run(self) -> dict[str, Any]:
        """Reads `run.json`.

        Raises:
            ValueError: If the file does not exist or cannot be read.
        """
        path = self.path / RUN_DESCRIPTION
        try:
            return load_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{str(path)!r} cannot be read ({error}); expected the description of a run in JSON. Restore this "
                "file, or choose a new folder."
            ) from error

    def save_tensors(self, name: str, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> Path:
        """Writes a safetensors file with `notes` as its metadata, and returns its path."""
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        content = to_safetensors(tensors, {key: str(value) for key, value in notes.items()})
        write_atomically(self.path / name, content)
        return self.path / name

    # --- the trained model -------------------------------------------------------------------------------------------

    @contextmanager
    def new_model(self) -> Iterator[Path]:
        """Yields a temporary folder for the model, which then replaces the model folder of the run."""
        unfinished, finished = self.path / f".{uuid.uuid4().hex}.tmp", self.path / TRAINED_MODEL
        unfinished.mkdir()
        try:
            yield unfinished
            shutil.copyfile(self.path / RUN_DESCRIPTION, unfinished / RUN_DESCRIPTION)
            for file in unfinished.iterdir():
                _sync(file)
            if finished.exists():
                self._remove(finished)
            os.replace(unfinished, finished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _as_line(values: Mapping[str, Any]) -> str:
    return json.dumps(without_nan(dict(values)), allow_nan=False) + "\n"


def _sync(path: Path) -> None:
    """Flushes a file or folder to the disk, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems do not support fsync on folders
        pass
    finally:
        os.close(descriptor)
