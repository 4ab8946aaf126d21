# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Correlation of patches with the two halves of the text embeddings, and its embedding."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_dinov3seg import Dinov3SegConfig


def correlate(patch_features: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Cosine of every patch with every text: `(B, D, h, w)`, `(C, K, D)` of unit length -> `(B, C, K, h, w)`."""
    patch_features = F.normalize(patch_features, dim=1)
    return torch.einsum("bdhw,ckd->bckhw", patch_features, text_embeds.to(patch_features.dtype))


class Dinov3SegTextThreshold(nn.Linear):
    """What cosine is a hit, read from the text: 0.6 is one for "red", a part of what a patch looks like, and none for
    "red striped circle". A sigmoid needs to know that, and text guides nothing but attention among classes, so that a
    class alone could not be told apart. The paper has none of this; zero at first.
    """


class Dinov3SegCorrelationEmbedding(nn.Module):
    """A convolution lifts each class's correlation maps (global and local) to the hidden size."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        num_halves = 2 if config.use_global_text else 1
        self.text_threshold = Dinov3SegTextThreshold(2 * config.vision_config.hidden_size, num_halves, bias=False)
        self.convolution = nn.Conv2d(
            num_halves,
            config.correlation_hidden_size,
            kernel_size=config.correlation_kernel_size,
            padding=config.correlation_kernel_size // 2,
        )

    def center(self, correlation: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """(B, C, K, h, w), (C, 2, D) -> (B, C, K, h, w) less the threshold of each text."""
        thresholds = self.text_threshold(text_embeds.flatten(1).to(self.text_threshold.weight.dtype))  # (C, K)
        return correlation - thresholds[..., None, None].to(correlation.dtype)

    def forward(self, correlation: torch.Tensor) -> torch.Tensor:
        """(B, C, K, h, w) -> (B, C, h, w, E); classes are independent."""
        batch_size, num_classes = correlation.shape[:2]
        embedded = self.convolution(correlation.flatten(0, 1))  # (B C, E, h, w)
        return embedded.unflatten(0, (batch_size, num_classes)).permute(0, 1, 3, 4, 2)
