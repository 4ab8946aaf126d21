# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""ZeroGPU: a Space that borrows a GPU for each call. The library `spaces` is installed there, and optional elsewhere.

A decorated function runs in a process of its own, which has the GPU: arguments and answers are pickled, and what it
stores is lost. See the page "Spaces ZeroGPU" of the Hub's documentation.
"""

import os
from collections.abc import Callable, Generator
from typing import TypeVar

import torch
from torch import nn

try:
    import spaces  # before the first use of CUDA; else it refuses
except ImportError:
    spaces = None

# The longest time of one request, in seconds. A visitor of the Space needs that much left of the day's quota.
GPU_SECONDS = 60
# What the model's move to the GPU and the way back of the answer may take of it.
SPARE_SECONDS = 10

Steps = TypeVar("Steps", bound=Callable[..., Generator])


def on_zero_gpu() -> bool:
    """Whether this process runs in a Space with ZeroGPU, by the variable that `spaces` reads."""
    return spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def with_borrowed_gpu(steps: Steps) -> Steps:
    """Returns a generator function that runs where a GPU is lent; the function itself if `spaces` is not installed."""
    return steps if spaces is None else spaces.GPU(duration=GPU_SECONDS)(steps)


def seconds_of_a_request(limit: float) -> float:
    """Returns the time limit of a request: below that of a borrowed GPU, whose end says nothing about the remedy."""
    return min(limit, GPU_SECONDS - SPARE_SECONDS) if on_zero_gpu() else limit


def move_to_borrowed_gpu(model: nn.Module) -> None:
    """Moves the model to the GPU, once for each process that has one. The page's own process keeps it on the CPU."""
    if torch.cuda.is_available():
        model.to("cuda")
