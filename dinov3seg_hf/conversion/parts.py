# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Converts each published file to a part of the model: infers sizes from the tensors and renames the tensors."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import CLIPTextConfig, DINOv3ViTConfig, DINOv3ViTModel, SamConfig, SamVisionConfig, SamVisionModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

from ..model.checks import load_json
from ..model.files import read_text_up_to
from ..model.tensor_checks import is_finite
from .layouts import (
    PUBLISHED_ANYUP,
    PUBLISHED_BACKBONE,
    SAM_OTHERS,
    SAM_OTHERS_REASON,
    Tensors,
    anyup_rules,
    backbone_rules,
    dinotxt_rules,
    num_blocks,
    sam_rules,
)
from .paths import Source, means_file
from .reading import (
    apply_rules,
    load_library_config,
    load_library_tensors,
    published_shapes,
    read_tensors,
    refuse_differences,
    require_kind,
)
from .report import ConvertedKey

EARLY_REFINEMENT = "early_refinement."
FULL_SHARE = 10.0  # a mixing weight whose share is 1 in float32
PRIOR_ENCODER = "semantic_prior.encoder."

SATELLITE = (
    "The text encoder of dino.txt was aligned with the backbone trained on web images (LVD-1689M), so its embeddings "
    f"do not fit the backbone trained on satellite images (SAT-493M). Pass the web backbone, {PUBLISHED_BACKBONE}."
)

SATELLITE_IMAGE_MEAN = [0.430, 0.411, 0.296]  # of its image processor; other DINOv3 models use the ImageNet mean


@dataclass
class Part:
    """A converted file: its configuration, its tensors, what became of each key, and notes for the report."""

    config: Any
    tensors: Tensors
    keys: list[ConvertedKey]
    notes: list[str] = field(default_factory=list)

    def under(self, prefix: str) -> "Part":
        keys = [replace(key, targets=tuple(prefix + target for target in key.targets)) for key in self.keys]
        return replace(self, tensors={prefix + key: tensor for key, tensor in self.tensors.items()}, keys=keys)


@dataclass(frozen=True)
class VisionHead:
    """The sizes of dino.txt's vision head, inferred from its tensors."""

    num_layers: int
    intermediate_size: int
    width: int


def convert_backbone(source: Source) -> Part:
    name = os.fspath(source)
    path = Path(name).expanduser()
    if re.search(r"sat-?493m", name, re.IGNORECASE):
        raise ValueError(f"backbone {name} is the satellite backbone: its name contains SAT-493M. {SATELLITE}")
    with published_shapes("backbone", path):
        part = _convert_published_backbone(path) if means_file(path) else _convert_transformers_backbone(name)
    return part.under("vision_model.backbone.")


def _convert_published_backbone(path: Path) -> Part:
    tensors = read_tensors(path, "backbone")
    require_kind(tensors, "backbone", path)
    _refuse_satellite(tensors, str(path))
    converted, keys = apply_rules(backbone_rules(tensors), tensors, "backbone", path)

    width = tensors["cls_token"].shape[-1]
    periods = tensors["rope_embed.periods"].float()
    gated = "blocks.0.mlp.w1.weight" in tensors
    biased = "blocks.0.attn.qkv.bias" in tensors
    patches = tensors["patch_embed.proj.weight"].shape
    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=tensors["blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=num_blocks(tensors, ""),
        num_attention_heads=width // (4 * len(periods)),  # RoPE: sine and cosine, of rows and columns
        patch_size=patches[2],
        num_channels=patches[1],
        num_register_tokens=tensors["storage_tokens"].shape[1],
        rope_theta=_rope_theta(periods, path),
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        query_bias=biased,
        value_bias=biased,
    )
    deviation = (DINOv3ViTRopePositionEmbedding(config).inv_freq * periods - 1).abs().max().item()
    note = f"1 / rope_embed.periods and the frequencies that the model computes differ by {deviation:.1e} (relative)"
    note += "." if deviation < 1e-6 else ": the file contains rounded values, transformers computes exact values."
    return Part(config, converted, keys, [note])


