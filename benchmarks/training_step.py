# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A training step of the head at our default sizes, behind small encoders: one image, 171 classes, 384 pixels.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --parts loss                # the loss alone
    python benchmarks/training_step.py --classes 32 --crop 192
    python benchmarks/training_step.py --device cuda --dtype bfloat16

The plain twins of "loss" and "step" resize the logits of all classes at once. "Decoder" computes the decoder again in
the backward pass; "checkpointing" all layers of `gradient_checkpointing`, those of late refinement, too;
"checkpointing, decoder kept" all of them but the decoder. The plain twins of these three keep everything, with the same
loss. Seconds are of one thread (on a GPU: on the clock), of one forward and backward pass. Memory is the peak above
that of the inputs, on a CPU each in a process of its own.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from head import alone, head_and_inputs, peak_mib
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dinov3seg_hf.model import loss
from dinov3seg_hf.model.decoder import Dinov3SegDecoderStep
from dinov3seg_hf.training.optimization import enable_activation_checkpointing

PATCH = 16
# The parts that compute layers again in the backward pass: whether the decoder's, and whether the others.
RECOMPUTED = {"decoder": (True, False), "checkpointing, decoder kept": (False, True), "checkpointing": (True, True)}
PARTS = ("loss", "step", *RECOMPUTED)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=171)
    parser.add_argument("--crop", type=int, default=384, help="side of the crop in pixels (default: 384)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the process of a row
    options = parser.parse_args()
    options.patches = options.crop // PATCH
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measure(options, **json.loads(options.measure))))
        return
    print("| part | classes | crop | plain twin | ours | memory, ratio |\n|---|---|---|---|---|---|")
    for part in options.parts:
        cells = [
            alone(__file__, options.device, partial(measure, options), part=part, plain=plain)
            for plain in (True, False)
        ]
        texts = [f"{seconds:.4g} s, {mib:.0f} MiB" for seconds, mib in cells]
        ratio = cells[0][1] / cells[1][1]
        print(f"| {part} | {options.classes} | {options.crop} | {' | '.join(texts)} | {ratio:.1f} |", flush=True)


def measure(options: argparse.Namespace, part: str, plain: bool) -> tuple[float, float]:
    """Returns the seconds of a step and its memory in MiB."""
    torch.manual_seed(0)
    labels = torch.randint(-1, options.classes, (1, options.crop, options.crop), device=options.device)
    if part == "loss":
        logits = torch.randn(1, options.classes, 4 * options.patches, 4 * options.patches, device=options.device)
        logits.requires_grad_()

        def step() -> None:
            loss.segmentation_loss(logits, labels).backward()
    else:
        model, inputs = head_and_inputs(options, options.classes)
        model.requires_grad_(True).freeze_encoders().train()
        inputs = {name: clone(value) for name, value in inputs.items()}
        if part in RECOMPUTED and not plain:
            recompute(model, *RECOMPUTED[part])

        def step() -> None:
            model(**inputs, labels=labels).loss.backward()

    if not plain or part in RECOMPUTED:
        return timed(step, options.device)
    with patch.object(loss, "MAX_RESIZED_VALUES", 2**62), patch.object(loss, "checkpoint", kept):
        return timed(step, options.device)


def recompute(model: PreTrainedModel, decoder: bool, others: bool) -> None:
    """Turns on activation checkpointing for the steps of the decoder, for the other layers, or for both."""
    assert model.supports_gradient_checkpointing
    enable_activation_checkpointing(model)
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.gradient_checkpointing = decoder if isinstance(layer, Dinov3SegDecoderStep) else others


def kept(function: Callable, *arguments, **_) -> torch.Tensor:
    """In place of `checkpoint`: keeps all that the backward pass needs."""
    return function(*arguments)


def clone(value):
    """Copies of the tensors of the inputs, which were made in inference mode."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(map(clone, value))
    return type(value)(**{name: clone(item) for name, item in value.items()})


def timed(step: Callable[[], None], device: str) -> tuple[float, float]:
    """Returns the seconds of a step and its memory in MiB."""
    if device != "cpu":
        step()  # compiles kernels
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start, (torch.cuda.max_memory_allocated() - before) / 2**20
    with open("/proc/self/clear_refs", "w") as file:  # Linux: begins a new peak
        file.write("5")
    before = peak_mib()
    start = time.process_time()
    step()
    return time.process_time() - start, peak_mib() - before


if __name__ == "__main__":
    main()
