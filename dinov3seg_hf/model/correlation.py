# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Correlation of patches with the two halves of the text embeddings, and the embedding of the correlations.

Shapes: B images, C classes, K text halves (global and local, or only local), D channels of a feature, h x w patches, E
channels of an embedded correlation.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast

from .configuration_dinov3seg import Dinov3SegConfig


def correlate(patch_features: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Computes the cosine similarity of every patch with every text.

    In float32 whatever the dtype of the model, because similar names differ by less than the precision of bfloat16; and
    because the square of a small float16 feature is 0.

    Args:
        patch_features: `(B, D, h, w)`.
        text_embeds: `(C, K, D)`, of unit length.

    Returns:
        `(B, C, K, h, w)`, float32.
    """
    with maybe_autocast(patch_features.device.type, enabled=False):
        patch_features = F.normalize(patch_features.float(), dim=1)
        return torch.einsum("bdhw,ckd->bckhw", patch_features, text_embeds.float())


class Dinov3SegTextThreshold(nn.Linear):
    """A linear layer from a text embedding to the cosine similarity that counts as a match.

    Ours; zero at initialization. For example, 0.6 is a match for "red", which is only one property of a patch, but not
    for "red striped circle". The sigmoid needs this threshold. Elsewhere the text only guides the attention between
    classes, and this attention has no effect if there is only one class.
    """


class Dinov3SegCorrelationEmbedding(nn.Module):
    """A convolution of each class's correlation maps (global and local) to the hidden size."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        num_halves = 2 if config.use_global_text else 1
        self.text_threshold = (
            Dinov3SegTextThreshold(2 * config.vision_config.hidden_size, num_halves, bias=False)
            if config.use_text_threshold
            else None
        )
        self.convolution = nn.Conv2d(
            num_halves,
            config.correlation_hidden_size,
            kernel_size=config.correlation_kernel_size,
            padding=config.correlation_kernel_size // 2,
        )

    def center(self, correlation: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """Subtracts the threshold of each text from the correlations.

        Args:
            correlation: `(B, C, K, h, w)`.
            text_embeds: `(C, 2, D)`: the global and the local half of each text.

        Returns:
            `(B, C, K, h, w)`.
        """
        if self.text_threshold is None:
            return correlation
        with maybe_autocast(correlation.device.type, enabled=False):
            weight = self.text_threshold.weight.float()
            thresholds = F.linear(text_embeds.flatten(1).float(), weight)  # (C, K)
        return correlation - thresholds[..., None, None]

    def forward(self, correlation: torch.Tensor) -> torch.Tensor:
        """Embeds correlations `(B, C, K, h, w)` as `(B, C, h, w, E)`; classes are independent."""
        batch_size, num_classes = correlation.shape[:2]
        embedded = self.convolution(correlation.flatten(0, 1).to(self.convolution.weight.dtype))  # (B C, E, h, w)
        # the channels of a place side by side: late refinement and decoder would otherwise copy their inputs
        return embedded.unflatten(0, (batch_size, num_classes)).permute(0, 1, 3, 4, 2).contiguous()
