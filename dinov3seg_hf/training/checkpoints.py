# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes the checkpoints of a run and, at the end, the trained model. All writes are atomic."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors

from ..distributed import on_main_process
from ..file_names import TRAINING_VOCABULARY
from ..model.checks import first_line
from ..model.files import disk_errors_as_value_errors, write_atomically
from ..model.vocabulary import Vocabulary
from .accelerate_setup import SHARDED
from .run_folder import RESUME, RunFolder

# A checkpoint contains only the trainable weights, because all other weights are those of `init`.
TRAINABLE_FILE = "trainable.safetensors"


class Checkpoints:
    """The checkpoints of a run: trainable weights, optimizer, scheduler and random states, in Accelerate's format.

    Args:
        accelerator: The `Accelerator` that has prepared the objects to save.
        folder: The folder of the run.
        keep: Number of newest checkpoints to keep.
        model: A function that returns the model without Accelerate's wrappers.
    """

    def __init__(self, accelerator: Accelerator, folder: RunFolder, keep: int, model: Callable[[], torch.nn.Module]):
        self._accelerator, self._folder, self._keep, self._model = accelerator, folder, keep, model
        if accelerator.distributed_type not in SHARDED:
            accelerator.register_save_state_pre_hook(self._save_trainable)
            accelerator.register_load_state_pre_hook(self._load_trainable)

    def save(self, step: int) -> None:
        """Writes the checkpoint of a step and removes old ones.

        Raises:
            ValueError: If the disk is full or not available; earlier checkpoints stay intact.
        """
        accelerator, folder = self._accelerator, self._folder
        try:
            accelerator.save_state(str(folder.unfinished_checkpoint(step)))
            accelerator.wait_for_everyone()
            on_main_process(accelerator, lambda: folder.finish_checkpoint(step, self._keep))
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:  # a full disk has many names
            shutil.rmtree(folder.unfinished_checkpoint(step), ignore_errors=True)
            steps = folder.checkpoint_steps()
            raise ValueError(
                f"The checkpoint of step {step} cannot be written: {first_line(error)}. "
                f"{f'The checkpoint of step {steps[-1]} is intact' if steps else 'No earlier checkpoint exists'}. Free "
                "disk space, then resume with --resume."
            ) from error

    def load(self, step: int) -> None:
        """Restores the model, optimizer, scheduler and random states of a step.

        Raises:
            ValueError: If the checkpoint cannot be read or has other parameters than the trainable ones.
        """
        folder = self._folder.checkpoint(step)
        try:
            self._accelerator.load_state(str(folder))
            # restart the count of accumulated batches, because gradient_accumulation may differ from the earlier run
            self._accelerator.step = 0
        except Exception as error:  # unpickling and safetensors raise many types
            raise ValueError(
                f"The checkpoint {str(folder)!r} cannot be loaded: {first_line(error)}. Move this folder out of the "
                "run to resume from the previous checkpoint."
            ) from error

    def _save_trainable(self, models: list, weights: list, folder: str) -> None:
        """Writes only the trainable weights, instead of Accelerate's file of all weights."""
        weights.clear()
        if self._accelerator.is_main_process:
            tensors = {name: p.detach().cpu().contiguous() for name, p in trainable(self._model())}
            write_atomically(Path(folder) / TRAINABLE_FILE, save_safetensors(tensors))

    def _load_trainable(self, models: list, folder: str) -> None:
        models.clear()
        tensors = load_file(Path(folder) / TRAINABLE_FILE)
        parameters = dict(trainable(self._model()))
        if tensors.keys() != parameters.keys():
            raise ValueError("its parameters differ from the trainable parameters of this run")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])


def trainable(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The names and values of the trainable parameters."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def write_trained_model(
    folder: RunFolder,
    model: Any,
    processor: Any,
    vocabulary: Vocabulary,
    state: dict[str, torch.Tensor] | None,
    licenses: Sequence[Path] = (),
) -> None:
    """Writes the trained model for `from_pretrained`, with the training vocabulary and the licenses next to it.

    The training vocabulary also becomes the default vocabulary of the model.

    Args:
        folder: The folder of the run.
        model: The trained model.
        processor: The `Dinov3SegProcessor` of the model.
        vocabulary: The classes of the training.
        state: The full weights if they are sharded across processes; `None`: the weights of `model`.
        licenses: License files of the weights that the training started from.

    Raises:
        ValueError: If the disk is full or not available.
    """
    with disk_errors_as_value_errors("The trained model", RESUME), folder.new_model() as place:
        model.set_vocabulary(vocabulary, processor)
        model.save_pretrained(place, state_dict=state)
        processor.save_pretrained(place)
        vocabulary.save(place / TRAINING_VOCABULARY)
        for path in licenses:
            shutil.copyfile(path, place / path.name)


def bytes_needed(model: torch.nn.Module, keep: int, averaged: bool, sharded: bool) -> int:
    """Returns the disk space that the checkpoints and the trained model of a run need, in bytes.

    Args:
        model: The model, with its trainable parameters chosen.
        keep: Number of checkpoints to keep; one more exists while it is written.
        averaged: Whether checkpoints contain a moving average of the weights.
        sharded: Whether checkpoints contain all weights, not only the trainable ones.
    """
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # in float32: the weights, two moments of Adam and, if used, the moving average
    checkpoint_bytes = 4 * trainable * (4 if averaged else 3)
    model_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    return checkpoint_bytes * (keep + 1) + model_bytes * (keep + 2 if sharded else 1)
