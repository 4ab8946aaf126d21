# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The training loop, built on Accelerate, and everything that a run reads and writes.

This package is allowed to import every subpackage except `hub`, `demo` and `cli`.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .config import TrainingConfig
    from .progress import NonFiniteLossError, TrainingResult
    from .trainer import Trainer
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".config": ("TrainingConfig",),
            ".progress": ("NonFiniteLossError", "TrainingResult"),
            ".trainer": ("Trainer",),
        },
    )

__all__ = [
    "NonFiniteLossError",
    "Trainer",
    "TrainingConfig",
    "TrainingResult",
]