def _rope_theta(periods: torch.Tensor, path: Path) -> float:
    """The base `theta` of the n RoPE periods `theta ** (i / n)`; published files store them rounded to bfloat16."""
    exponents = torch.arange(len(periods)) / len(periods)
    guesses = [100.0]
    if len(periods) > 1:
        guesses.append(float(f"{periods[-1].item() ** (len(periods) / (len(periods) - 1)):.3g}"))
    for theta in guesses:
        if torch.allclose(theta**exponents, periods, rtol=2**-8, atol=0):
            return theta
    raise ValueError(
        f"backbone {path}: rope_embed.periods is {periods.tolist()}; expected powers of one base, because the model "
        f"computes the periods from a base. Pass the published file, {PUBLISHED_BACKBONE}."
    )


def _convert_transformers_backbone(name: str) -> Part:
    config = load_library_config(name, "backbone")
    if not isinstance(config, DINOv3ViTConfig):
        raise ValueError(
            f"backbone {name} is a {config.model_type!r} checkpoint; expected a DINOv3 ViT of the type 'dinov3_vit'. "
            "Pass the backbone of dino.txt, for example facebook/dinov3-vitl16-pretrain-lvd1689m."
        )
    if not isinstance(config.patch_size, int):
        raise ValueError(
            f"backbone {name}: patch_size is {config.patch_size}; expected one number. Pass a backbone with square "
            "patches."
        )
    preprocessing = Path(name).expanduser() / "preprocessor_config.json"
    if preprocessing.is_file() and load_json(read_text_up_to(preprocessing)).get("image_mean") == SATELLITE_IMAGE_MEAN:
        raise ValueError(f"backbone {name} is the satellite backbone: its image mean differs. {SATELLITE}")
    tensors, unexpected = load_library_tensors(DINOv3ViTModel, name, config, "backbone")
    _refuse_satellite(unexpected, name)
    refuse_differences(f"backbone {name}", expected=set(), given=unexpected)
    return Part(config, tensors, [ConvertedKey("backbone", key, "taken", (key,)) for key in tensors])


def _refuse_satellite(keys: Iterable[str], name: str) -> None:
    if any(key.startswith("local_cls_norm.") for key in keys):
        raise ValueError(f"backbone {name} is the satellite backbone: it has local_cls_norm. {SATELLITE}")


def convert_dinotxt(source: Source, text_num_attention_heads: int | None) -> tuple[Part, VisionHead]:
    """Converts the vision head and the text tower.

    Returns:
        The converted part with the configuration of the text tower, and the sizes of the vision head.
    """
    path = Path(source).expanduser()
    with published_shapes("dinotxt", path):
        return _convert_published_dinotxt(path, text_num_attention_heads)


