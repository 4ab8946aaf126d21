# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What the training loop needs of Accelerate and of the machine: processes, trackers, signals, memory."""

import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, GradientAccumulationPlugin, ProjectConfiguration

from ..distributed import start_processes
from ..model.checks import first_line
from .config import TrainingConfig

IMAGE_TRACKERS = ("tensorboard", "wandb")

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def peak_memory() -> int:
    """Bytes, of this process: the accelerator's if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_accelerator(config: TrainingConfig, trackers: list[str]) -> Accelerator:
    """The accelerator of a run.

    Raises:
        ValueError: It cannot start, for example for want of a GPU that does what mixed_precision asks.
    """
    state = start_processes()
    try:
        return Accelerator(
            cpu=state.device.type == "cpu",
            mixed_precision=config.mixed_precision,
            # windows of accumulated batches go on across epochs
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=config.gradient_accumulation, sync_with_dataloader=False
            ),
            step_scheduler_with_optimizer=False,  # steps are those of the optimizer, whatever the number of processes
            dataloader_config=DataLoaderConfiguration(non_blocking=True),
            log_with=trackers or None,
            project_config=ProjectConfiguration(config.output, logging_dir=str(Path(config.output) / "tensorboard")),
        )
    except ValueError as error:
        raise ValueError(f"Accelerate cannot start: {first_line(error)}") from error


def checked_trackers(names: list[str]) -> list[str]:
    """The trackers that are wanted, without `none`.

    Raises:
        ValueError: One is not installed or not known.
    """
    available = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    wanted = [name for name in names if name != "none"]
    if missing := [name for name in wanted if name not in available]:
        raise ValueError(
            f"The tracker {missing[0]!r} is not installed or not known; there {'is' if len(available) == 1 else 'are'} "
            f"{', '.join(available) or 'none'}. Install it, or choose another (trackers none: without)."
        )
    return wanted


class Signals:
    """Inside, SIGINT and SIGTERM ask the loop to end after its step; a second SIGINT ends it at once."""

    def __init__(self):
        self.received = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True
