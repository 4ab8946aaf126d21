# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Sets up the training loop: the `Accelerator` and its processes, trackers, signal handlers and peak memory."""

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

from ..distributed import TRAINING_PATIENCE, start_processes
from ..model.checks import first_line
from .config import TrainingConfig

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def peak_memory() -> int:
    """The peak memory of this process in bytes: GPU memory if CUDA is available, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_accelerator(config: TrainingConfig, trackers: list[str]) -> Accelerator:
    """The `Accelerator` of a run.

    Raises:
        ValueError: If Accelerate cannot start, for example because the GPU does not support `mixed_precision`.
    """
    state = start_processes(TRAINING_PATIENCE)
    try:
        return Accelerator(
            cpu=state.device.type == "cpu",
            mixed_precision=config.mixed_precision,
            # gradient accumulation continues across the end of an epoch
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=config.gradient_accumulation, sync_with_dataloader=False
            ),
            step_scheduler_with_optimizer=False,  # the schedule counts optimizer steps, for any number of processes
            dataloader_config=DataLoaderConfiguration(non_blocking=True),
            log_with=trackers or None,
            project_config=ProjectConfiguration(config.output, logging_dir=str(Path(config.output) / "tensorboard")),
        )
    except ValueError as error:
        raise ValueError(
            f"Accelerate cannot start: {first_line(error)}. Change mixed_precision or the options of accelerate launch."
        ) from error


def refuse_unsupported(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Checks that the options of a run fit the way in which its processes share the weights.

    Raises:
        ValueError: If an option needs whole weights but the weights are sharded, if DeepSpeed shards them too much, or
            if FSDP 1 flattens the weights that adapters are merged into.
    """
    if accelerator.distributed_type in SHARDED:
        if config.ema_decay:
            raise ValueError(
                f"ema_decay is {config.ema_decay}; expected 0 with weights sharded across processes "
                f"({accelerator.distributed_type.value}). Set ema_decay to 0, or use plain data parallelism."
            )
        if config.eval_split is not None:
            raise ValueError(
                f"eval_split is {config.eval_split!r}, but weights sharded across processes cannot be evaluated during "
                "training. Remove eval_split, and run scripts/evaluate.py after the training."
            )
    # Accelerate before 1.6 has no version 2
    fsdp_version = getattr(getattr(accelerator.state, "fsdp_plugin", None), "fsdp_version", 1)
    if config.lora_rank and accelerator.distributed_type == DistributedType.FSDP and fsdp_version == 1:
        raise ValueError(
            f"lora_rank is {config.lora_rank} and the version of FSDP is 1; expected lora_rank 0 or version 2, because "
            "version 1 flattens the weights, and adapters cannot be merged into them at the end. Set fsdp_version to 2 "
            "in `accelerate config`, or use plain data parallelism."
        )
    deepspeed = accelerator.state.deepspeed_plugin
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise ValueError(
            "The DeepSpeed ZeRO stage is 3; expected at most 2, because stage 3 shards the weights during loading. "
            "Choose stage 2 or FSDP."
        )


def checked_trackers(names: list[str]) -> list[str]:
    """Returns the requested trackers without `none`.

    Raises:
        ValueError: If a tracker is not installed or not supported.
    """
    available = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    wanted = [name for name in names if name != "none"]
    if missing := [name for name in wanted if name not in available]:
        raise ValueError(
            f"The tracker {missing[0]!r} is not installed or not supported; available: "
            f"{', '.join(available) or 'none'}. Install the tracker, choose another one, or set trackers to none."
        )
    return wanted


class Signals:
    """A context manager for SIGINT and SIGTERM, active only in the main thread.

    The first signal sets `received`, and the training loop ends after the current step. A later SIGINT raises
    `KeyboardInterrupt` at once.
    """

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
