# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The encoders of early refinement (AnyUp): 1x1 convolutions of maps with one cell per pixel.

Without gradients, the channels of a cell lie side by side in memory, so a 1x1 convolution is a product of matrices. On
a CPU, maps are processed in bands of rows, and what a band needs stays in the cache.

Shapes: B images, E channels, h x w cells.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .plain_layers import is_plain

NUM_GROUPS = 8
# Maximum number of values of a band of rows on a CPU, so that it stays in its cache; it does not change results.
MAX_BAND = 2**18
# Maximum number of values of the images that are refined at once on other devices; it limits memory.
MAX_IMAGES = 2**28
POINTWISE = {"kernel_size": (1, 1), "stride": (1, 1), "padding": (0, 0)}


class Dinov3SegPointwiseBlock(GradientCheckpointingLayer):
    """A pre-norm residual block of 1x1 convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(NUM_GROUPS, width)
        self.convolution1 = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, width)
        self.convolution2 = nn.Conv2d(width, width, kernel_size=1, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Refines `(B, E, h, w)`; the shape does not change."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._refine(hidden_states)
        if hidden_states.device.type != "cpu":
            few = max(1, MAX_IMAGES // hidden_states[0].numel())
            return torch.cat([self._refine(images) for images in hidden_states.split(few)])
        return self._refine_in_bands(hidden_states)

    def _refine(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inner = self.convolution1(F.silu(self.norm1(hidden_states)))
        return hidden_states + self.convolution2(F.silu(self.norm2(inner)))

    def _refine_in_bands(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The same, one band of rows after the other."""
        result = torch.empty_like(hidden_states, memory_format=torch.channels_last)
        inner = torch.empty_like(result[0].permute(1, 2, 0))
        for cells, refined in zip(hidden_states.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1)):
            for rows, band in normalized_bands(self.norm1, cells):
                inner[rows] = convolve_cells(self.convolution1, band)
            for rows, band in normalized_bands(self.norm2, inner):
                refined[rows] = convolve_cells(self.convolution2, band) + cells[rows]
        return result


def convolve_cells(convolution: nn.Conv2d, cells: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution without a bias, of cells `(h, w, E)` or `(B, h, w, E)`."""
    if is_plain(convolution, nn.Conv2d, POINTWISE, cells.device):
        return F.linear(cells, convolution.weight.flatten(1))
    return convolution(cells.movedim(-1, -3)).movedim(-3, -1)


def band_height(cells: torch.Tensor) -> int:
    """The number of rows of `(h, w, E)` that are computed at once: on a CPU a few, on other devices all."""
    return max(1, MAX_BAND // cells[0].numel()) if cells.device.type == "cpu" else len(cells)


def normalized_bands(norm: nn.GroupNorm, cells: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields `(rows, silu(norm(cells))[rows])` for bands of rows of `(h, w, E)`; the statistics are of all rows."""
    height = band_height(cells)
    mean, variance = group_statistics(cells, norm.num_groups, height)
    per_group = cells.shape[-1] // norm.num_groups
    scale = (variance + norm.eps).rsqrt().repeat_interleave(per_group) * norm.weight.float()  # (E,)
    shift = norm.bias.float() - mean.repeat_interleave(per_group) * scale
    for start in range(0, len(cells), height):
        rows = slice(start, start + height)
        yield rows, F.silu(torch.addcmul(shift, cells[rows].float(), scale), inplace=True).to(cells.dtype)


def group_statistics(cells: torch.Tensor, num_groups: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the mean and the variance of each group of channels of `(h, w, E)`, float32 `(groups,)`.

    The sums of squares are those around the mean of a channel in a band of `height` rows, which lose no digits; with
    the distances of these means, they are those of the group (Chan, Golub and LeVeque, 1979).
    """
    means, squares, counts = [], [], []
    for band in cells.split(height):
        states = band.flatten(0, 1).float()
        means.append(states.mean(dim=0))
        squares.append((states - means[-1]).square_().sum(dim=0))
        counts.append(len(states))
    shape = (len(counts), num_groups, -1)
    count = torch.tensor(counts, dtype=torch.float64)[:, None, None]  # few values, so that these sums need not round
    total = sum(counts) * (cells.shape[-1] // num_groups)
    channels = torch.stack(means).double().view(shape)
    mean = (channels * count).sum(dim=(0, 2)) / total
    around = torch.stack(squares).view(shape) + (channels - mean[:, None]).square() * count
    return mean.float(), (around.sum(dim=(0, 2)) / total).float()


class Dinov3SegPointwiseEncoder(nn.Module):
    """A convolution to E channels and two pointwise blocks."""

    def __init__(self, in_size: int, width: int, kernel_size: int = 1):
        super().__init__()
        self.radius = kernel_size // 2
        self.convolution = nn.Conv2d(in_size, width, kernel_size, bias=False)
        self.blocks = nn.Sequential(Dinov3SegPointwiseBlock(width), Dinov3SegPointwiseBlock(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Encodes `(B, in, h, w)` as `(B, E, h, w)`."""
        if self.radius > 0:
            # a reflection needs more cells than the radius; smaller maps repeat their border
            mode = "reflect" if min(states.shape[-2:]) > self.radius else "replicate"
            states = F.pad(states, [self.radius] * 4, mode=mode)
        elif not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            return self.blocks(convolve_cells(self.convolution, states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return self.blocks(self.convolution(states))
