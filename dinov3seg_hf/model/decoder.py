# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The decoder: light convolutions upsample the refined correlation of each class beyond the patch grid.

Shapes: B images, C classes, K text halves, h x w patches, E channels of a refined correlation.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import maybe_autocast

from .configuration_dinov3seg import Dinov3SegConfig


class Dinov3SegPriorConvolution(nn.Conv2d):
    """The convolution of a prior feature in a decoder step; zero at initialization.

    The prior is the same for all classes of an image. At first, it would drown the differences between classes.
    """


class Dinov3SegDecoderStep(GradientCheckpointingLayer):
    """One decoder step: a transposed convolution that upsamples by 2, and two convolutions.

    The first of the two convolutions also uses the prior feature of the new size.
    """

    def __init__(self, in_size: int, out_size: int, prior_size: int):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_size, out_size, kernel_size=2, stride=2)
        self.convolution1 = nn.Conv2d(out_size, out_size, kernel_size=3, padding=1)
        # A concatenation, computed as a sum, because the term of the prior is the same for all classes of an image.
        self.prior_convolution = Dinov3SegPriorConvolution(prior_size, out_size, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(max(1, out_size // 16), out_size)
        self.convolution2 = nn.Conv2d(out_size, out_size, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(max(1, out_size // 16), out_size)

    def forward(self, hidden_states: torch.Tensor, prior_feature: torch.Tensor) -> torch.Tensor:
        """Upsamples maps by 2.

        Args:
            hidden_states: `(B C, in, h, w)`.
            prior_feature: `(B, prior, 2h, 2w)`.

        Returns:
            `(B C, out, 2h, 2w)`.
        """
        hidden_states = self.convolution1(self.upsample(hidden_states))
        guidance = self.prior_convolution(prior_feature)[:, None]
        hidden_states = (hidden_states.unflatten(0, (len(guidance), -1)) + guidance).flatten(0, 1)
        hidden_states = F.relu(self.norm1(hidden_states), inplace=True)
        return F.relu(self.norm2(self.convolution2(hidden_states)), inplace=True)


class Dinov3SegDecoder(nn.Module):
    """The decoder: one logit per class at `2**steps` times the resolution of the patch grid."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        sizes = [config.correlation_hidden_size, *config.decoder_hidden_sizes]
        self.steps = nn.ModuleList(
            Dinov3SegDecoderStep(in_size, out_size, prior_size)
            for in_size, out_size, prior_size in zip(sizes, sizes[1:], config.decoder_prior_sizes)
        )
        self.classifier = nn.Conv2d(sizes[-1], 1, kernel_size=3, padding=1)
        # The decoder output is added to the weighted correlations. Training therefore starts from the prediction of the
        # zero-shot head, and class names that are not in the training data keep their similarity in dino.txt.
        self.use_correlation_residual = config.use_correlation_residual
        if config.use_correlation_residual:
            self.correlation_weight = nn.Parameter(torch.empty(2 if config.use_global_text else 1))
            self.correlation_offset = nn.Parameter(torch.empty(1))

    def forward(
        self,
        hidden_states: torch.Tensor,
        correlation: torch.Tensor,
        scale: torch.Tensor,
        prior_features: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Decodes refined correlations to logits; classes are independent.

        Args:
            hidden_states: The refined correlations, `(B, C, h, w, E)`.
            correlation: The centered correlations, `(B, C, K, h', w')`, which are weighted and added to the logits;
                h' x w' is the grid of the refined features.
            scale: The inverse temperature, a factor of the weighted correlations.
            prior_features: For step i, `(B, decoder_prior_sizes[i], 2**(i+1) h, 2**(i+1) w)`.

        Returns:
            Logits, float32 `(B, C, 2**steps h, 2**steps w)`.
        """
        batch_size, num_classes = hidden_states.shape[:2]
        hidden_states = hidden_states.permute(0, 1, 4, 2, 3).flatten(0, 1)  # (B C, E, h, w)
        for step, prior_feature in zip(self.steps, prior_features):
            hidden_states = step(hidden_states, prior_feature)
        logits = self.classifier(hidden_states).reshape(batch_size, num_classes, *hidden_states.shape[-2:])
        if not self.use_correlation_residual:
            return logits.float()
        return logits.float() + self.correlation_logits(correlation, scale, logits.shape[-2:])

    def correlation_logits(
        self, correlation: torch.Tensor, scale: torch.Tensor, size: tuple[int, int] | torch.Size
    ) -> torch.Tensor:
        """The logits of the correlations alone, which the decoder's output is added to; classes are independent.

        Without the residual connection, which has the weights, they are the scaled correlations with the local half.

        Args:
            correlation: The centered correlations, `(B, C, K, h', w')`.
            scale: The inverse temperature.
            size: (H, W) of the result.

        Returns:
            Float32 `(B, C, H, W)`.
        """
        with maybe_autocast(correlation.device.type, enabled=False):  # in float32 like the correlations
            if self.use_correlation_residual:
                cosine = torch.einsum("bckhw,k->bchw", correlation.float(), self.correlation_weight.float())
            else:
                cosine = correlation[:, :, -1].float()
            cosine = F.interpolate(cosine, size=size, mode="bilinear", align_corners=False)
            offset = self.correlation_offset.float() if self.use_correlation_residual else 0.0
            return scale.float() * (cosine - offset)
