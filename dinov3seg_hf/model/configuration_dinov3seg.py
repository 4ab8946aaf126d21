# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The architecture of dinov3.seg in numbers: three library sub-configs and the sizes of the parts between them.

Preprocessing (image size, windows) belongs to the image processor, class names to the vocabulary; neither is here.
"""

import os
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, DINOv3ViTConfig, PreTrainedConfig, SamVisionConfig
from transformers.configuration_utils import SubConfigSpec

from .remote_code import attach_remote_code

# Published sizes: DINOv3 ViT-L/16, the text tower of its dino.txt release, the image encoder of SAM ViT-L.
DINOV3_VITL16: dict[str, Any] = {
    "patch_size": 16,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_register_tokens": 4,
}

DINOTXT_TEXT: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 24,
    "num_attention_heads": 20,
    "projection_dim": 2048,
    "hidden_act": "gelu",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "pad_token_id": 0,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}

SAM_VITL16: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "global_attn_indexes": [5, 11, 17, 23],
    "image_size": 640,  # the paper's inference size; SAM's own 1024 is resized once, at conversion
    "initializer_range": 0.02,
}

if TYPE_CHECKING:
    SubConfig = Any  # given as a dict or a configuration, a configuration (or None) once it is there
else:
    SubConfig = dict | PreTrainedConfig | None  # what `@strict` lets pass


@strict
class Dinov3SegConfig(PreTrainedConfig):
    r"""
    Configuration of [`Dinov3SegForSemanticSegmentation`]. The defaults are the paper's sizes.

    Args:
        vision_config (`DINOv3ViTConfig` or `dict`, *optional*):
            The image backbone; DINOv3 ViT-L/16 by default.
        text_config (`CLIPTextConfig` or `dict`, *optional*):
            The text tower. Its `projection_dim` is twice the vision width: a half aligned with the CLS token (global)
            and a half aligned with patch tokens (local).
        prior_config (`SamVisionConfig`, `dict` or `None`, *optional*):
            The semantic prior encoder; SAM ViT-L by default. `None`: intermediate layers of the backbone take its
            place, and the maps of its convolutional stem, if it has one.
        stem_channels (`list[int]`, *optional*):
            Widths of the stride-2 convolutions that replace the backbone's patch embedding; their number is log2 of the
            patch size minus one. For small models trained from scratch. `None`: DINOv3's own linear patch embedding.
        vision_head_num_layers (`int`, defaults to 2):
            Transformer blocks of dino.txt's vision head.
        vision_head_intermediate_size (`int`, *optional*):
            Width of their SwiGLU. `None`: two thirds of four times the hidden size, rounded up to 64 (2752 for ViT-L).
        logit_scale_init_value (`float`, defaults to 2.6592):
            Logarithm of the inverse temperature of the image-text cosine.
        head (`"full"` or `"dinotxt"`, defaults to `"full"`):
            What `forward` computes unless told: the trained head, or the zero-shot cosine with the local text half.
        patch_source (`"head"` or `"backbone"`, defaults to `"head"`):
            Patch tokens after the vision head (dino.txt's paper) or before it (its published notebook).
        use_global_text (`bool`, defaults to `True`):
            Ablation of contribution 2: without it only the local half of the text embedding is correlated.
        use_early_refinement (`bool`, defaults to `True`):
            Ablation of contribution 3, first half.
        early_hidden_size (`int`, defaults to 256), early_num_attention_heads (`int`, defaults to 4):
            Width of queries and keys of the early refinement.
        early_window_size (`int`, defaults to 7):
            Side of the (odd) window of patches around each patch from which it is refined.
        correlation_hidden_size (`int`, defaults to 128), correlation_kernel_size (`int`, defaults to 7):
            Channels a class after the correlation embedding, and its kernel.
        late_num_layers (`int`, defaults to 2), late_window_size (`int`, defaults to 12),
        late_num_attention_heads (`int`, defaults to 4), late_mlp_ratio (`float`, defaults to 4.0):
            The late refinement: pairs of a spatial and a class block.
        guidance_hidden_size (`int`, defaults to 128):
            Channels of the image and text guidance that joins queries and keys.
        use_spatial_refinement, use_class_refinement, use_guidance (`bool`, default to `True`):
            Ablations of contribution 3, second half.
        decoder_hidden_sizes (`list[int]`, defaults to `[64, 32]`):
            Channels a class after each x2 step of the decoder.
        decoder_prior_sizes (`list[int]`, defaults to `[32, 16]`):
            Channels of the prior features that join each step.
        class_chunk_size (`int`, *optional*, defaults to 64):
            Classes processed at a time outside training; bounds memory, not results. `None`: all at once.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights of the trained parts.
    """

    model_type = "dinov3seg"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(DINOv3ViTConfig, init_kwargs=DINOV3_VITL16),
        "text_config": SubConfigSpec(CLIPTextConfig, init_kwargs=DINOTXT_TEXT),
        "prior_config": SubConfigSpec(SamVisionConfig, init_kwargs=SAM_VITL16, optional=True),
    }

    vision_config: SubConfig = None
    text_config: SubConfig = None
    # absent means the paper's SAM ViT-L, an explicit None means "no prior encoder"
    prior_config: SubConfig = field(default_factory=lambda: dict(SAM_VITL16))

    stem_channels: list[int] | None = None
    vision_head_num_layers: int = 2
    vision_head_intermediate_size: int | None = None
    logit_scale_init_value: float | int = 2.6592
    head: Literal["full", "dinotxt"] = "full"
    patch_source: Literal["head", "backbone"] = "head"

    use_global_text: bool = True
    use_early_refinement: bool = True
    early_hidden_size: int = 256
    early_num_attention_heads: int = 4
    early_window_size: int = 7

    correlation_hidden_size: int = 128
    correlation_kernel_size: int = 7

    late_num_layers: int = 2
    late_window_size: int = 12
    late_num_attention_heads: int = 4
    late_mlp_ratio: float | int = 4.0
    guidance_hidden_size: int = 128
    use_spatial_refinement: bool = True
    use_class_refinement: bool = True
    use_guidance: bool = True

    decoder_hidden_sizes: list[int] | tuple[int, ...] = (64, 32)
    decoder_prior_sizes: list[int] | tuple[int, ...] = (32, 16)

    class_chunk_size: int | None = 64
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.vision_head_intermediate_size is None:
            # dino.txt's SwiGLU: two thirds of the usual 4 D, aligned to 64
            self.vision_head_intermediate_size = -(-int(self.vision_config.hidden_size * 4 * 2 / 3) // 64) * 64

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Writes the JSON, and beside it the code of the model for where this package is missing.

        Here and not in `save_pretrained`, which uploads to the Hub what it finds to be written after its beginning.
        """
        attach_remote_code(self, json_file_path, "config")
        super().to_json_file(json_file_path, use_diff=use_diff)

    def validate_architecture(self) -> None:
        """Part of `@strict`-powered validation: what the sizes must satisfy together."""
        width, text_width = self.vision_config.hidden_size, self.text_config.projection_dim
        if text_width != 2 * width:
            raise ValueError(
                f"text_config.projection_dim is {text_width}, but a text embedding holds two halves of the vision "
                f"width ({width}): set it to {2 * width}."
            )
        for name, size, heads in (
            ("early_hidden_size", self.early_hidden_size, self.early_num_attention_heads),
            ("correlation_hidden_size", self.correlation_hidden_size, self.late_num_attention_heads),
        ):
            if size % heads != 0:
                raise ValueError(f"{name} ({size}) must be a multiple of its number of attention heads ({heads}).")
        if (self.early_hidden_size // self.early_num_attention_heads) % 4 != 0:
            raise ValueError(
                f"early_hidden_size / early_num_attention_heads is "
                f"{self.early_hidden_size}/{self.early_num_attention_heads}; "
                "the rotary position encoding of rows and columns needs a multiple of 4."
            )
        for name, size in (
            ("early_window_size", self.early_window_size),
            ("correlation_kernel_size", self.correlation_kernel_size),
        ):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{name} is {size}; a window centered on a patch needs an odd size of at least 1.")
        if len(self.decoder_hidden_sizes) != len(self.decoder_prior_sizes):
            raise ValueError(
                f"decoder_hidden_sizes has {len(self.decoder_hidden_sizes)} steps and decoder_prior_sizes "
                f"{len(self.decoder_prior_sizes)}; each step joins one prior feature, so give both the same length."
            )
        if self.class_chunk_size is not None and self.class_chunk_size < 1:
            raise ValueError(f"class_chunk_size is {self.class_chunk_size}; give at least 1, or None for no chunks.")
        patch_size = self.vision_config.patch_size
        if not isinstance(patch_size, int):
            raise ValueError(
                f"vision_config.patch_size is {patch_size}; only square patches given as one int are supported."
            )
        if self.stem_channels is not None and 2 ** (len(self.stem_channels) + 1) != patch_size:
            raise ValueError(
                f"stem_channels has {len(self.stem_channels)} widths, so the stem reduces "
                f"{2 ** (len(self.stem_channels) + 1)} times, but vision_config.patch_size is {patch_size}; "
                "they must be equal."
            )


__all__ = ["Dinov3SegConfig"]