def _convert_published_dinotxt(path: Path, text_num_attention_heads: int | None) -> tuple[Part, VisionHead]:
    tensors = read_tensors(path, "dinotxt")
    require_kind(tensors, "dinotxt", path)
    converted, keys = apply_rules(dinotxt_rules(tensors), tensors, "dinotxt", path)

    words = tensors["text_model.backbone.token_embedding.weight"].shape
    vocab_size, width = words[0], words[1]
    num_heads = width // 64 if text_num_attention_heads is None else text_num_attention_heads
    if text_num_attention_heads is None and width % 64 != 0:
        raise ValueError(
            f"dinotxt {path}: the width of the text tower is {width}; expected a multiple of 64, the usual width of an "
            "attention head, because the file does not specify the number of heads. Pass text_num_attention_heads."
        )
    if num_heads < 1 or width % num_heads != 0:
        raise ValueError(
            f"text_num_attention_heads is {num_heads}; expected a divisor of the text tower width, {width}."
        )
    num_layers = num_blocks(tensors, "text_model.backbone.")
    for layer in range(num_layers):
        targets = tuple(f"text_model.text_model.encoder.layers.{layer}.self_attn.{name}_proj.bias" for name in "qkv")
        converted.update((target, torch.zeros(width)) for target in targets)
        keys.append(ConvertedKey("dinotxt", "", "zeros", targets, "the published attention does not have this bias"))

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=tensors["text_model.backbone.blocks.0.feed_forward.fc1.weight"].shape[0],
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        projection_dim=tensors["text_model.head.linear_projection.weight"].shape[0],
        vocab_size=vocab_size,
        max_position_embeddings=tensors["text_model.backbone.positional_embedding"].shape[0],
        hidden_act="gelu",
        # the reference pools at the highest token id, which is end-of-text; start-of-text is the id before
        pad_token_id=0,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )
    head = VisionHead(
        num_layers=num_blocks(tensors, "visual_model.head."),
        intermediate_size=tensors["visual_model.head.blocks.0.mlp.w1.weight"].shape[0],
        width=tensors["visual_model.head.ln_final.weight"].shape[0],
    )
    return Part(config, converted, keys), head


def convert_prior(source: Source, image_size: int) -> Part:
    name = os.fspath(source)
    path = Path(name).expanduser()
    with published_shapes("prior", path):
        part = _convert_published_sam(path) if means_file(path) else _convert_transformers_sam(name)
    return _resize_prior(part, image_size).under(PRIOR_ENCODER)


