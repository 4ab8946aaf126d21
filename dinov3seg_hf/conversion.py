# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The published checkpoints of DINOv3, dino.txt and SAM -> a folder that `from_pretrained` loads.

Strict: every key of every file is accounted for in a report (taken, split, dropped and why), every tensor of the model has
a known origin, and the result appears whole or not at all. Knows file layouts and names; what the tensors compute is told
by the model files.
"""

import gzip
import json
import os
import pickle
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    CLIPTextConfig,
    CLIPTokenizer,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SamConfig,
    SamVisionConfig,
    SamVisionModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding
from transformers.utils import logging as transformers_logging

from .configuration_dinov3seg import SAM_VITL16, Dinov3SegConfig
from .modeling_dinov3seg import Dinov3SegForSemanticSegmentation

Tensors = dict[str, torch.Tensor]
Source = str | os.PathLike
Action = Literal["taken", "split", "dropped", "resized", "zeros"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REPORT_NAME = "conversion_report.json"

PUBLISHED_BACKBONE = "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth"
PUBLISHED_DINOTXT = "dinov3_vitl16_dinotxt_vision_head_and_text_encoder-a442d8f5.pth"

# A part of the model whose name begins like this, and no tensor of which any file holds, is there to be trained.
NEW_PARTS = ("early_refinement", "semantic_prior", "correlation_embedding", "late_refinement", "decoder")
PRIOR_ENCODER = "semantic_prior.encoder."

SATELLITE = (
    "dino.txt's text was aligned with the backbone trained on web images (LVD-1689M); with the one trained on satellite images "
    f"(SAT-493M) its words mean nothing. Give the web backbone, {PUBLISHED_BACKBONE}."
)


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvertedKey:
    """What became of one tensor of a file, or (with an empty `key`) where a tensor that no file holds came from."""

    source: str  # "backbone", "dinotxt" or "prior"
    key: str
    action: Action
    targets: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class ConversionReport:
    """Key by key, what a conversion did; `str(report)` is a table, `to_dict()` is JSON.

    Attributes:
        output: The folder that was written.
        files: Role ("backbone", "dinotxt", "prior", "tokenizer") -> what was given for it.
        keys: One entry for every tensor of every file.
        new: Part of the model -> its tensors that no file holds: newly initialised, to be trained.
        missing: Tensors of the model without an origin. Empty, or there would be an error in place of a report.
        sizes: What was inferred from the tensors.
        num_parameters: Numbers the folder holds.
        dtype: Their format.
        notes: What a user should know.
    """

    output: str
    files: dict[str, str] = field(default_factory=dict)
    keys: list[ConvertedKey] = field(default_factory=list)
    new: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    sizes: dict[str, int | float] = field(default_factory=dict)
    num_parameters: int = 0
    dtype: str = "float32"
    notes: list[str] = field(default_factory=list)

    def count(self, action: Action) -> int:
        return sum(key.action == action for key in self.keys)

    def to_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("output", "files", "sizes", "num_parameters", "dtype", "notes")},
            "keys": [{**vars(key), "targets": list(key.targets)} for key in self.keys],
            "new": self.new,
            "missing": self.missing,
        }

    def __str__(self) -> str:
        rows: dict[tuple[str, str, str, str], int] = {}  # layers of one kind share a row
        for key in self.keys:
            targets = _any_layer(_brace(key.targets)) if key.targets else "-"
            row = (key.action, f"{key.source}: {_any_layer(key.key) or '-'}", targets, key.reason)
            rows[row] = rows.get(row, 0) + 1
        for part, names in self.new.items():
            rows["new", "-", part, "to be trained: no published file holds it"] = len(names)

        lines = [f"Converted to {self.output} ({self.num_parameters / 1e6:.1f} M parameters, {self.dtype})"]
        lines += [f"  {role}: {given}" for role, given in self.files.items()]
        lines += ["  " + ", ".join(f"{name} {value:g}" for name, value in self.sizes.items()), ""]
        lines += [f"{'count':>5}  {'action':8}from -> to"]
        for (action, source, targets, reason), count in rows.items():
            lines += [f"{count:5d}  {action:8}{source} -> {targets}" + (f"  ({reason})" if reason else "")]
        totals = [f"{self.count(action)} {action}" for action in ("taken", "split", "resized", "dropped", "zeros")]
        lines += ["", ", ".join([*totals, f"{sum(map(len, self.new.values()))} new", f"{len(self.missing)} missing"])]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _brace(names: tuple[str, ...]) -> str:
    """`a.q.weight, a.k.weight` -> `a.{q,k}.weight`."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(names)
    start = start[: start.rfind(".") + 1]
    end = os.path.commonprefix([name[::-1] for name in names])[::-1]
    end = end[end.find(".") :]
    return f"{start}{{{','.join(name[len(start) : -len(end)] for name in names)}}}{end}"


# --- the layouts -----------------------------------------------------------------------------------------------------


