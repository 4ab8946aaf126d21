# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Normalization of features to unit length."""

import torch
from torch.nn import functional as F


def unit_length(features: torch.Tensor, dim: int) -> torch.Tensor:
    """Divides features by their length along `dim`, in the dtype of the features; zero stays zero.

    Computed in float32: in float16, the square of a small value is 0, and so is the constant that prevents 0 / 0.
    """
    return F.normalize(features.float(), dim=dim).to(features.dtype)
