# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The average of maps over the cells of a coarser grid."""

import torch
from torch.nn import functional as F


def pool(maps: torch.Tensor, size: tuple[int, int], factor: int) -> torch.Tensor:
    """Averages maps to a grid.

    Args:
        maps: `(B, D, H, W)`.
        size: (height, width) of the grid.
        factor: H / height and W / width, if the sides are multiples.

    Returns:
        `(B, D, *size)`.
    """
    height, width = maps.shape[-2:]
    if torch.compiler.is_compiling() and (height, width) == (size[0] * factor, size[1] * factor):
        return F.avg_pool2d(maps, factor)  # a graph for any size cannot contain the adaptive average
    return F.adaptive_avg_pool2d(maps, size)
