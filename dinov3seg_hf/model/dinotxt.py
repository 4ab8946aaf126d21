# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""dino.txt (arXiv 2412.16334): a frozen DINOv3 backbone, a shallow vision head, a text tower.

Takes images as pixels and texts as token ids. All parts are transformers modules: the backbone is `DINOv3ViTModel`, a
block of the vision head is a `DINOv3ViTLayer` without RoPE, the text tower is `CLIPTextModelWithProjection`.

Shapes: B images, R register tokens, N = h w patches, D channels of a token, C classes, P prompts per class, L tokens
per prompt.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTLayer, DINOv3ViTPreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from .chunking import map_chunks
from .configuration_dinov3seg import Dinov3SegConfig
from .inference_settings import PatchSource
from .unit_length import unit_length
from .windows import ceil_div

# Maximum number of prompts that the text tower encodes at once without gradients: 847 classes in 80 templates, all at
# once, would need 16 GB.
PROMPT_CHUNK_SIZE = 512


class Dinov3SegConvStem(nn.Module):
    """Patch embedding by stride-2 convolutions ("Early Convolutions Help Transformers See Better", arXiv 2106.14881).

    Small models that are trained from scratch learn faster with this stem. `weight` replaces the weight of the linear
    patch embedding, whose dtype transformers reads.
    """

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        widths = [config.vision_config.num_channels, *(config.stem_channels or [])]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(c_in, c_out, kernel_size=3, stride=2, padding=1) for c_in, c_out in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, c_out) for c_out in widths[1:])
        self.projection = nn.Conv2d(widths[-1], config.vision_config.hidden_size, kernel_size=2, stride=2)

    @property
    def weight(self) -> torch.Tensor:
        return self.projection.weight

    def forward(self, pixel_values: torch.Tensor, return_maps: bool = False) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Embeds the patches of images.

        Args:
            pixel_values: `(B, 3, H, W)`.
            return_maps: Whether to return the feature maps of the convolutions instead of the patch embeddings.

        Returns:
            Patch embeddings `(B, D, H / patch, W / patch)`, or one feature map per convolution,
            `(B, stem_channels[i], H / 2**(i+1), W / 2**(i+1))`.
        """
        maps, hidden_states = [], pixel_values
        for convolution, norm in zip(self.convolutions, self.norms):
            hidden_states = F.gelu(norm(convolution(hidden_states)))
            maps.append(hidden_states)
        return tuple(maps) if return_maps else self.projection(hidden_states)


class Dinov3SegVisionHead(DINOv3ViTPreTrainedModel):
    """Transformer blocks without RoPE over the tokens [CLS; registers; patches], and a final LayerNorm."""

    def __init__(self, config: DINOv3ViTConfig):
        super().__init__(config)
        self.layer = nn.ModuleList(DINOv3ViTLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transforms the tokens `(B, 1 + R + N, D)`; the shape does not change."""
        # RoPE tables of zero patches: the layers do not rotate any token.
        head_size = self.config.hidden_size // self.config.num_attention_heads
        no_rotation = hidden_states.new_empty(0, head_size)
        for layer in self.layer:
            hidden_states = layer(hidden_states, position_embeddings=(no_rotation, no_rotation))
        return self.norm(hidden_states)


def vision_head_config(config: Dinov3SegConfig) -> DINOv3ViTConfig:
    """Returns the configuration of the vision head: the sizes of the backbone, and the block options of dino.txt."""
    return DINOv3ViTConfig(
        **{
            **{
                k: getattr(config.vision_config, k)
                for k in ("hidden_size", "num_attention_heads", "image_size", "patch_size")
            },
            "num_hidden_layers": config.vision_head_num_layers,
            "intermediate_size": config.vision_head_intermediate_size,
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "query_bias": False,
            "key_bias": False,
            "value_bias": False,
            "layer_norm_eps": 1e-5,
            "initializer_range": config.vision_config.initializer_range,
            "layerscale_value": config.vision_config.layerscale_value,
            "attn_implementation": config.vision_config._attn_implementation,
        }
    )


