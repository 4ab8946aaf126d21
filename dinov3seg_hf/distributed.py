# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Several processes that work as one: who writes, who computes, and that nobody waits for one that has failed.

Knows Accelerate, which is imported only where there are several processes to speak to.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


def start_processes() -> Any:
    """The processes that `accelerate launch` or `torchrun` started, this one among them: an `accelerate.PartialState`.

    To be called before anything else asks for them: unless told that there are only CPUs, processes on CPUs take
    themselves for alone.
    """
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())


class Processes:
    """One process, or those of an accelerator."""

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator
        self.count = 1 if accelerator is None else accelerator.num_processes
        self.rank = 0 if accelerator is None else accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def unwrap(self, model: nn.Module) -> nn.Module:
        """The model that the accelerator prepared.

        Raises:
            ValueError: Its weights are spread over processes.
        """
        if self._accelerator is not None:
            kind = self._accelerator.distributed_type.value
            if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP") and self.count > 1:
                raise ValueError(
                    f"The weights are spread over {self.count} processes ({kind}), which evaluation is not made for. "
                    "Save them and run scripts/evaluate.py, or evaluate a copy of accelerator.get_state_dict(model)."
                )
            model = self._accelerator.unwrap_model(model)
        return model

    def from_main(self, compute: Any) -> Any:
        """What the main process computes."""
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
        """What all processes compute, everywhere; one that fails lets all fail, instead of wait for it.

        Raises:
            RuntimeError: Another process failed.
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
                raise RuntimeError(f"Process {rank} could not go on: {reason}")
        return [item for items, _ in gathered for item in items]


def on_main_process(accelerator: Any, function: Callable[[], Any]) -> Any:
    """Calls `function` in one process; an error there is an error everywhere, so that nobody waits for the others.

    Returns:
        What the function returned, in every process.

    Raises:
        ValueError: In every process, if the function raised one.
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
