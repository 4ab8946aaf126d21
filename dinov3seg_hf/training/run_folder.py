# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The folder of a training run: what lies where, what may be written, and that it appears whole or not at all.

    run.json                     the resolved configuration, and what the run was made with
    log.jsonl                    a line of numbers every few steps
    checkpoints/step-00001000/   all that is needed to go on from there, as Accelerate writes it
    overlays/step-00001000/      evaluated images with truth and prediction
    tensorboard/                 of the tracker
    results.json                 the last evaluation
    model/                       the trained model, which `from_pretrained` loads, with a copy of run.json

Knows files and JSON, and nothing of models. One process writes; who that is, is the caller's matter.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save as to_safetensors

from ..file_names import RUN_DESCRIPTION, TRAINED_MODEL
from ..model.files import write_atomically

LOG_FILE, LOCK_FILE = "log.jsonl", ".lock"
# What to do about a full disk.
RESUME = "What was whole before still is; make room and go on with --resume."


class RunFolder:
    """The folder of one run.

    Args:
        path: Made by `claim`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._lock: FileLock | None = None

    # --- whose folder it is ------------------------------------------------------------------------------------------

    def check(self, config: Mapping[str, Any], resume: bool, may_differ: frozenset[str] = frozenset()) -> None:
        """Reads only: may a run of this configuration write here?

        Args:
            config: Every option of the run.
            resume: Whether an earlier run here is to go on.
            may_differ: Options that an earlier run may have had otherwise.

        Raises:
            ValueError: Another run is here, or something that is no run, or `resume` with other options.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"The output {str(self.path)!r} is a file; expected a folder, which may be new.")
        if not self.path.is_dir():
            return
        found = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        if not found:
            return
        if RUN_DESCRIPTION not in found:
            raise ValueError(
                f"The output folder {str(self.path)!r} holds other files ({', '.join(found[:3])}) and no run. "
                "Choose a new folder."
            )
        if not resume:
            steps = self.checkpoint_steps()
            state = f"with checkpoints up to step {steps[-1]}" if steps else "without a checkpoint yet"
            raise ValueError(
                f"The output folder {str(self.path)!r} holds a run already, {state}. Pass --resume to go on with it, "
                "or choose a new folder."
            )
        earlier = self.read_run()["config"]
        changed = [key for key, value in config.items() if key not in may_differ and earlier.get(key, value) != value]
        if changed:
            key = changed[0]
            raise ValueError(
                f"The run in {str(self.path)!r} cannot go on with another {key}: it was {earlier[key]!r} and is now "
                f"{config[key]!r}. Set it back, or start in a new folder with --init {self.path}."
            )

    def claim(self) -> None:
        """Makes the folder, keeps other processes out of it until this one ends, removes what a kill left half done.

        Raises:
            ValueError: It cannot be written, or a run is writing to it now.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / LOCK_FILE)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"Another process is training in {str(self.path)!r} now. Wait for it, stop it, or choose a new folder."
            ) from None
        except OSError as error:
            raise ValueError(
                f"The output folder {str(self.path)!r} cannot be written: {error.strerror}. Choose another."
            ) from error
        for leftover in (*self.path.glob(".*.tmp"), *self.path.glob("checkpoints/.*.tmp")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def release(self) -> None:
        """Lets other processes in."""
        if self._lock is not None:
            self._lock.release()

    def check_space(self, num_bytes: int) -> None:
        """
        Raises:
            ValueError: Fewer than `num_bytes` are free where the folder is or will be.
        """
        existing = self.path.absolute()
        while not existing.exists():
            existing = existing.parent
        free = shutil.disk_usage(existing).free
        if free < num_bytes:
            raise ValueError(
                f"The run will write about {num_bytes / 2**20:.0f} MiB to {str(self.path)!r}, but {free / 2**20:.0f} "
                "MiB are free there. Make room, keep fewer checkpoints (keep_checkpoints), or choose another folder."
            )

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies, or would."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def checkpoint_steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return sorted(int(folder.name[len("step-") :]) for folder in self.path.glob("checkpoints/step-*"))

    def unfinished_checkpoint(self, step: int) -> Path:
        """Where all processes write, before `finish_checkpoint`."""
        return self.path / "checkpoints" / f".step-{step:08d}.tmp"

    def finish_checkpoint(self, step: int, keep: int) -> None:
        """The files written so far become the checkpoint of `step`; all but the newest `keep` are removed."""
        unfinished, finished = self.unfinished_checkpoint(step), self.checkpoint(step)
        for file in unfinished.rglob("*"):
            _sync(file)
        if finished.exists():  # of an earlier attempt at the same step
            self._remove(finished)
        os.replace(unfinished, finished)
        _sync(finished.parent)
        for old in self.checkpoint_steps()[:-keep]:
            self._remove(self.checkpoint(old))

    def _remove(self, folder: Path) -> None:
        """Renamed first: a kill in between leaves no checkpoint of half its files."""
        doomed = folder.with_name(f".{uuid.uuid4().hex}.tmp")
        os.replace(folder, doomed)
        shutil.rmtree(doomed)

    # --- numbers -----------------------------------------------------------------------------------------------------

    def append_log(self, line: Mapping[str, Any]) -> None:
        """Adds a line of JSON to the log."""
        with open(self.path / LOG_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of the log; one that a kill cut short is left out."""
        lines = []
        if (self.path / LOG_FILE).exists():
            for text in (self.path / LOG_FILE).read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(text))
                except json.JSONDecodeError:
                    continue
        return lines

    def rewind_log(self, step: int) -> None:
        """Forgets what was logged after `step`: it will be logged again."""
        lines = [json.dumps(line) + "\n" for line in self.read_log() if line["step"] <= step]
        write_atomically(self.path / LOG_FILE, "".join(lines).encode())

    def write_run(self, description: Mapping[str, Any]) -> None:
        """Writes `run.json`: configuration and provenance."""
        write_atomically(
            self.path / RUN_DESCRIPTION, (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
        )

    def read_run(self) -> dict[str, Any]:
        """
        Raises:
            ValueError: There is none, or it cannot be read.
        """
        path = self.path / RUN_DESCRIPTION
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{str(path)!r} cannot be read ({error}); expected the description of a run.") from error

    def save_tensors(self, name: str, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> Path:
        """Writes a safetensors file, `notes` as its metadata; returns the path."""
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        content = to_safetensors(tensors, {key: str(value) for key, value in notes.items()})
        write_atomically(self.path / name, content)
        return self.path / name

    # --- the trained model -------------------------------------------------------------------------------------------

    @contextmanager
    def new_model(self) -> Iterator[Path]:
        """A folder to save the model in, which becomes that of the run in the place of an earlier one."""
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


def _sync(path: Path) -> None:
    """What is written survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems know no fsync of folders
        pass
    finally:
        os.close(descriptor)