def _take(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    return (tensors[key],)


def _thirds(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    return tensors[key].chunk(3)  # queries, keys, values


def _masked_bias(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    """The bias of queries and values as the reference applies it: times its mask, which is 0 for the keys."""
    mask = tensors[f"{key}_mask"]
    if not torch.isfinite(mask).all():
        raise ValueError(f"{key}_mask holds NaN: the file was saved from a model that was never initialised. Download it again.")
    query, keys, value = (tensors[key] * mask.to(tensors[key].dtype)).chunk(3)
    if keys.any():
        raise ValueError(
            f"{key} keeps a bias of the keys under its mask, which the published DINOv3 models do not have; this conversion has no "
            f"place for it. Give the published backbone, {PUBLISHED_BACKBONE}."
        )
    return query, value


def _one_more_axis(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    return (tensors[key][None],)  # (1, D) -> (1, 1, D)


def _scalar(tensors: Tensors, key: str) -> tuple[torch.Tensor, ...]:
    return (tensors[key].reshape(()),)


@dataclass(frozen=True)
class Rule:
    """Where a tensor of a published file goes."""

    source: str
    targets: tuple[str, ...] = ()
    action: Action = "taken"
    reason: str = ""
    compute: Callable[[Tensors, str], tuple[torch.Tensor, ...]] = _take


def _affine(source: str, target: str) -> tuple[Rule, Rule]:
    """A module with a weight and a bias."""
    return tuple(Rule(f"{source}.{name}", (f"{target}.{name}",)) for name in ("weight", "bias"))


def _under(source: str, target: str, rules: Iterable[Rule]) -> list[Rule]:
    return [
        replace(rule, source=source + rule.source, targets=tuple(target + name for name in rule.targets)) for rule in rules
    ]


DINOV3_BLOCK = (
    *_affine("norm1", "norm1"),
    *_affine("norm2", "norm2"),
    Rule(
        "attn.qkv.weight", tuple(f"attention.{name}_proj.weight" for name in "qkv"), "split", "in thirds", compute=_thirds
    ),
    *_affine("attn.proj", "attention.o_proj"),
    Rule("ls1.gamma", ("layer_scale1.lambda1",)),
    Rule("ls2.gamma", ("layer_scale2.lambda1",)),
)
DINOV3_BIAS = (
    Rule(
        "attn.qkv.bias",
        tuple(f"attention.{name}_proj.bias" for name in "qv"),
        "split",
        "times bias_mask, which is 0 in the key's third",
        compute=_masked_bias,
    ),
    Rule("attn.qkv.bias_mask", (), "dropped", "applied to attn.qkv.bias"),
)
DINOV3_MLP = (*_affine("mlp.fc1", "mlp.up_proj"), *_affine("mlp.fc2", "mlp.down_proj"))
DINOV3_GATED_MLP = (
    *_affine("mlp.w1", "mlp.gate_proj"),
    *_affine("mlp.w2", "mlp.up_proj"),
    *_affine("mlp.w3", "mlp.down_proj"),
)
DINOV3 = (
    Rule("cls_token", ("embeddings.cls_token",)),
    Rule("storage_tokens", ("embeddings.register_tokens",)),
    Rule("mask_token", ("embeddings.mask_token",), reason="one more axis", compute=_one_more_axis),
    *_affine("patch_embed.proj", "embeddings.patch_embeddings"),
    *_affine("norm", "norm"),
    Rule("rope_embed.periods", (), "dropped", "the model computes 1/periods itself; compared"),
)
TEXT_BLOCK = (
    *_affine("attention_norm", "layer_norm1"),
    *_affine("ffn_norm", "layer_norm2"),
    Rule(
        "attention.qkv.weight",
        tuple(f"self_attn.{name}_proj.weight" for name in "qkv"),
        "split",
        "in thirds",
        compute=_thirds,
    ),
    *_affine("attention.proj", "self_attn.out_proj"),
    *_affine("feed_forward.fc1", "mlp.fc1"),
    *_affine("feed_forward.fc2", "mlp.fc2"),
)
TEXT = (
    Rule("backbone.token_embedding.weight", ("text_model.embeddings.token_embedding.weight",)),
    Rule("backbone.positional_embedding", ("text_model.embeddings.position_embedding.weight",)),
    *_affine("backbone.ln_final", "text_model.final_layer_norm"),
    Rule("head.linear_projection.weight", ("text_projection.weight",)),
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
SAM = (
    Rule("pos_embed", ("pos_embed",)),
    *_affine("patch_embed.proj", "patch_embed.projection"),
    Rule("neck.0.weight", ("neck.conv1.weight",)),
    *_affine("neck.1", "neck.layer_norm1"),
    Rule("neck.2.weight", ("neck.conv2.weight",)),
    *_affine("neck.3", "neck.layer_norm2"),
)


def _dinov3_blocks(tensors: Tensors, prefix: str, target: str, biased: bool, gated: bool) -> list[Rule]:
    block = (*DINOV3_BLOCK, *(DINOV3_BIAS if biased else ()), *(DINOV3_GATED_MLP if gated else DINOV3_MLP))
    return [
        rule
        for index in range(_num_blocks(tensors, prefix))
        for rule in _under(f"{prefix}blocks.{index}.", f"{target}layer.{index}.", block)
    ]


def _backbone_rules(tensors: Tensors) -> list[Rule]:
    biased, gated = "blocks.0.attn.qkv.bias" in tensors, "blocks.0.mlp.w1.weight" in tensors
    return [*_under("", "", DINOV3), *_dinov3_blocks(tensors, "", "model.", biased, gated)]


def _dinotxt_rules(tensors: Tensors) -> list[Rule]:
    head, text, layers = "visual_model.head.", "text_model.", "text_model.backbone.blocks"
    return [
        Rule("logit_scale", ("logit_scale",), reason="a logarithm in both; [1] -> scalar", compute=_scalar),
        *_dinov3_blocks(tensors, head, "vision_model.head.", biased=False, gated=True),
        *_under(head, "vision_model.head.", _affine("ln_final", "norm")),
        *_under(text, "text_model.", TEXT),
        *(
            rule
            for index in range(_num_blocks(tensors, "text_model.backbone."))
            for rule in _under(f"{layers}.{index}.", f"text_model.text_model.encoder.layers.{index}.", TEXT_BLOCK)
        ),
    ]


def _sam_rules(tensors: Tensors) -> list[Rule]:
    prefix = "image_encoder."
    rules = [
        *_under(prefix, "vision_encoder.", SAM),
        *(
            rule
            for index in range(_num_blocks(tensors, prefix))
            for rule in _under(f"{prefix}blocks.{index}.", f"vision_encoder.layers.{index}.", SAM_BLOCK)
        ),
    ]
    others = [key for key in tensors if key.startswith(("prompt_encoder.", "mask_decoder."))]
    return [*rules, *(Rule(key, (), "dropped", "only SAM's image encoder guides the late refinement") for key in others)]


def _num_blocks(tensors: Tensors, prefix: str) -> int:
    indices = [int(match[1]) for key in tensors if (match := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", key))]
    return 1 + max(indices, default=0)  # without any, the first block is what is reported missing


def _apply(rules: list[Rule], tensors: Tensors, role: str, path: Path) -> tuple[Tensors, list[ConvertedKey]]:
    expected = {rule.source for rule in rules}
    _refuse_differences(f"--{role} {path}", expected - set(tensors), set(tensors) - expected)
    converted = {}
    for rule in rules:
        parts = rule.compute(tensors, rule.source) if rule.targets else ()
        converted.update(zip(rule.targets, parts, strict=True))
    return converted, [ConvertedKey(role, rule.source, rule.action, rule.targets, rule.reason) for rule in rules]


def _refuse_differences(what: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    missing, unexpected = sorted(missing), sorted(unexpected)
    if missing or unexpected:
        differences = [
            f"{len(keys)} {kind} ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
            for kind, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise ValueError(
            f"{what} does not have the published layout: keys {' and '.join(differences)}. Give the published file "
            f"({PUBLISHED_BACKBONE}, {PUBLISHED_DINOTXT}), unchanged."
        )


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_tensors(path: Path, role: str) -> Tensors:
    """A flat file of tensors, mapped into memory rather than copied; nothing of it is executed."""
    what = f"--{role} {path}"
    if not path.is_file():
        raise ValueError(f"{what}: there is no such file. Check the path.")
    with path.open("rb") as file:
        start = file.read(64)
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
        elif start.startswith(b"PK\x03\x04"):  # torch.save writes a zip archive ...
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        elif start.startswith(b"\x80"):  # ... and before torch 1.6 wrote a bare pickle, which cannot be mapped
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        else:
            hint = " It looks like a web page: the licence has to be accepted before the download." if b"<" in start else ""
            raise ValueError(f"{what} is no checkpoint: neither .safetensors nor written by torch.save.{hint} Download it again.")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{what} holds more than tensors, and loading it could run somebody's code. Give the published file, or its tensors "
            "saved as .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{what} is truncated or damaged ({_first_line(error)}). Download it again.") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(
            f"{what} is no flat table of tensors, as the published files are. If they lie deeper (under 'model' or 'teacher'), save "
            "that table as .safetensors."
        )
    return {key: _own_storage(tensor) for key, tensor in tensors.items()}


def _own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory under a storage of its own, so that saving does not take parts of one file for tied weights."""
    array = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return torch.from_numpy(array).view(tensor.dtype).reshape(tensor.shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


# Telling files apart, for errors that name the mistake.
KINDS = {
    "a dino.txt vision head and text encoder (give it as --dinotxt)": ("visual_model.", "text_model.backbone."),
    "a DINOv3 backbone in the published layout (give it as --backbone)": ("storage_tokens", "rope_embed."),
    "a DINOv3 backbone in the layout of transformers (give its folder or Hub id as --backbone)": ("embeddings.cls_token",),
    "a SAM checkpoint (give it as --prior)": ("image_encoder.", "vision_encoder."),
    "a checkpoint of this package (it needs no conversion)": ("vision_model.backbone.", "vision_model.head."),
}


def _require_kind(tensors: Tensors, role: str, path: Path) -> None:
    found = next((kind for kind, starts in KINDS.items() if any(key.startswith(starts) for key in tensors)), None)
    if found is None:
        first = ", ".join(list(tensors)[:3]) or "nothing"
        raise ValueError(f"--{role} {path} is no checkpoint that is known here: it holds {first}. Give the published file.")
    if f"as --{role})" not in found or "layout of transformers" in found:
        raise ValueError(f"--{role} {path} is {found}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's own progress and load reports are replaced by ours."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _load_config(source: str, role: str) -> Any:
    if (folder := Path(source).expanduser()).is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"--{role} {source} is a folder without config.json. Give a checkpoint folder, or the file itself.")
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"--{role} {source} is neither a file, nor a checkpoint folder, nor a Hub id that can be read ({_first_line(error)}). Check "
            "the name; for a gated repository accept its licence on the Hub and log in with `hf auth login`."
        ) from error


def _load_pretrained(model_class: type, source: str, config: Any, role: str) -> tuple[Any, set[str]]:
    """A library model and the keys of its files that it has no place for; missing ones are an error."""
    try:
        with _quiet():
            model, info = model_class.from_pretrained(source, config=config, dtype="auto", output_loading_info=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"--{role} {source}: its weights cannot be read ({_first_line(error)}). Download them again.") from error
    wrong = sorted({*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])})
    if wrong:
        raise ValueError(
            f"--{role} {source} lacks {len(wrong)} tensors of its own configuration, or has them in other sizes: {', '.join(wrong[:5])}. "
            "Download it again."
        )
    return model, set(info["unexpected_keys"])


# --- the parts -------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """A converted file: what the configuration and the model take from it."""

    config: Any
    tensors: Tensors
    keys: list[ConvertedKey]
    notes: list[str] = field(default_factory=list)


def _convert_backbone(source: Source) -> Part:
    name = os.fspath(source)
    if re.search(r"sat-?493m|satellite", name, re.IGNORECASE):
        raise ValueError(f"--backbone {name} is the satellite backbone. {SATELLITE}")
    path = Path(name).expanduser()
    part = _convert_published_backbone(path) if _means_file(path) else _convert_transformers_backbone(name)
    part.tensors = {f"vision_model.backbone.{key}": tensor for key, tensor in part.tensors.items()}
    part.keys = [
        replace(key, targets=tuple(f"vision_model.backbone.{target}" for target in key.targets)) for key in part.keys
    ]
    return part


def _means_file(path: Path) -> bool:
    return path.is_file() or (not path.is_dir() and path.suffix in (".pth", ".pt", ".bin", ".safetensors"))


def _convert_published_backbone(path: Path) -> Part:
    tensors = _read_tensors(path, "backbone")
    _require_kind(tensors, "backbone", path)
    if any(key.startswith("local_cls_norm.") for key in tensors):
        raise ValueError(f"--backbone {path} is the satellite backbone: it has local_cls_norm. {SATELLITE}")
    rules = _backbone_rules(tensors)
    converted, keys = _apply(rules, tensors, "backbone", path)

    width = tensors["cls_token"].shape[-1]
    periods = tensors["rope_embed.periods"].float()
    gated = "blocks.0.mlp.w1.weight" in tensors
    biased = "blocks.0.attn.qkv.bias" in tensors
    _, num_channels, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=tensors["blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_num_blocks(tensors, ""),
        num_attention_heads=width // (4 * len(periods)),  # each head turns by rows and columns, in sines and cosines
        patch_size=patch_size,
        num_channels=num_channels,
        num_register_tokens=tensors["storage_tokens"].shape[1],
        rope_theta=_rope_theta(periods, path),
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        query_bias=biased,
        value_bias=biased,
    )
    deviation = (DINOv3ViTRopePositionEmbedding(config).inv_freq * periods - 1).abs().max().item()
    notes = [f"1 / rope_embed.periods agrees with the model's frequencies within {deviation:.1e} (relative)."]
    return Part(config, converted, keys, notes)


def _rope_theta(periods: torch.Tensor, path: Path) -> float:
    """The base of the rotary periods `theta ** (i / n)`. Published files hold them in bfloat16 (8 bits)."""
    exponents = torch.arange(len(periods)) / len(periods)
    guesses = [100.0]
    if len(periods) > 1:
        guesses.append(float(f"{periods[-1].item() ** (len(periods) / (len(periods) - 1)):.3g}"))
    for theta in guesses:
        if torch.allclose(theta**exponents, periods, rtol=2**-8, atol=0):
            return theta
    raise ValueError(
        f"--backbone {path}: rope_embed.periods {periods.tolist()} are no powers of one base, so the model cannot compute them. Give the "
        f"published backbone, {PUBLISHED_BACKBONE}."
    )


def _convert_transformers_backbone(name: str) -> Part:
    config = _load_config(name, "backbone")
    if not isinstance(config, DINOv3ViTConfig):
        raise ValueError(
            f"--backbone {name} is a {config.model_type!r} checkpoint; dino.txt stands on a DINOv3 ViT ('dinov3_vit', for example "
            "facebook/dinov3-vitl16-pretrain-lvd1689m)."
        )
    model, unexpected = _load_pretrained(DINOv3ViTModel, name, config, "backbone")
    if any("local_cls_norm" in key for key in unexpected):
        raise ValueError(f"--backbone {name} is the satellite backbone: it has local_cls_norm. {SATELLITE}")
    _refuse_differences(f"--backbone {name}", (), unexpected)
    tensors = dict(model.state_dict())
    return Part(config, tensors, [ConvertedKey("backbone", key, "taken", (key,)) for key in tensors])


def _convert_dinotxt(source: Source, text_num_attention_heads: int | None) -> tuple[Part, dict[str, int]]:
    """The vision head and the text tower; beside the text tower's configuration the sizes of the vision head."""
    path = Path(source).expanduser()
    tensors = _read_tensors(path, "dinotxt")
    _require_kind(tensors, "dinotxt", path)
    converted, keys = _apply(_dinotxt_rules(tensors), tensors, "dinotxt", path)

    vocab_size, width = tensors["text_model.backbone.token_embedding.weight"].shape
    if text_num_attention_heads is None and width % 64 != 0:
        raise ValueError(
            f"--dinotxt {path}: its text tower is {width} wide, which is no multiple of the usual 64 an attention head, and the file does "
            "not tell how many heads there are. Give text_num_attention_heads."
        )
    num_heads = width // 64 if text_num_attention_heads is None else text_num_attention_heads
    if num_heads < 1 or width % num_heads != 0:
        raise ValueError(f"text_num_attention_heads is {num_heads}, which does not divide the text tower's width of {width}.")
    num_layers = _num_blocks(tensors, "text_model.backbone.")
    for layer in range(num_layers):
        targets = tuple(f"text_model.text_model.encoder.layers.{layer}.self_attn.{name}_proj.bias" for name in "qkv")
        converted.update((target, torch.zeros(width)) for target in targets)
        keys.append(ConvertedKey("dinotxt", "", "zeros", targets, "the published attention has no bias"))

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=tensors["text_model.backbone.blocks.0.feed_forward.fc1.weight"].shape[0],
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        projection_dim=tensors["text_model.head.linear_projection.weight"].shape[0],
        vocab_size=vocab_size,
        max_position_embeddings=tensors["text_model.backbone.positional_embedding"].shape[0],
        hidden_act="gelu",
        # the reference pools at the highest token id, which is end-of-text; the one before it is start-of-text
        pad_token_id=0,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )
    head = {
        "vision_head_num_layers": _num_blocks(tensors, "visual_model.head."),
        "vision_head_intermediate_size": tensors["visual_model.head.blocks.0.mlp.w1.weight"].shape[0],
        "width": tensors["visual_model.head.ln_final.weight"].shape[0],
    }
    return Part(config, converted, keys), head


def _convert_prior(source: Source, image_size: int) -> Part:
    name = os.fspath(source)
    path = Path(name).expanduser()
    part = _convert_published_sam(path) if _means_file(path) else _convert_transformers_sam(name)
    part = _resize_prior(part, image_size)
    part.tensors = {PRIOR_ENCODER + key: tensor for key, tensor in part.tensors.items()}
    part.keys = [replace(key, targets=tuple(PRIOR_ENCODER + target for target in key.targets)) for key in part.keys]
    return part


def _convert_published_sam(path: Path) -> Part:
    tensors = _read_tensors(path, "prior")
    _require_kind(tensors, "prior", path)
    if any(key.startswith("vision_encoder.") for key in tensors):
        raise ValueError(f"--prior {path} is a SAM checkpoint in the layout of transformers: give its folder, with config.json.")
    converted, keys = _apply(_sam_rules(tensors), tensors, "prior", path)
    encoder = {key.removeprefix("image_encoder."): tensor for key, tensor in tensors.items()}
    grid = encoder["pos_embed"].shape[1]
    width, num_channels, patch_size, _ = encoder["patch_embed.proj.weight"].shape
    num_layers = _num_blocks(encoder, "")
    lengths, head_sizes = zip(*(encoder[f"blocks.{index}.attn.rel_pos_h"].shape for index in range(num_layers)))
    in_windows = [length for length in lengths if length != 2 * grid - 1]
    config = SamVisionConfig(
        hidden_size=width,
        output_channels=encoder["neck.0.weight"].shape[0],
        num_hidden_layers=num_layers,
        num_attention_heads=width // head_sizes[0],
        num_channels=num_channels,
        image_size=grid * patch_size,
        patch_size=patch_size,
        mlp_dim=encoder["blocks.0.mlp.lin1.weight"].shape[0],
        window_size=(in_windows[0] + 1) // 2 if in_windows else SamVisionConfig().window_size,
        global_attn_indexes=[index for index, length in enumerate(lengths) if length == 2 * grid - 1],
    )
    return Part(config, converted, keys)


def _convert_transformers_sam(name: str) -> Part:
    config = _load_config(name, "prior")
    if isinstance(config, SamConfig):
        config = config.vision_config
    if not isinstance(config, SamVisionConfig):
        raise ValueError(
            f"--prior {name} is a {config.model_type!r} checkpoint; the semantic prior is the image encoder of SAM ('sam' or "
            "'sam_vision_model', for example facebook/sam-vit-large)."
        )
    model, others = _load_pretrained(SamVisionModel, name, config, "prior")
    known = ("prompt_encoder.", "mask_decoder.", "shared_image_embedding.")
    _refuse_differences(f"--prior {name}", (), [key for key in others if not key.startswith(known)])
    tensors = dict(model.state_dict())
    keys = [ConvertedKey("prior", key, "taken", (key,)) for key in tensors]
    reason = "only SAM's image encoder guides the late refinement"
    return Part(config, tensors, [*keys, *(ConvertedKey("prior", key, "dropped", (), reason) for key in sorted(others))])


def _resize_prior(part: Part, image_size: int) -> Part:
    """Fits SAM's positions to the grid on which it will be used, once and for all (the paper runs at 640 pixels).

    Tables of relative positions are resized just as SAM itself does on the fly, and only in layers that attend globally:
    windows keep their size.
    """
    config, tensors = part.config, part.tensors
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int):
        raise ValueError(f"--prior: only square images and patches are supported, got {config.image_size} and {config.patch_size}.")
    if image_size % config.patch_size != 0:
        raise ValueError(f"prior_image_size is {image_size}; give a multiple of the prior encoder's patch size, {config.patch_size}.")
    before, after = config.image_size // config.patch_size, image_size // config.patch_size
    if before == after:
        return part
    resized = {f"from {config.image_size} to {image_size} pixels": {"vision_encoder.pos_embed"}}
    if config.use_abs_pos:
        positions = tensors["vision_encoder.pos_embed"].float().permute(0, 3, 1, 2)  # (1, D, rows, columns)
        positions = F.interpolate(positions, size=(after, after), mode="bicubic", antialias=True)
        tensors["vision_encoder.pos_embed"] = positions.permute(0, 2, 3, 1).contiguous()
    if config.use_rel_pos:
        tables = {
            f"vision_encoder.layers.{layer}.attn.rel_pos_{axis}" for layer in config.global_attn_indexes for axis in "hw"
        }
        for key in tables:
            table = tensors[key].float().T[None]  # (1, head size, 2 side - 1)
            tensors[key] = F.interpolate(table, size=2 * after - 1, mode="linear")[0].T.contiguous()
        resized[f"from a grid of {before} to one of {after}"] = tables
    reasons = {key: reason for reason, keys in resized.items() for key in keys}
    part.keys = [
        replace(key, action="resized", reason=reasons[key.targets[0]]) if key.targets and key.targets[0] in reasons else key
        for key in part.keys
    ]
    part.config = type(config)(**{**config.to_dict(), "image_size": image_size})
    return part


# --- the whole -------------------------------------------------------------------------------------------------------


def convert(
    backbone: Source,
    dinotxt: Source,
    output: Source,
    prior: Source | None = None,
    tokenizer: Source | None = None,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    text_num_attention_heads: int | None = None,
    prior_image_size: int = SAM_VITL16["image_size"],
    seed: int = 0,
    max_shard_size: str = "2GB",
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionReport:
    """Turns published checkpoints into a folder that `Dinov3SegForSemanticSegmentation.from_pretrained` loads.

    The folder's configuration says `head="dinotxt"`: it segments zero-shot as it is. The parts that dinov3.seg trains on top
    are in no published file; they are initialised anew from `seed`, and the report lists them.

    Args:
        backbone: DINOv3 as published (`.pth` or `.safetensors`), or a folder or Hub id of a `transformers` DINOv3 ViT.
        dinotxt: dino.txt's vision head and text encoder as published (`.pth` or `.safetensors`).
        output: Folder to write. It appears whole or not at all.
        prior: SAM, as published (`.pth`) or as a folder or Hub id of `transformers`; its image encoder becomes the semantic
            prior. `None`: intermediate layers of the backbone take its place.
        tokenizer: CLIP's BPE vocabulary: a folder or Hub id that `CLIPTokenizer` loads, or the original
            `bpe_simple_vocab_16e6.txt.gz`. `None` or `"none"`: weights and image processor only.
        dtype: Format of the written weights.
        text_num_attention_heads: Heads of the text tower; 64 channels a head unless given (the files do not tell).
        prior_image_size: Side in pixels of the images that the prior encoder will see; its positions are resized to it.
        seed: For the parts to be trained.
        max_shard_size: Weights are split into files of at most this size.
        overwrite: Whether an earlier conversion in `output` may be replaced (after the new one is complete).
        progress: Whether to say on stderr what is being done.

    Returns:
        What became of every key; the folder holds the same as `conversion_report.json`.

    Raises:
        ValueError: If a file is not what it should be (missing, damaged, swapped, the satellite backbone, other keys or sizes),
            the files do not fit each other, or `output` cannot be written. Nothing is left behind.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    say = (lambda message: print(message, file=sys.stderr, flush=True)) if progress else (lambda message: None)
    output = Path(output).expanduser()
    _refuse_output(output, overwrite)

    say(f"reading {backbone}")
    vision = _convert_backbone(backbone)
    say(f"reading {dinotxt}")
    text, head = _convert_dinotxt(dinotxt, text_num_attention_heads)
    _refuse_other_width(vision.config, text.config, head.pop("width"), os.fspath(backbone), os.fspath(dinotxt))
    parts = [vision, text]
    if prior is not None:
        say(f"reading {prior}")
        parts.append(_convert_prior(prior, prior_image_size))
    processor, tokenizer_note = _make_processor(tokenizer, vision.config, text.config)

    config = Dinov3SegConfig(
        vision_config=vision.config.to_dict(),
        text_config=text.config.to_dict(),
        prior_config=None if prior is None else parts[-1].config.to_dict(),
        head="dinotxt",
        **head,
    )
    model, new = _assemble(config, [part.tensors for part in parts], DTYPES[dtype], seed)

    report = ConversionReport(
        output=str(output),
        files={
            "backbone": os.fspath(backbone),
            "dinotxt": os.fspath(dinotxt),
            "prior": "none" if prior is None else os.fspath(prior),
            "tokenizer": "none" if tokenizer is None else os.fspath(tokenizer),
        },
        keys=[key for part in parts for key in part.keys],
        new=new,
        sizes=_sizes(config),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=dtype,
        notes=[
            *(note for part in parts for note in part.notes),
            'The configuration says head="dinotxt": zero-shot segmentation, without the parts to be trained.',
            tokenizer_note,
        ],
    )
    say(f"writing {output}")
    _write(model, processor, report, output, max_shard_size)
    return report


def _refuse_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file. Give a folder.")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"--output {output} is not empty. Give another folder, or allow the replacement of an earlier conversion.")
    if not (output / REPORT_NAME).is_file():
        raise ValueError(
            f"--output {output} holds something else than an earlier conversion (there is no {REPORT_NAME}), so it is not replaced. Give "
            "another folder."
        )


def _refuse_other_width(
    vision_config: DINOv3ViTConfig, text_config: CLIPTextConfig, head_width: int, backbone: str, dinotxt: str
) -> None:
    width = vision_config.hidden_size
    if head_width != width or text_config.projection_dim != 2 * width:
        raise ValueError(
            f"--backbone {backbone} is {width} wide, but --dinotxt {dinotxt} has a vision head {head_width} wide and text embeddings of "
            f"{text_config.projection_dim} (twice the width is needed). dino.txt is published for ViT-L/16: {PUBLISHED_BACKBONE}."
        )


def _assemble(
    config: Dinov3SegConfig, parts: list[Tensors], dtype: torch.dtype, seed: int
) -> tuple[Dinov3SegForSemanticSegmentation, dict[str, list[str]]]:
    """The model around the converted tensors, which are not copied unless their format changes."""
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(config)
    expected = model.state_dict()
    tensors = {key: tensor for part in parts for key, tensor in part.items()}

    wrong = [
        f"{key} is {tuple(tensor.shape)} in place of {tuple(expected[key].shape)}"
        for key, tensor in tensors.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors have other sizes than the rest of their file implies: {'; '.join(wrong[:3])}. Give the published files.")
    new = {key for key in expected if key.startswith(NEW_PARTS) and not key.startswith(PRIOR_ENCODER)}
    _refuse_differences("The model that the files describe", set(expected) - set(tensors) - new, set(tensors) - set(expected))

    for key, tensor in tensors.items():
        tensors[key] = tensor.to(dtype)
        if not torch.isfinite(tensors[key]).all():
            raise ValueError(f"{key} holds NaN or infinite values in {dtype}. Download the files again, or choose dtype float32.")
    _initialize(model, new, seed)
    model.to(dtype)
    model.load_state_dict(tensors, strict=False, assign=True)
    return model, {part: sorted(key for key in new if key.startswith(part)) for part in NEW_PARTS if any(map(part.__eq__, _parts(new)))}


def _parts(keys: Iterable[str]) -> set[str]:
    return {key.split(".")[0] for key in keys}


@torch.no_grad()
def _initialize(model: Dinov3SegForSemanticSegmentation, new: set[str], seed: int) -> None:
    """Gives the parts to be trained memory and their initial values; the caller's random numbers are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            if not name.startswith(NEW_PARTS) or f"{name}.".startswith(PRIOR_ENCODER):
                continue
            for parameter_name, parameter in list(module.named_parameters(recurse=False)):
                empty = torch.empty_like(parameter, device="cpu")
                setattr(module, parameter_name, torch.nn.Parameter(empty))
            model._init_weights(module)


def _sizes(config: Dinov3SegConfig) -> dict[str, int | float]:
    vision, text = config.vision_config, config.text_config
    sizes = {f"backbone {name}": getattr(vision, f"num_hidden_{name}" if name == "layers" else name) for name in ("layers",)}
    sizes |= {"width": vision.hidden_size, "heads": vision.num_attention_heads, "patch": vision.patch_size}
    sizes |= {"registers": vision.num_register_tokens, "rope theta": vision.rope_theta}
    sizes |= {"vision head layers": config.vision_head_num_layers, "its SwiGLU": config.vision_head_intermediate_size}
    sizes |= {"text layers": text.num_hidden_layers, "text width": text.hidden_size, "text heads": text.num_attention_heads}
    sizes |= {"tokens": text.vocab_size, "text length": text.max_position_embeddings}
    if config.prior_config is not None:
        sizes |= {"prior layers": config.prior_config.num_hidden_layers, "prior image": config.prior_config.image_size}
    return sizes


def _make_processor(
    tokenizer: Source | None, vision_config: DINOv3ViTConfig, text_config: CLIPTextConfig
) -> tuple[Any, str]:
    """The processor, or without a tokenizer the image processor alone; and what to tell the user."""
    from .image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
    from .processing_dinov3seg import Dinov3SegProcessor

    image_processor = Dinov3SegImageProcessorPil(size_divisor=vision_config.patch_size)
    if tokenizer is None or os.fspath(tokenizer) == "none":
        note = "No tokenizer was given: weights and image processor only. Words need one (--tokenizer)."
        return image_processor, note
    tokenizer = os.fspath(tokenizer)
    loaded = _load_tokenizer(tokenizer, text_config)
    highest = max(loaded.get_vocab().values()) + 1
    if (highest, loaded.bos_token_id, loaded.eos_token_id) != (
        text_config.vocab_size,
        text_config.bos_token_id,
        text_config.eos_token_id,
    ):
        raise ValueError(
            f"--tokenizer {tokenizer} has {highest} tokens, start-of-text {loaded.bos_token_id} and end-of-text {loaded.eos_token_id}; the "
            f"text tower has {text_config.vocab_size}, {text_config.bos_token_id} and {text_config.eos_token_id}. Give CLIP's vocabulary "
            "(for example openai/clip-vit-large-patch14)."
        )
    loaded.model_max_length = text_config.max_position_embeddings
    return Dinov3SegProcessor(image_processor, loaded), f"Tokenizer with {highest} tokens from {tokenizer}."


def _load_tokenizer(source: str, text_config: CLIPTextConfig) -> CLIPTokenizer:
    path = Path(source).expanduser()
    if not path.is_file():
        try:
            with _quiet():
                return CLIPTokenizer.from_pretrained(source)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"--tokenizer {source} is neither a file, nor a folder, nor a Hub id with a CLIP tokenizer ({_first_line(error)}). Give "
                "openai/clip-vit-large-patch14, bpe_simple_vocab_16e6.txt.gz, or none."
            ) from error
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"--tokenizer {source} cannot be read as text ({_first_line(error)}). Download it again.") from error
    # 256 bytes, the same at the end of a word, one token a merge, start and end of text; the first line is a header, and the
    # file holds more merges than CLIP uses
    symbols = list(bytes_to_unicode().values())
    num_merges = text_config.vocab_size - 2 * len(symbols) - 2
    merges = [tuple(line.split()) for line in lines[1 : 1 + max(num_merges, 0)]]
    if num_merges < 0 or len(merges) < num_merges or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"--tokenizer {source} does not hold the {num_merges} merges that a vocabulary of {text_config.vocab_size} needs. Give "
            "bpe_simple_vocab_16e6.txt.gz, unchanged."
        )
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)


def _write(
    model: Dinov3SegForSemanticSegmentation, processor: Any, report: ConversionReport, output: Path, max_shard_size: str
) -> None:
    """Writes beside `output` first, then takes its place."""
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.partial")
    replaced = partial.with_suffix(".replaced")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        needed, free = sum(p.numel() * p.element_size() for p in model.parameters()), shutil.disk_usage(output.parent).free
        if needed > free:
            raise ValueError(
                f"--output {output} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there. Make room, or choose dtype bfloat16."
            )
        partial.mkdir()
        with _quiet():
            model.save_pretrained(partial, max_shard_size=max_shard_size)
            processor.save_pretrained(partial)
        (partial / REPORT_NAME).write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
        if output.exists():
            output.rename(replaced)
        try:
            partial.rename(output)
        except OSError:
            if replaced.exists():
                replaced.rename(output)
            raise
    except (OSError, SafetensorError) as error:
        raise ValueError(f"--output {output} cannot be written ({_first_line(error)}). Give another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if output.exists():
            shutil.rmtree(replaced, ignore_errors=True)


__all__ = ["ConversionReport", "ConvertedKey", "convert"]
