# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Early refinement: patch features are re-weighted among their neighbors before they meet text.

Queries come from the image and the features, keys from the features, **values are the raw features themselves**: every
output vector is a convex combination of the input vectors in its window, so it stays in the space that text is aligned
with.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_dinov3seg import Dinov3SegConfig


class Dinov3SegImageGuidance(nn.Module):
    """A light convolutional stem on the pixels, pooled to the grid of patches."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        width = config.early_hidden_size
        self.convolution1 = nn.Conv2d(config.vision_config.num_channels, width // 2, kernel_size=3, stride=2, padding=1)
        self.norm = nn.GroupNorm(1, width // 2)
        self.convolution2 = nn.Conv2d(width // 2, width, kernel_size=3, stride=2, padding=1)

    def forward(self, pixel_values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        hidden_states = F.gelu(self.norm(self.convolution1(pixel_values)))  # (B, E/2, H/2, W/2)
        return F.adaptive_avg_pool2d(self.convolution2(hidden_states), size)  # (B, E, h, w)


def rotate(states: torch.Tensor) -> torch.Tensor:
    """Rotary position encoding on a grid: half of the channels turn with the row, the other half with the column.

    `(B, heads, d, h, w)` -> the same. The slowest wave turns once in 100 patches, the fastest half a turn a patch, so
    that neighbors differ clearly and no two positions of a window agree.
    """
    head_size, height, width = states.shape[2:]
    frequencies = math.pi / 100.0 ** torch.linspace(0, 1, head_size // 4, device=states.device)  # (d/4)
    rows = torch.arange(height, device=states.device)[None, :, None].expand(1, height, width)
    columns = torch.arange(width, device=states.device)[None, None, :].expand(1, height, width)
    angles = torch.cat([frequencies[:, None, None] * rows, frequencies[:, None, None] * columns])  # (d/2, h, w)
    cos, sin = angles.cos().to(states.dtype), angles.sin().to(states.dtype)
    even, odd = states[:, :, 0::2], states[:, :, 1::2]  # (B, heads, d/2, h, w)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=3).flatten(2, 3)


def window_offsets(window_size: int) -> list[tuple[int, int]]:
    """(row, column) of every place of a window inside a map that is padded by `window_size // 2`."""
    return [(row, column) for row in range(window_size) for column in range(window_size)]


def window_logits(query: torch.Tensor, key: torch.Tensor, window_size: int) -> torch.Tensor:
    """Dot product of each query with the keys of its window; `-inf` outside the map.

    `(B, heads, d, h, w)` twice -> `(B, heads, window_size**2, h, w)`. One shifted product a place of the window: no
    copy of the neighborhoods is ever made.
    """
    height, width = query.shape[-2:]
    radius = window_size // 2
    padded = F.pad(key.flatten(1, 2), [radius] * 4).unflatten(1, key.shape[1:3])
    inside = F.pad(query.new_ones(1, height, width), [radius] * 4) > 0
    logits = []
    for row, column in window_offsets(window_size):
        product = (query * padded[..., row : row + height, column : column + width]).sum(dim=2)  # (B, heads, h, w)
        logits.append(product.masked_fill(~inside[:, row : row + height, column : column + width], float("-inf")))
    return torch.stack(logits, dim=2)


def window_average(values: torch.Tensor, weights: torch.Tensor, window_size: int) -> torch.Tensor:
    """Average of each window's values: `(B, D, h, w)`, weights `(B, window_size**2, h, w)` -> `(B, D, h, w)`."""
    height, width = values.shape[-2:]
    padded = F.pad(values, [window_size // 2] * 4)
    average = torch.zeros_like(values)
    for index, (row, column) in enumerate(window_offsets(window_size)):
        average = average + weights[:, index : index + 1] * padded[:, :, row : row + height, column : column + width]
    return average


class Dinov3SegEarlyRefinement(nn.Module):
    """Windowed attention whose values are the raw patch features, averaged over heads.

    The weights of all heads are averaged *before* they meet the values, which the library's attention interface has no
    form for; the attention is therefore written out.
    """

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        width = config.early_hidden_size
        self.window_size = config.early_window_size
        self.num_attention_heads = config.early_num_attention_heads
        self.norm = nn.LayerNorm(config.vision_config.hidden_size)
        self.guidance = Dinov3SegImageGuidance(config)
        self.query = nn.Linear(config.vision_config.hidden_size, width)
        self.key = nn.Linear(config.vision_config.hidden_size, width, bias=False)
        # A bias on "stay as you are": half of the weight rests on the patch itself before training.
        self.self_bias = nn.Parameter(torch.empty(self.num_attention_heads))

    def attention(self, patch_features: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """Weights `(B, window_size**2, h, w)`, at least 0, of sum 1."""
        size = patch_features.shape[-2:]
        tokens = self.norm(patch_features.permute(0, 2, 3, 1))  # (B, h, w, D)
        query = self.query(tokens).permute(0, 3, 1, 2) + self.guidance(pixel_values, size)  # (B, E, h, w)
        key = self.key(tokens).permute(0, 3, 1, 2)
        query, key = (
            states.unflatten(1, (self.num_attention_heads, -1)) for states in (query, key)
        )  # (B, heads, d, h, w)

        logits = window_logits(rotate(query) * query.shape[2] ** -0.5, rotate(key), self.window_size)
        center = torch.arange(self.window_size**2, device=logits.device) == self.window_size**2 // 2
        logits = logits + self.self_bias[:, None, None, None] * center[:, None, None]
        return logits.softmax(dim=2, dtype=torch.float32).mean(dim=1).to(patch_features.dtype)

    def forward(self, patch_features: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) and (B, 3, H, W) -> (B, D, h, w)."""
        weights = self.attention(patch_features, pixel_values)
        return window_average(patch_features, weights, self.window_size)