@dataclass
class Dinov3SegVisionOutput(ModelOutput):
    """Output of the vision tower.

    Attributes:
        cls_token (`torch.Tensor` of shape `(batch_size, hidden_size)`):
            The global image embedding, after the vision head.
        patch_tokens (`torch.Tensor` of shape `(batch_size, hidden_size, height, width)`):
            The patch tokens, after or before the vision head.
        hidden_states, attentions (`tuple(torch.Tensor)`, *optional*):
            The hidden states and attentions of the backbone, one per layer.
    """

    cls_token: torch.Tensor | None = None
    patch_tokens: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class Dinov3SegVisionTower(nn.Module):
    """Backbone and vision head, from pixels to a CLS token and patch tokens in the space of the text embeddings."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        self.patch_size = config.vision_config.patch_size
        # A plain `DINOv3ViTModel`: by its class, transformers finds how to load weights and adapters.
        self.backbone = DINOv3ViTModel._from_config(config.vision_config)
        if config.stem_channels is not None:
            # has the interface of the linear patch embedding: `weight`, and (B, 3, H, W) -> (B, D, h, w)
            self.backbone.embeddings.patch_embeddings = Dinov3SegConvStem(config)
        self.head = Dinov3SegVisionHead._from_config(vision_head_config(config))
        # otherwise the first forward pass installs them, under a lock, which `torch.compile` does not trace
        maybe_install_capturing_hooks(self.backbone.model)

    def to_whole_patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Stretches each side (bicubic) to the next multiple of the patch size, as in the reference code."""
        size = tuple(ceil_div(side, self.patch_size) * self.patch_size for side in pixel_values.shape[-2:])
        if pixel_values.shape[-2:] == size:
            return pixel_values
        stretched = F.interpolate(pixel_values.float(), size=size, mode="bicubic", align_corners=False)
        return stretched.to(pixel_values.dtype)

    def stem_maps(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the feature maps of the convolutional stem, the finest first; an empty tuple without a stem.

        The stem is computed a second time, because `DINOv3ViTModel.forward` does not return its maps. This is cheap (8%
        of the backbone's time on a CPU for the embedded checkpoint).
        """
        stem = self.backbone.embeddings.patch_embeddings
        if not isinstance(stem, Dinov3SegConvStem):
            return ()
        # a call of the module, not another method, because FSDP gathers the weights only for calls
        return stem(self.to_whole_patches(pixel_values).to(stem.weight.dtype), return_maps=True)

    def forward(
        self, pixel_values: torch.Tensor, patch_source: PatchSource = "head", **kwargs: Any
    ) -> Dinov3SegVisionOutput:
        pixel_values = self.to_whole_patches(pixel_values)
        height, width = (side // self.patch_size for side in pixel_values.shape[-2:])
        backbone_outputs = self.backbone(pixel_values, **kwargs)
        before_head = backbone_outputs.last_hidden_state  # (B, 1 + R + h w, D)
        after_head = self.head(before_head)
        tokens = after_head if patch_source == "head" else before_head
        patch_tokens = tokens[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))  # (B, D, h, w)
        return Dinov3SegVisionOutput(
            cls_token=after_head[:, 0],
            patch_tokens=patch_tokens,
            hidden_states=backbone_outputs.hidden_states,
            attentions=backbone_outputs.attentions,
        )


def encode_prompts(
    text_model: CLIPTextModelWithProjection, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Encodes prompts as text embeddings of classes; both halves are normalized.

    Args:
        text_model: The text tower.
        input_ids: Token ids `(C, P, L)`, long.
        attention_mask: `(C, P, L)`. A prompt whose mask is all zero is padding and is ignored.

    Returns:
        `(C, 2, D)`: [global, local] of each class. The embeddings of several prompts are normalized, averaged and
        normalized again.
    """
    num_classes, num_prompts, _ = input_ids.shape
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    is_prompt = attention_mask.any(dim=-1).flatten()  # (C P)
    # No mask is needed: the tower is causal and pooled at end-of-text, so padding after a prompt has no effect.
    text_embeds = map_chunks(
        lambda prompts: text_model(input_ids=prompts).text_embeds,
        input_ids.flatten(0, 1),
        dim=0,
        chunk_size=None if torch.is_grad_enabled() else PROMPT_CHUNK_SIZE,
    )  # (C P, 2 D)
    halves = unit_length(text_embeds.unflatten(-1, (2, -1)), dim=-1)  # (C P, 2, D)
    halves = (halves * is_prompt[:, None, None].to(halves.dtype)).unflatten(0, (num_classes, num_prompts))
    return unit_length(halves.sum(dim=1), dim=-1)  # (C, 2, D)


def choose_states(
    hidden_states: tuple[torch.Tensor, ...] | None, wanted: bool | list[int] | None
) -> tuple[torch.Tensor | None, ...] | None:
    """Returns what transformers returns for `output_hidden_states=wanted`.

    This is all states, `None`, or a tuple with `None` in place of the layers that are not listed.
    """
    if hidden_states is None or not wanted:
        return None
    if wanted is True:
        return hidden_states
    kept = {index % len(hidden_states) for index in wanted}
    return tuple(states if index in kept else None for index, states in enumerate(hidden_states))
