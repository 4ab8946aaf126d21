# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What a run leaves on the disk: checkpoints to go on from, and at last the trained model; whole or not at all."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors

from ..distributed import on_main_process
from ..file_names import TRAINING_VOCABULARY
from ..model.checks import first_line
from ..model.files import disk_errors_as_value_errors, write_atomically
from ..model.vocabulary import Vocabulary
from .accelerate_setup import SHARDED
from .run_folder import RESUME, RunFolder

# Weights of a checkpoint: what trains alone, since the rest is that of `init`.
TRAINABLE_FILE = "trainable.safetensors"


class Checkpoints:
    """The checkpoints of a run: trainable weights, optimizer, schedule, random numbers, as Accelerate keeps them.

    Args:
        accelerator: Has prepared what is to be kept.
        folder: Of the run.
        keep: The newest so many stay.
        model: Gives the model as it is without Accelerate's wrappers.
    """

    def __init__(self, accelerator: Accelerator, folder: RunFolder, keep: int, model: Callable[[], torch.nn.Module]):
        self._accelerator, self._folder, self._keep, self._model = accelerator, folder, keep, model
        if accelerator.distributed_type not in SHARDED:
            accelerator.register_save_state_pre_hook(self._save_trainable)
            accelerator.register_load_state_pre_hook(self._load_trainable)

    def save(self, step: int) -> None:
        """Writes the checkpoint of a step and removes old ones.

        Raises:
            ValueError: The disk is full or gone; earlier checkpoints are whole.
        """
        accelerator, folder = self._accelerator, self._folder
        try:
            accelerator.save_state(str(folder.unfinished_checkpoint(step)))
            accelerator.wait_for_everyone()
            on_main_process(accelerator, lambda: folder.finish_checkpoint(step, self._keep))
        except (OSError, RuntimeError, ValueError) as error:  # torch reports a full disk as RuntimeError
            shutil.rmtree(folder.unfinished_checkpoint(step), ignore_errors=True)
            steps = folder.checkpoint_steps()
            raise ValueError(
                f"The checkpoint of step {step} cannot be written: {first_line(error)}. "
                f"{f'That of step {steps[-1]} is whole' if steps else 'There is none before it'}. Make room and go on "
                "with --resume."
            ) from error

    def load(self, step: int) -> None:
        """Puts model, optimizer, schedule and random numbers back to where they were after a step.

        Raises:
            ValueError: The checkpoint cannot be read, or is of other parameters.
        """
        folder = self._folder.checkpoint(step)
        try:
            self._accelerator.load_state(str(folder))
            # its count of batches: a step begins with the first of its own, however many the checkpoint's had
            self._accelerator.step = 0
        except Exception as error:  # whatever unpickling and safetensors raise
            raise ValueError(
                f"The checkpoint {str(folder)!r} cannot be loaded: {first_line(error)}. Remove its folder to go on "
                "from the one before."
            ) from error

    def _save_trainable(self, models: list, weights: list, folder: str) -> None:
        """In place of Accelerate's file of all weights."""
        weights.clear()
        if self._accelerator.is_main_process:
            tensors = {name: p.detach().cpu().contiguous() for name, p in trainable(self._model())}
            write_atomically(Path(folder) / TRAINABLE_FILE, save_safetensors(tensors))

    def _load_trainable(self, models: list, folder: str) -> None:
        models.clear()
        tensors = load_file(Path(folder) / TRAINABLE_FILE)
        parameters = dict(trainable(self._model()))
        if tensors.keys() != parameters.keys():
            raise ValueError("it holds other parameters than those that train")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])


def trainable(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Names and parameters that train."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def write_trained_model(
    folder: RunFolder, model: Any, processor: Any, vocabulary: Vocabulary, state: dict[str, torch.Tensor] | None
) -> None:
    """Writes what `from_pretrained` loads, and the classes that were trained beside it.

    Args:
        folder: Of the run.
        model: What was trained.
        processor: Its `Dinov3SegProcessor`.
        vocabulary: The classes that were trained.
        state: The weights, where they are spread over processes.

    Raises:
        ValueError: The disk is full or gone.
    """
    with disk_errors_as_value_errors("The trained model", RESUME), folder.new_model() as place:
        model.save_pretrained(place, state_dict=state)
        processor.save_pretrained(place)
        vocabulary.save(place / TRAINING_VOCABULARY)