def _convert_published_sam(path: Path) -> Part:
    tensors = read_tensors(path, "prior")
    require_kind(tensors, "prior", path)
    converted, keys = apply_rules(sam_rules(tensors), tensors, "prior", path)

    encoder = {key.removeprefix("image_encoder."): tensor for key, tensor in tensors.items()}
    grid = encoder["pos_embed"].shape[1]
    patches = encoder["patch_embed.proj.weight"].shape
    width, num_channels, patch_size = patches[0], patches[1], patches[2]
    num_layers = num_blocks(encoder, "")
    tables = [encoder[f"blocks.{index}.attn.rel_pos_h"] for index in range(num_layers)]  # each (2 side - 1, head size)
    window_sizes = [(len(table) + 1) // 2 for table in tables if len(table) != 2 * grid - 1]
    config = SamVisionConfig(
        hidden_size=width,
        output_channels=encoder["neck.0.weight"].shape[0],
        num_hidden_layers=num_layers,
        num_attention_heads=width // tables[0].shape[1],
        num_channels=num_channels,
        image_size=grid * patch_size,
        patch_size=patch_size,
        mlp_dim=encoder["blocks.0.mlp.lin1.weight"].shape[0],
        window_size=window_sizes[0] if window_sizes else 0,
        global_attn_indexes=[index for index, table in enumerate(tables) if len(table) == 2 * grid - 1],
    )
    return Part(config, converted, keys)


def _convert_transformers_sam(name: str) -> Part:
    config = load_library_config(name, "prior")
    if isinstance(config, SamConfig):
        config = config.vision_config
    if not isinstance(config, SamVisionConfig):
        raise ValueError(
            f"prior {name} is a {config.model_type!r} checkpoint; expected SAM, of the type 'sam' or "
            "'sam_vision_model', because the semantic prior is SAM's image encoder. Pass SAM, for example "
            "facebook/sam-vit-large."
        )
    tensors, others = load_library_tensors(SamVisionModel, name, config, "prior")
    refuse_differences(f"prior {name}", set(), {key for key in others if not key.startswith(SAM_OTHERS)})
    keys = [ConvertedKey("prior", key, "taken", (key,)) for key in tensors]
    keys += [ConvertedKey("prior", key, "dropped", (), SAM_OTHERS_REASON) for key in sorted(others)]
    return Part(config, tensors, keys)


def convert_anyup(tensors: Tensors) -> Tensors:
    """Converts the state dict of AnyUp as published to that of `Dinov3SegEarlyRefinement`.

    Args:
        tensors: The published state dict; the width may be any multiple of 8.

    Returns:
        The state dict, with a mixing weight of share 1: the result is that of AnyUp alone.

    Raises:
        ValueError: If a key is missing or unexpected, or a value is no tensor or not finite.
    """
    if not isinstance(tensors, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in tensors.items()
    ):
        raise ValueError(
            f"The weights of AnyUp are of type {type(tensors).__name__}; expected a state dict of tensors by name. "
            "Pass what torch.load gives for the published file."
        )
    if broken := [key for key, value in tensors.items() if value.is_floating_point() and not is_finite(value)]:
        raise ValueError(
            f"{broken[0]} contains NaN or infinity; expected finite values. Download the published file again."
        )
    return _convert_anyup_tensors(tensors, Path(PUBLISHED_ANYUP.split(maxsplit=1)[0])).tensors


def convert_anyup_file(source: Source, scale: int) -> Part:
    path = Path(source).expanduser()
    tensors = read_tensors(path, "anyup")
    require_kind(tensors, "anyup", path)
    part = _convert_anyup_tensors(tensors, path).under(EARLY_REFINEMENT)
    part.config["early_refinement_scale"] = scale
    return part


def _convert_anyup_tensors(tensors: Tensors, path: Path) -> Part:
    converted, keys = apply_rules(anyup_rules(), tensors, "anyup", path)
    converted["mixing_weight"] = torch.full((1,), FULL_SHARE)
    keys.append(ConvertedKey("anyup", "", "constant", ("mixing_weight",), "the result is that of AnyUp alone"))
    # the number of heads is not in the file; all published files have that of the default configuration
    config = {
        "early_hidden_size": converted["query.weight"].shape[0],
        "refine_features": True,
    }
    note = "AnyUp's weights are published under CC-BY-4.0: name their authors (arXiv 2510.12764) where you share them."
    return Part(config, converted, keys, [note])


def _resize_prior(part: Part, image_size: int) -> Part:
    """Resizes SAM's position embeddings once, to the patch grid of images with `image_size` pixels (640 by default).

    Tables of relative positions are resized in the same way as SAM does at inference, and only in layers with global
    attention, because windows keep their size.
    """
    config = part.config
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int):
        raise ValueError(
            f"prior: image_size is {config.image_size} and patch_size is {config.patch_size}; expected one number "
            "each. Pass a prior encoder with square images and patches."
        )
    if image_size < 1 or image_size % config.patch_size != 0:
        raise ValueError(
            f"prior_image_size is {image_size}; expected a positive multiple of the prior encoder's patch size, "
            f"{config.patch_size}."
        )
    before, after = config.image_size // config.patch_size, image_size // config.patch_size
    if before == after:
        return part
    resized = {}
    if config.use_abs_pos:
        key = "vision_encoder.pos_embed"
        positions = part.tensors[key].float().permute(0, 3, 1, 2)  # (1, D, rows, columns)
        positions = F.interpolate(positions, size=(after, after), mode="bicubic", antialias=True)
        resized[key] = positions.permute(0, 2, 3, 1).contiguous()
    if config.use_rel_pos:
        for layer in config.global_attn_indexes:
            for key in (f"vision_encoder.layers.{layer}.attn.rel_pos_{axis}" for axis in "hw"):
                table = part.tensors[key].float().T[None]  # (1, head size, 2 side - 1)
                resized[key] = F.interpolate(table, size=2 * after - 1, mode="linear")[0].T.contiguous()
    reason = f"from {before} x {before} patches to {after} x {after}"
    keys = [
        replace(key, action="resized", reason=reason) if resized.keys() & set(key.targets) else key for key in part.keys
    ]
    config = type(config)(**{**config.to_dict(), "image_size": image_size})
    return replace(part, config=config, tensors=part.tensors | resized, keys=keys)
