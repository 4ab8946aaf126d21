# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Tables that map the keys of published checkpoints (DINOv3, dino.txt, SAM, AnyUp) to parameter names.

The tables describe names and how to split tensors, not files or sizes. The layers found in a file determine the
required keys.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch

Tensors = dict[str, torch.Tensor]

Action = Literal["taken", "split", "dropped", "resized", "zeros", "constant"]

PUBLISHED_BACKBONE = "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth"

PUBLISHED_ANYUP = "anyup_multi_backbone.pth or anyup_paper.pth"

PUBLISHED_DINOTXT = "dinov3_vitl16_dinotxt_vision_head_and_text_encoder-a442d8f5.pth"


def _take(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    return (tensors[key],)


def _one_more_axis(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    return (tensors[key][None],)  # (1, D) -> (1, 1, D)


def _thirds(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values."""
    shape = tuple(tensors[key].shape)
    if not shape or shape[0] % 3 or 0 in shape:
        raise ValueError(
            f"{key} has the shape {shape}; expected queries, keys and values, so a multiple of 3. Pass the published "
            "file, unchanged."
        )
    return tensors[key].chunk(3)


def _query_and_key(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    return _thirds(tensors, key)[:2]


def _masked_bias(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    """The query and value biases: the QKV bias multiplied by its mask, which is 0 for the keys, as in the reference."""
    mask = tensors[f"{key}_mask"]
    if not torch.isfinite(mask).all():
        raise ValueError(
            f"{key}_mask contains NaN; expected finite values. The file was saved from a model that was never "
            f"initialized. Pass the published file, {PUBLISHED_BACKBONE}."
        )
    pairs = zip(_thirds(tensors, key), _thirds(tensors, f"{key}_mask"))
    query, keys, value = (part * share.to(part.dtype) for part, share in pairs)
    if keys.any():
        raise ValueError(
            f"{key} is not zero for the keys after its mask; expected zero, as in the published DINOv3 models, because "
            f"the conversion drops this bias. Pass the published file, {PUBLISHED_BACKBONE}."
        )
    return query, value


@dataclass(frozen=True)
class Rule:
    """The target parameters of one tensor in a published file."""

    source: str
    targets: tuple[str, ...] = ()
    action: Action = "taken"
    reason: str = ""
    compute: Callable[[Tensors, str], tuple[torch.Tensor, ...]] = _take


def _affine(source: str, target: str) -> tuple[Rule, Rule]:
    """The rules for the weight and the bias of a module."""
    return Rule(f"{source}.weight", (f"{target}.weight",)), Rule(f"{source}.bias", (f"{target}.bias",))


def _fused(source: str, target: str) -> Rule:
    """The rule for a fused QKV weight."""
    return Rule(source, tuple(f"{target}.{name}_proj.weight" for name in "qkv"), "split", "into q, k and v", _thirds)


DINOV3 = (
    Rule("cls_token", ("embeddings.cls_token",)),
    Rule("storage_tokens", ("embeddings.register_tokens",)),
    Rule("mask_token", ("embeddings.mask_token",), reason="one axis added", compute=_one_more_axis),
    *_affine("patch_embed.proj", "embeddings.patch_embeddings"),
    *_affine("norm", "norm"),
    Rule("rope_embed.periods", (), "dropped", "compared with the values that the model computes"),
)

DINOV3_BLOCK = (
    *_affine("norm1", "norm1"),
    *_affine("norm2", "norm2"),
    _fused("attn.qkv.weight", "attention"),
    *_affine("attn.proj", "attention.o_proj"),
    Rule("ls1.gamma", ("layer_scale1.lambda1",)),
    Rule("ls2.gamma", ("layer_scale2.lambda1",)),
)

DINOV3_BIAS = (
    Rule(
        "attn.qkv.bias",
        ("attention.q_proj.bias", "attention.v_proj.bias"),
        "split",
        "multiplied by bias_mask, which is 0 for the keys",
        _masked_bias,
    ),
    Rule("attn.qkv.bias_mask", (), "dropped", "applied to attn.qkv.bias"),
)

DINOV3_MLP = (*_affine("mlp.fc1", "mlp.up_proj"), *_affine("mlp.fc2", "mlp.down_proj"))

DINOV3_GATED_MLP = (
    *_affine("mlp.w1", "mlp.gate_proj"),
    *_affine("mlp.w2", "mlp.up_proj"),
    *_affine("mlp.w3", "mlp.down_proj"),
)

TEXT = (
    Rule("backbone.token_embedding.weight", ("text_model.embeddings.token_embedding.weight",)),
    Rule("backbone.positional_embedding", ("text_model.embeddings.position_embedding.weight",)),
    *_affine("backbone.ln_final", "text_model.final_layer_norm"),
    Rule("head.linear_projection.weight", ("text_projection.weight",)),
)

TEXT_BLOCK = (
    *_affine("attention_norm", "layer_norm1"),
    *_affine("ffn_norm", "layer_norm2"),
    _fused("attention.qkv.weight", "self_attn"),
    *_affine("attention.proj", "self_attn.out_proj"),
    *_affine("feed_forward.fc1", "mlp.fc1"),
    *_affine("feed_forward.fc2", "mlp.fc2"),
)

SAM = (
    Rule("pos_embed", ("pos_embed",)),
    *_affine("patch_embed.proj", "patch_embed.projection"),
    Rule("neck.0.weight", ("neck.conv1.weight",)),
    *_affine("neck.1", "neck.layer_norm1"),
    Rule("neck.2.weight", ("neck.conv2.weight",)),
    *_affine("neck.3", "neck.layer_norm2"),
)

SAM_BLOCK = (
    *_affine("norm1", "layer_norm1"),
    *_affine("norm2", "layer_norm2"),
    *_affine("attn.qkv", "attn.qkv"),
    *_affine("attn.proj", "attn.proj"),
    Rule("attn.rel_pos_h", ("attn.rel_pos_h",)),
    Rule("attn.rel_pos_w", ("attn.rel_pos_w",)),
    *_affine("mlp.lin1", "mlp.lin1"),
    *_affine("mlp.lin2", "mlp.lin2"),
)

ANYUP_BLOCK = (
    *_affine("block.0", "norm1"),
    Rule("block.2.weight", ("convolution1.weight",)),
    *_affine("block.3", "norm2"),
    Rule("block.5.weight", ("convolution2.weight",)),
)

# The encoders of AnyUp: the first layer in the file, its parameter, and the name of the encoder in the model.
ANYUP_ENCODERS = (
    ("image_encoder", "0.weight", "image_encoder", "convolution.weight"),
    ("query_encoder", "0.weight", "query_encoder", "convolution.weight"),
    ("key_encoder", "0.weight", "key_encoder", "convolution.weight"),
    ("key_features_encoder", "0.basis", "feature_encoder", "basis"),
    ("aggregation", "0.weight", "aggregation", "convolution.weight"),
)

ANYUP_UNUSED = "the values are the features themselves, so their projection is not used"

ANYUP_ATTENTION = (
    *(
        Rule(
            f"attention.in_proj_{name}",
            (f"query.{name}", f"key.{name}"),
            "split",
            f"into query and key; {ANYUP_UNUSED}",
            _query_and_key,
        )
        for name in ("weight", "bias")
    ),
    *(Rule(f"attention.out_proj.{name}", (), "dropped", ANYUP_UNUSED) for name in ("weight", "bias")),
    Rule("norm_q.weight", ("query_norm.weight",)),
    Rule("norm_k.weight", ("key_norm.weight",)),
)

# Parts of SAM other than its image encoder, in the published and in the transformers layout.
SAM_OTHERS = ("prompt_encoder.", "mask_decoder.", "shared_image_embedding.")

SAM_OTHERS_REASON = "only SAM's image encoder guides the late refinement"


def num_blocks(keys: Iterable[str], prefix: str) -> int:
    """The number of layers under `prefix`, at least 1: without layers, the keys of the first one count as missing."""
    indices = [int(match[1]) for key in keys if (match := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", key))]
    return 1 + max(indices, default=0)


def backbone_rules(keys: Collection[str]) -> list[Rule]:
    """The rules from DINOv3 as published to the parameters of `DINOv3ViTModel`."""
    biased, gated = "blocks.0.attn.qkv.bias" in keys, "blocks.0.mlp.w1.weight" in keys
    block = (*DINOV3_BLOCK, *(DINOV3_BIAS if biased else ()), *(DINOV3_GATED_MLP if gated else DINOV3_MLP))
    return [*DINOV3, *_blocks(keys, "", "model.layer.", block)]


def dinotxt_rules(keys: Collection[str]) -> list[Rule]:
    """The rules from dino.txt's vision head and text encoder to `Dinov3SegForSemanticSegmentation` parameters."""
    head, text = "visual_model.head.", "text_model."
    return [
        # both are the logarithm of the inverse temperature
        Rule("logit_scale", ("logit_scale",)),
        *_blocks(keys, head, "vision_model.head.layer.", (*DINOV3_BLOCK, *DINOV3_GATED_MLP)),
        *_under(head, "vision_model.head.", _affine("ln_final", "norm")),
        *_under(text, "text_model.", TEXT),
        *_blocks(keys, f"{text}backbone.", "text_model.text_model.encoder.layers.", TEXT_BLOCK),
    ]


def sam_rules(keys: Collection[str]) -> list[Rule]:
    """The rules from SAM as published to the parameters of `SamVisionModel`."""
    prefix, target = "image_encoder.", "vision_encoder."
    return [
        *_under(prefix, target, SAM),
        *_blocks(keys, prefix, f"{target}layers.", SAM_BLOCK),
        *(Rule(key, (), "dropped", SAM_OTHERS_REASON) for key in keys if key.startswith(SAM_OTHERS)),
    ]


def anyup_rules() -> list[Rule]:
    """The rules from AnyUp as published to the parameters of `Dinov3SegEarlyRefinement`."""
    rules = [Rule("rope.freqs", ("frequencies",)), Rule("cross_decode.conv2d.weight", ("query_convolution.weight",))]
    rules += _under("cross_decode.cross_attn.", "", ANYUP_ATTENTION)
    for source, first, target, parameter in ANYUP_ENCODERS:
        rules.append(Rule(f"{source}.{first}", (f"{target}.{parameter}",)))
        for block in (0, 1):
            rules += _under(f"{source}.{block + 1}.", f"{target}.blocks.{block}.", ANYUP_BLOCK)
    return rules


def _blocks(keys: Collection[str], prefix: str, target: str, block: Iterable[Rule]) -> list[Rule]:
    return [
        rule
        for index in range(num_blocks(keys, prefix))
        for rule in _under(f"{prefix}blocks.{index}.", f"{target}{index}.", block)
    ]


def _under(source: str, target: str, rules: Iterable[Rule]) -> list[Rule]:
    return [
        replace(rule, source=source + rule.source, targets=tuple(target + name for name in rule.targets))
        for rule in rules
    ]
