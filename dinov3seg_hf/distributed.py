# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Coordinates several processes: which one writes, which ones compute, and that no process waits for a failed one.

Uses Accelerate, which is imported only inside the functions that need it.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn

from .process_errors import OtherProcessError
from .signals import blocked_calls_end

T = TypeVar("T")


# Processes that share out images finish at different times, and the first one waits for the last one.
PATIENCE = timedelta(days=30)
# In training, others wait while one process downloads and hashes the data, but a step that hangs must end the run.
TRAINING_PATIENCE = timedelta(hours=3)


def start_processes(patience: timedelta | None = None, cpu: bool = False) -> Any:
    """Connects the processes of `accelerate launch` or `torchrun`; returns an `accelerate.PartialState`.

    Call this function before any other use of Accelerate. On a machine without an accelerator, the processes find each
    other only with `cpu=True`, which this function passes.

    Args:
        patience: How long processes wait for each other. Default: that of torch, minutes.
        cpu: Whether to use the CPU even if an accelerator is available.
    """
    from accelerate import PartialState

    options = {} if patience is None else {"timeout": patience}
    is_first = os.environ.get("RANK", "0") == "0"
    with blocked_calls_end(130, "interrupted; run the same command again\n" if is_first else ""):
        return PartialState(cpu=cpu or not torch.accelerator.is_available(), **options)


class Processes:
    """The processes of a run: a single process, or all processes of an `Accelerator`."""

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator
        self.count = 1 if accelerator is None else accelerator.num_processes
        self.rank = 0 if accelerator is None else accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def unwrap(self, model: nn.Module) -> nn.Module:
        """Returns the model without the wrappers of the `Accelerator`.

        Raises:
            ValueError: If the weights are sharded across processes.
        """
        if self._accelerator is not None:
            kind = self._accelerator.distributed_type.value
            if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP") and self.count > 1:
                raise ValueError(
                    f"The weights are sharded across {self.count} processes ({kind}); expected all weights in each "
                    "process. Save the model and run scripts/evaluate.py, or evaluate a model that is loaded from "
                    "accelerator.get_state_dict(model)."
                )
            model = self._accelerator.unwrap_model(model)
        return model

    def from_main(self, compute: Any) -> Any:
        """Runs `compute` in the main process and returns its result, or raises its error, in all processes."""
        if self.count == 1:
            return compute()
        from accelerate.utils import broadcast_object_list

        value, error = None, None
        if self.is_main:
            try:
                value = compute()
            except Exception as caught:
                error = caught
        value, error = broadcast_object_list([value, error])
        if error is not None:
            raise error
        return value

    def gather(self, compute: Callable[[], list[T]]) -> list[T]:
        """Runs `compute` in all processes and returns the joined results in all processes.

        If one process fails, all processes raise an error instead of waiting.

        Raises:
            OtherProcessError: If another process failed.
        """
        if self.count == 1:
            return compute()
        from accelerate.utils import gather_object

        found, error = [], None
        try:
            found = compute()
        except Exception as caught:
            error = caught
        gathered = gather_object([(found, None if error is None else f"{type(error).__name__}: {error}")])
        if error is not None:
            raise error
        for rank, (_, reason) in enumerate(gathered):
            if reason is not None:
                raise OtherProcessError(f"Process {rank} failed: {reason}")
        return [item for items, _ in gathered for item in items]


def on_main_process(accelerator: Any, function: Callable[[], Any]) -> Any:
    """Calls `function` in the main process; an error is raised in all processes, so that no process waits.

    Returns:
        The return value of the function, in all processes.

    Raises:
        ValueError: In all processes, if the function raised a ValueError or an OSError.
    """
    from accelerate.utils import broadcast_object_list

    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = function()
        except (ValueError, OSError) as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise ValueError(answer[1])
    return answer[0]
