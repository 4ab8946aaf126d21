# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The training loop with Accelerate, and all that a run reads and writes.

May import every room but `hub`, `demo` and `cli`.
"""

from .config import TrainingConfig
from .progress import NonFiniteLossError, TrainingResult
from .trainer import Trainer

__all__ = [
    "NonFiniteLossError",
    "Trainer",
    "TrainingConfig",
    "TrainingResult",
]
