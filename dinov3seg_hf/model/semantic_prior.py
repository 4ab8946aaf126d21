# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The semantic prior, which guides the late refinement and adds detail in the decoder. It does not depend on text.

The prior encoder is SAM's image encoder, as in the paper. Without it, the prior uses intermediate layers of the DINOv3
backbone, which need no additional computation. If that backbone has a convolutional stem, the decoder uses the feature
maps of the stem, which are as fine as the steps of the decoder.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import SamVisionModel
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from .configuration_dinov3seg import Dinov3SegConfig


@dataclass
class Dinov3SegPriorOutput(ModelOutput):
    """Output of the semantic prior.

    Attributes:
        guidance (`torch.Tensor` of shape `(batch_size, guidance_hidden_size, height, width)`):
            The guidance of the late refinement, on the patch grid.
        features (`tuple(torch.Tensor)`):
            One feature per decoder step, `(batch_size, decoder_prior_sizes[i], 2**(i+1) height, 2**(i+1) width)`.
    """

    guidance: torch.Tensor | None = None
    features: tuple[torch.Tensor, ...] | None = None


class Dinov3SegSemanticPrior(nn.Module):
    """Projections of encoder layers to guidance (the last layer) and decoder features (earlier layers).

    The first of the earlier layers is for the finest step of the decoder.
    """

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        if config.prior_config is None:
            self.encoder = None
            width = guidance_width = config.vision_config.hidden_size
            num_layers = config.vision_config.num_hidden_layers
            stem_widths = list(reversed(config.stem_channels or []))  # the coarsest map first, like the decoder steps
        else:
            self.encoder = SamVisionModel._from_config(config.prior_config)
            maybe_install_capturing_hooks(self.encoder.vision_encoder)  # see `Dinov3SegVisionTower`
            width, guidance_width = config.prior_config.hidden_size, config.prior_config.output_channels
            num_layers = config.prior_config.num_hidden_layers
            stem_widths = []
        num_steps = len(config.decoder_prior_sizes)
        self.num_stem_steps = min(len(stem_widths), num_steps)
        # for two steps and 24 layers: layers 16 and 8; index 0 of the hidden states is the embedding
        self.layer_indices = [
            num_layers * (num_steps - step) // (num_steps + 1) for step in range(self.num_stem_steps, num_steps)
        ]
        self.guidance_norm = nn.LayerNorm(guidance_width)
        self.guidance_projection = nn.Linear(guidance_width, config.guidance_hidden_size)
        self.feature_norms, self.feature_projections = nn.ModuleList(), nn.ModuleList()
        for step, size in enumerate(config.decoder_prior_sizes):
            if step < self.num_stem_steps:
                self.feature_norms.append(nn.LayerNorm(stem_widths[step]))
                self.feature_projections.append(nn.Conv2d(stem_widths[step], size, kernel_size=1))
            else:
                factor = 2 ** (step + 1)
                self.feature_norms.append(nn.LayerNorm(width))
                self.feature_projections.append(nn.ConvTranspose2d(width, size, kernel_size=factor, stride=factor))

    def encode(
        self,
        pixel_values: torch.Tensor,
        backbone_states: tuple[torch.Tensor, ...],
        stem_maps: tuple[torch.Tensor, ...],
        size: tuple[int, int],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the last layer and one map per decoder step, all `(B, rows, columns, width)`."""
        if self.encoder is None:
            num_patches = size[0] * size[1]
            maps = [
                backbone_states[index][:, -num_patches:].unflatten(1, size) for index in (*self.layer_indices, -1)
            ]  # without CLS and registers
            stem = [stem_map.permute(0, 2, 3, 1) for stem_map in stem_maps[::-1][: self.num_stem_steps]]
            return maps[-1], [*stem, *maps[:-1]]
        side = self.encoder.config.image_size
        # SAM's position embedding has a fixed size. DINOv3 and SAM use the same pixel normalization.
        if torch.compiler.is_compiling() or pixel_values.shape[-2:] != (side, side):
            pixel_values = F.interpolate(pixel_values, size=(side, side), mode="bilinear", align_corners=False)
        outputs = self.encoder(pixel_values.to(self.encoder.dtype), output_hidden_states=True)
        states = outputs.hidden_states
        return outputs.last_hidden_state.permute(0, 2, 3, 1), [states[index] for index in self.layer_indices]

    def forward(
        self,
        pixel_values: torch.Tensor,
        backbone_states: tuple[torch.Tensor, ...],
        stem_maps: tuple[torch.Tensor, ...],
        size: tuple[int, int],
    ) -> Dinov3SegPriorOutput:
        """Computes the guidance and the decoder features of images.

        Args:
            pixel_values: `(B, 3, H, W)`.
            backbone_states: Hidden states of the backbone, `(B, 1 + R + h w, D)` each (CLS, R registers, patches); used
                without a prior encoder.
            stem_maps: Feature maps of the backbone's convolutional stem, the finest first; empty without a stem.
            size: (h, w), the patch grid.
        """
        last, earlier = self.encode(pixel_values, backbone_states, stem_maps, size)
        guidance = self.guidance_projection(self.guidance_norm(last)).permute(0, 3, 1, 2)  # (B, G, rows, columns)
        features = [
            projection(norm(states).permute(0, 3, 1, 2))
            for states, norm, projection in zip(earlier, self.feature_norms, self.feature_projections)
        ]
        if self.encoder is not None:  # has its own patch grid
            guidance = resize(guidance, size)
            features = [
                resize(feature, (size[0] * 2 ** (step + 1), size[1] * 2 ** (step + 1)))
                for step, feature in enumerate(features)
            ]
        return Dinov3SegPriorOutput(guidance=guidance, features=tuple(features))


def resize(states: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes the prior bilinearly if its size differs.

    A traced graph always does, because the comparison holds for some sizes only; the same size is the identity.
    """
    if not torch.compiler.is_compiling() and states.shape[-2:] == size:
        return states
    return F.interpolate(states, size=size, mode="bilinear", align_corners=False)
