# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Counts and scores of label maps: for `evaluate.load`, and for `transformers.Trainer`.

`mean_iou.py` is the metric that `evaluate.load` can load. This package is not allowed to import other parts of
`dinov3seg_hf`, except for `lazy_names`.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .compute_metrics import SegmentationMetrics
else:
    __getattr__, __dir__ = lazy_names(__name__, {".compute_metrics": ("SegmentationMetrics",)})

__all__ = ["SegmentationMetrics"]
