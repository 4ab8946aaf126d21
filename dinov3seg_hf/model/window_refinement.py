# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The early refinement of our first release: attention in small windows of patches, instead of AnyUp.

Replaces patch features by weighted averages of their neighbors, before the correlation with text. Queries are computed
from the image and the features, keys from the features. **The values are the features themselves, without a
projection**: every output vector is a convex combination of the input vectors in its window, so it stays in the space
that is aligned with text.

Shapes: B images, h x w patches, D channels of a feature, E channels of queries and keys, d channels per head.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_dinov3seg import Dinov3SegConfig
from .pooling import pool


class Dinov3SegImageGuidance(nn.Module):
    """A light convolutional stem on the pixels, pooled to the patch grid."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        width = config.early_hidden_size
        self.factor = config.vision_config.patch_size // 4  # two convolutions of stride 2 come before
        self.convolution1 = nn.Conv2d(config.vision_config.num_channels, width // 2, kernel_size=3, stride=2, padding=1)
        self.norm = nn.GroupNorm(1, width // 2)
        self.convolution2 = nn.Conv2d(width // 2, width, kernel_size=3, stride=2, padding=1)

    def forward(self, pixel_values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        hidden_states = F.gelu(self.norm(self.convolution1(pixel_values)))  # (B, E/2, H/2, W/2)
        return pool(self.convolution2(hidden_states), size, self.factor)  # (B, E, h, w)


def rotate(states: torch.Tensor) -> torch.Tensor:
    """Applies RoPE on a grid: half of the channels encode the row, the other half the column.

    `(B, heads, d, h, w)`; the shape does not change. The lowest frequency is half a turn per 100 patches, the highest
    half a turn per patch. Neighbors therefore differ clearly, and no two positions of a window have the same encoding
    (if d is at least 8).
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
    """Returns the (row, column) offsets of a window in a map that is padded by `window_size // 2`."""
    return [(row, column) for row in range(window_size) for column in range(window_size)]


def window_logits(query: torch.Tensor, key: torch.Tensor, window_size: int) -> torch.Tensor:
    """Computes the dot product of each query with the keys in its window; `-inf` outside the map.

    Computes one product of shifted maps per window position, so the neighborhoods are never copied.

    Args:
        query: `(B, heads, d, h, w)`.
        key: `(B, heads, d, h, w)`.
        window_size: Side of the window in patches.

    Returns:
        `(B, heads, window_size**2, h, w)`.
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
    """Computes the weighted average of the values in each window.

    Args:
        values: `(B, D, h, w)`.
        weights: `(B, window_size**2, h, w)`.
        window_size: Side of the window in patches.

    Returns:
        `(B, D, h, w)`.
    """
    height, width = values.shape[-2:]
    padded = F.pad(values, [window_size // 2] * 4)
    average = torch.zeros_like(values)
    for index, (row, column) in enumerate(window_offsets(window_size)):
        average = average + weights[:, index : index + 1] * padded[:, :, row : row + height, column : column + width]
    return average


class Dinov3SegWindowRefinement(nn.Module):
    """Windowed attention over the unprojected patch features, with weights averaged over heads.

    The attention is written out, because the weights are averaged over heads *before* they are applied to the values.
    The attention interface of transformers does not support this.
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
        # A bias for the patch itself, which gets 99 % of the attention weight before training.
        self.self_bias = nn.Parameter(torch.empty(self.num_attention_heads))

    def attention(self, patch_features: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """Computes attention weights `(B, window_size**2, h, w)`, which are at least 0 and sum to 1 per window."""
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
        """Refines features `(B, D, h, w)` with pixels `(B, 3, H, W)`; the shape of the features does not change."""
        weights = self.attention(patch_features, pixel_values)
        return window_average(patch_features, weights, self.window_size)
