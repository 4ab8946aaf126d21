# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The published checkpoints of DINOv3, dino.txt and SAM -> a folder that `from_pretrained` loads.

Strict: every key of every file is accounted for in a report (taken, split, dropped and why), every tensor of the model
has a known origin, and the result appears whole or not at all. Knows files and sizes; the names are in
`checkpoint_layouts.py`, what the tensors compute is told by the model files.
"""

import gzip
import json
import os
import pickle
import re
import shutil
import sys
import uuid
import zlib
from collections.abc import Iterable, Iterator
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

from .checkpoint_layouts import (
    PUBLISHED_BACKBONE,
    PUBLISHED_DINOTXT,
    SAM_OTHERS,
    SAM_OTHERS_REASON,
    Action,
    Rule,
    Tensors,
    backbone_rules,
    dinotxt_rules,
    num_blocks,
    sam_rules,
)
from .configuration_dinov3seg import SAM_VITL16, Dinov3SegConfig
from .image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from .modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .processing_dinov3seg import Dinov3SegProcessor

Source = str | os.PathLike

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REPORT_NAME = "conversion_report.json"

# Parts of the model that are there to be trained: but for the prior encoder, no published file holds a tensor of them.
NEW_PARTS = ("early_refinement", "semantic_prior", "correlation_embedding", "late_refinement", "decoder")
PRIOR_ENCODER = "semantic_prior.encoder."

SATELLITE = (
    "dino.txt's text was aligned with the backbone that was trained on web images (LVD-1689M); beside the one trained "
    f"on satellite images (SAT-493M) its words mean nothing. Give the web backbone, {PUBLISHED_BACKBONE}."
)
SATELLITE_IMAGE_MEAN = [0.430, 0.411, 0.296]  # of its image processor; all other DINOv3 models have ImageNet's


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvertedKey:
    """What became of one tensor of a file; or, with an empty `key`, where tensors come from that no file holds."""

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
        new: Part of the model -> its tensors that no file holds: newly initialized, to be trained.
        missing: Tensors of the model without an origin. Empty, or there would be an error in place of a report.
        sizes: What was inferred from the tensors.
        num_parameters: Numbers that the folder holds.
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
        return {**vars(self), "keys": [{**vars(key), "targets": list(key.targets)} for key in self.keys]}

    def __str__(self) -> str:
        rows: dict[tuple[str, ...], int] = {}  # the layers of one kind share a row
        for key in self.keys:
            row = (key.action, key.source, _any_layer(key.key), _any_layer(_brief(key.targets)), key.reason)
            rows[row] = rows.get(row, 0) + 1
        for part, names in self.new.items():
            rows["new", "", "", part, "to be trained; no published file holds it"] = len(names)

        lines = [f"Converted to {self.output}: {self.num_parameters / 1e6:.1f} M parameters in {self.dtype}"]
        lines += [f"  {role:10}{given}" for role, given in self.files.items()]
        lines += [f"  {'sizes':10}{', '.join(f'{name} {size:g}' for name, size in self.sizes.items())}"]
        lines += ["", f"{'count':>5}  {'action':9}{'file':10}key -> parameter (remark)"]
        for (action, source, key, targets, reason), count in rows.items():
            remark = f" ({reason})" if reason else ""
            lines.append(f"{count:5d}  {action:9}{source:10}{key or '-'} -> {targets or '-'}{remark}")
        totals = [f"{self.count(action)} {action}" for action in ("taken", "split", "resized", "dropped", "zeros")]
        totals += [f"{sum(map(len, self.new.values()))} new", f"{len(self.missing)} missing"]
        return "\n".join([*lines, "", ", ".join(totals), *(f"- {note}" for note in self.notes)])


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _brief(names: tuple[str, ...]) -> str:
    """The first in full, of the others the end."""
    return ", ".join([*names[:1], *(".".join(name.split(".")[-2:]) for name in names[1:])])


# --- reading files ---------------------------------------------------------------------------------------------------


def _means_file(path: Path) -> bool:
    return path.is_file() or (not path.is_dir() and path.suffix in (".pth", ".pt", ".bin", ".safetensors"))


def _read_tensors(path: Path, role: str) -> Tensors:
    """A flat file of tensors, mapped into memory rather than copied; nothing of it is executed."""
    what = f"{role} {path}"
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
            hint = "a web page (was its license accepted before the download?)" if b"<" in start else "something else"
            raise ValueError(
                f"{what} is no checkpoint, neither .safetensors nor written by torch.save, but {hint}. Download it "
                "again."
            )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{what} holds more than tensors, and loading that could run anybody's code. Give the published file, or "
            "save its tensors as .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{what} is truncated or damaged ({_first_line(error)}). Download it again.") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(
            f"{what} is no flat table of tensors, as the published files are. If they lie deeper (under 'model' or "
            "'teacher'), save that table as .safetensors."
        )
    return tensors


def _own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory under a storage of its own: what shares one is copied on saving, and counted once."""
    array = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return torch.from_numpy(array).view(tensor.dtype).reshape(tensor.shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


# Tells files apart, for errors that name the mistake: what it is, where it belongs, how its keys begin.
KINDS = (
    ("a vision head and text encoder of dino.txt", "dinotxt", ("visual_model.", "text_model.backbone.")),
    ("a DINOv3 backbone", "backbone", ("storage_tokens", "rope_embed.", "blocks.")),
    ("a DINOv3 backbone in the layout of transformers; give its folder", None, ("embeddings.cls_token",)),
    ("a SAM checkpoint in the layout of transformers; give its folder", None, ("vision_encoder.",)),
    ("a SAM checkpoint", "prior", ("image_encoder.",)),
    ("a checkpoint of this package, which needs no conversion", None, ("vision_model.", "text_model.text_model.")),
)


def _require_kind(tensors: Tensors, role: str, path: Path) -> None:
    for kind, belongs_to, starts in KINDS:
        if any(key.startswith(starts) for key in tensors):
            if belongs_to != role:
                remedy = f"Give it as {belongs_to}." if belongs_to else "Give the published file."
                raise ValueError(f"{role} {path} is {kind}. {remedy}")
            return
    first = ", ".join(list(tensors)[:3]) or "nothing"
    raise ValueError(f"{role} {path} is no checkpoint that is known here: it holds {first}. Give the published file.")


def _apply(rules: list[Rule], tensors: Tensors, role: str, path: Path) -> tuple[Tensors, list[ConvertedKey]]:
    _refuse_differences(f"{role} {path}", expected={rule.source for rule in rules}, given=set(tensors))
    converted = {}
    for rule in rules:
        if rule.targets:
            parts = map(_own_storage, rule.compute(tensors, rule.source))
            converted.update(zip(rule.targets, parts, strict=True))
    return converted, [ConvertedKey(role, rule.source, rule.action, rule.targets, rule.reason) for rule in rules]


def _refuse_differences(what: str, expected: set[str], given: set[str]) -> None:
    differences = [
        f"{len(keys)} {kind} ({', '.join(sorted(keys)[:5])}{', ...' if len(keys) > 5 else ''})"
        for kind, keys in (("missing", expected - given), ("unexpected", given - expected))
        if keys
    ]
    if differences:
        raise ValueError(
            f"{what} does not have the published layout: keys {' and '.join(differences)}. Give the published files "
            f"({PUBLISHED_BACKBONE}, {PUBLISHED_DINOTXT}), unchanged."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's own bars and load reports give way to ours."""
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
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"{role} {source} is a folder without config.json. Give a checkpoint folder, or a file.")
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{role} {source} is neither a file, nor a checkpoint folder, nor a Hub id that can be read "
            f"({_first_line(error)}). Check the name; for a gated repository accept its license on the Hub and log in "
            "with `hf auth login`."
        ) from error


def _load_pretrained(model_class: type, source: str, config: Any, role: str) -> tuple[Tensors, set[str]]:
    """The tensors of a library model, and the keys of its files that it has no place for; missing ones are an error."""
    try:
        with _quiet():
            model, info = model_class.from_pretrained(source, config=config, dtype="auto", output_loading_info=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{role} {source}: its weights cannot be read ({_first_line(error)}). Download them again."
        ) from error
    wrong = [*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])]
    if wrong:
        raise ValueError(
            f"{role} {source} lacks {len(wrong)} tensors of its own configuration, or has them in other sizes: "
            f"{', '.join(sorted(wrong)[:5])}. Download it again."
        )
    return dict(model.state_dict()), set(info["unexpected_keys"])


# --- the parts -------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """A converted file: what the configuration and the model take from it."""

    config: Any
    tensors: Tensors
    keys: list[ConvertedKey]
    notes: list[str] = field(default_factory=list)

    def under(self, prefix: str) -> "Part":
        keys = [replace(key, targets=tuple(prefix + target for target in key.targets)) for key in self.keys]
        return replace(self, tensors={prefix + key: tensor for key, tensor in self.tensors.items()}, keys=keys)


def _convert_backbone(source: Source) -> Part:
    name = os.fspath(source)
    path = Path(name).expanduser()
    if re.search(r"sat-?493m", name, re.IGNORECASE):
        raise ValueError(f"backbone {name} is the satellite backbone. {SATELLITE}")
    part = _convert_published_backbone(path) if _means_file(path) else _convert_transformers_backbone(name)
    return part.under("vision_model.backbone.")


def _convert_published_backbone(path: Path) -> Part:
    tensors = _read_tensors(path, "backbone")
    _require_kind(tensors, "backbone", path)
    _refuse_satellite(tensors, str(path))
    converted, keys = _apply(backbone_rules(tensors), tensors, "backbone", path)

    width = tensors["cls_token"].shape[-1]
    periods = tensors["rope_embed.periods"].float()
    gated = "blocks.0.mlp.w1.weight" in tensors
    biased = "blocks.0.attn.qkv.bias" in tensors
    _, num_channels, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=tensors["blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=num_blocks(tensors, ""),
        num_attention_heads=width // (4 * len(periods)),  # a head turns with rows and columns, by sine and cosine
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
    note = f"1 / rope_embed.periods and the frequencies that the model computes differ by {deviation:.1e} (relative)"
    note += "." if deviation < 1e-6 else ": the file holds them rounded, DINOv3 in transformers has them exact."
    return Part(config, converted, keys, [note])


def _rope_theta(periods: torch.Tensor, path: Path) -> float:
    """The base of the rotary periods `theta ** (i / n)`; published files hold them rounded to bfloat16."""
    exponents = torch.arange(len(periods)) / len(periods)
    guesses = [100.0]
    if len(periods) > 1:
        guesses.append(float(f"{periods[-1].item() ** (len(periods) / (len(periods) - 1)):.3g}"))
    for theta in guesses:
        if torch.allclose(theta**exponents, periods, rtol=2**-8, atol=0):
            return theta
    raise ValueError(
        f"backbone {path}: rope_embed.periods {periods.tolist()} are no powers of one base, so the model cannot "
        f"compute them. Give the published file, {PUBLISHED_BACKBONE}."
    )


def _convert_transformers_backbone(name: str) -> Part:
    config = _load_config(name, "backbone")
    if not isinstance(config, DINOv3ViTConfig):
        raise ValueError(
            f"backbone {name} is a {config.model_type!r} checkpoint, but dino.txt stands on a DINOv3 ViT. Give one of "
            "the type 'dinov3_vit', for example facebook/dinov3-vitl16-pretrain-lvd1689m."
        )
    preprocessing = Path(name).expanduser() / "preprocessor_config.json"
    if preprocessing.is_file() and json.loads(preprocessing.read_text()).get("image_mean") == SATELLITE_IMAGE_MEAN:
        raise ValueError(f"backbone {name} is the satellite backbone: its image mean tells. {SATELLITE}")
    tensors, unexpected = _load_pretrained(DINOv3ViTModel, name, config, "backbone")
    _refuse_satellite(unexpected, name)
    _refuse_differences(f"backbone {name}", expected=set(), given=unexpected)
    return Part(config, tensors, [ConvertedKey("backbone", key, "taken", (key,)) for key in tensors])


def _refuse_satellite(keys: Iterable[str], name: str) -> None:
    if any(key.startswith("local_cls_norm.") for key in keys):
        raise ValueError(f"backbone {name} is the satellite backbone: it has local_cls_norm. {SATELLITE}")


def _convert_dinotxt(source: Source, text_num_attention_heads: int | None) -> tuple[Part, dict[str, int]]:
    """The vision head and the text tower; beside the text tower's configuration, the sizes of the vision head."""
    path = Path(source).expanduser()
    tensors = _read_tensors(path, "dinotxt")
    _require_kind(tensors, "dinotxt", path)
    converted, keys = _apply(dinotxt_rules(tensors), tensors, "dinotxt", path)

    vocab_size, width = tensors["text_model.backbone.token_embedding.weight"].shape
    num_heads = width // 64 if text_num_attention_heads is None else text_num_attention_heads
    if text_num_attention_heads is None and width % 64 != 0:
        raise ValueError(
            f"dinotxt {path}: its text tower is {width} wide, no multiple of the usual 64 an attention head, and the "
            "file does not tell how many heads it has. Give text_num_attention_heads."
        )
    if num_heads < 1 or width % num_heads != 0:
        raise ValueError(
            f"text_num_attention_heads is {num_heads}, but the text tower is {width} wide. Give a divisor of that."
        )
    num_layers = num_blocks(tensors, "text_model.backbone.")
    for layer in range(num_layers):
        targets = tuple(f"text_model.text_model.encoder.layers.{layer}.self_attn.{name}_proj.bias" for name in "qkv")
        converted.update((target, torch.zeros(width)) for target in targets)
        keys.append(ConvertedKey("dinotxt", "", "zeros", targets, "the published attention has no such bias"))

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
        "vision_head_num_layers": num_blocks(tensors, "visual_model.head."),
        "vision_head_intermediate_size": tensors["visual_model.head.blocks.0.mlp.w1.weight"].shape[0],
        "width": tensors["visual_model.head.ln_final.weight"].shape[0],
    }
    return Part(config, converted, keys), head


def _convert_prior(source: Source, image_size: int) -> Part:
    name = os.fspath(source)
    path = Path(name).expanduser()
    part = _convert_published_sam(path) if _means_file(path) else _convert_transformers_sam(name)
    return _resize_prior(part, image_size).under(PRIOR_ENCODER)


def _convert_published_sam(path: Path) -> Part:
    tensors = _read_tensors(path, "prior")
    _require_kind(tensors, "prior", path)
    converted, keys = _apply(sam_rules(tensors), tensors, "prior", path)

    encoder = {key.removeprefix("image_encoder."): tensor for key, tensor in tensors.items()}
    grid = encoder["pos_embed"].shape[1]
    width, num_channels, patch_size, _ = encoder["patch_embed.proj.weight"].shape
    num_layers = num_blocks(encoder, "")
    tables = [encoder[f"blocks.{index}.attn.rel_pos_h"] for index in range(num_layers)]  # (2 side - 1, head size) each
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
    config = _load_config(name, "prior")
    if isinstance(config, SamConfig):
        config = config.vision_config
    if not isinstance(config, SamVisionConfig):
        raise ValueError(
            f"prior {name} is a {config.model_type!r} checkpoint, but the semantic prior is SAM's image encoder. Give "
            "one of the type 'sam' or 'sam_vision_model', for example facebook/sam-vit-large."
        )
    tensors, others = _load_pretrained(SamVisionModel, name, config, "prior")
    _refuse_differences(f"prior {name}", set(), {key for key in others if not key.startswith(SAM_OTHERS)})
    keys = [ConvertedKey("prior", key, "taken", (key,)) for key in tensors]
    keys += [ConvertedKey("prior", key, "dropped", (), SAM_OTHERS_REASON) for key in sorted(others)]
    return Part(config, tensors, keys)


def _resize_prior(part: Part, image_size: int) -> Part:
    """Fits SAM's positions to the grid on which it will be used, once and for all (the paper runs at 640 pixels).

    Tables of relative positions are resized just as SAM does on the fly, and only in the layers that attend globally:
    windows keep their size.
    """
    config = part.config
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int):
        raise ValueError(
            f"prior: its images are {config.image_size} and its patches {config.patch_size}. Give one for squares."
        )
    if image_size < 1 or image_size % config.patch_size != 0:
        raise ValueError(
            f"prior_image_size is {image_size}; give a multiple of the prior encoder's patch size, {config.patch_size}."
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

    The folder's configuration says `head="dinotxt"`: it segments zero-shot as it is. The parts that dinov3.seg trains
    on top are in no published file; they are initialized anew from `seed`, and the report lists them.

    Args:
        backbone: DINOv3 as published (`.pth` or `.safetensors`), or a folder or Hub id of a `transformers` DINOv3 ViT.
        dinotxt: dino.txt's vision head and text encoder as published (`.pth` or `.safetensors`).
        output: Folder to write. It appears whole or not at all.
        prior: SAM as published (`.pth`), or a folder or Hub id of `transformers`; its image encoder becomes the
            semantic prior. `None`: intermediate layers of the backbone take its place.
        tokenizer: CLIP's BPE vocabulary: a folder or Hub id that `CLIPTokenizer` loads, or the original
            `bpe_simple_vocab_16e6.txt.gz`. `None` or `"none"`: weights and image processor only.
        dtype: Format of the written weights.
        text_num_attention_heads: Heads of the text tower; one for 64 channels unless given (the file does not tell).
        prior_image_size: Side in pixels of the images that the prior encoder will see; its positions are resized to it.
        seed: For the parts to be trained.
        max_shard_size: Weights are split into files of at most this size.
        overwrite: Whether an earlier conversion in `output` may be replaced, once the new one is complete.
        progress: Whether to say on stderr what is being done.

    Returns:
        What became of every key. The folder holds the same as `conversion_report.json`, without paths of this machine.

    Raises:
        ValueError: If a file is not what it should be (missing, damaged, swapped, the satellite backbone, other keys or
            sizes), the files do not fit each other, or `output` cannot be written. Nothing is left behind.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    tokenizer = None if tokenizer is None or os.fspath(tokenizer) == "none" else os.fspath(tokenizer)
    output = Path(output).expanduser()
    _refuse_output(output, overwrite)

    def say(message: str) -> None:
        if progress:
            print(message, file=sys.stderr, flush=True)

    say(f"reading {backbone}")
    vision = _convert_backbone(backbone)
    say(f"reading {dinotxt}")
    text, head = _convert_dinotxt(dinotxt, text_num_attention_heads)
    _refuse_other_width(vision.config, text.config, head.pop("width"), os.fspath(backbone), os.fspath(dinotxt))
    parts = [vision, text]
    if prior is not None:
        say(f"reading {prior}")
        parts.append(_convert_prior(prior, prior_image_size))
    processor = _make_processor(tokenizer, vision.config, text.config)

    config = Dinov3SegConfig(
        vision_config=_architecture(vision.config),
        text_config=_architecture(text.config),
        prior_config=None if prior is None else _architecture(parts[-1].config),
        head="dinotxt",
        **head,
    )
    say("putting the model together")
    model, new = _assemble(config, [part.tensors for part in parts], DTYPES[dtype], seed)
    report = ConversionReport(
        output=str(output),
        files={
            role: "none" if given is None else _public_name(given)
            for role, given in (
                ("backbone", backbone),
                ("dinotxt", dinotxt),
                ("prior", prior),
                ("tokenizer", tokenizer),
            )
        },
        keys=[key for part in parts for key in part.keys],
        new=new,
        sizes=_sizes(config),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=dtype,
        notes=[note for part in parts for note in part.notes],
    )
    report.notes.append('head="dinotxt" in the configuration: zero-shot, without the parts to be trained.')
    if tokenizer is None:
        report.notes.append("No tokenizer: weights and image processor only. To segment from words, give one.")
    say(f"writing {output}")
    _write(model, processor, report, output, max_shard_size)
    return report


def _public_name(source: Source) -> str:
    """A Hub id, or the name of a file or folder without the way to it: the report goes where the weights go."""
    path = Path(source).expanduser()
    return path.name if path.exists() else os.fspath(source)


def _refuse_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {output} is a file. Give a folder.")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"output {output} is not empty. Give another folder, or overwrite it if it is a conversion.")
    if not (output / REPORT_NAME).is_file():
        raise ValueError(
            f"output {output} is no earlier conversion (it has no {REPORT_NAME}), so it is kept. Give another folder."
        )


def _refuse_other_width(
    vision_config: DINOv3ViTConfig, text_config: CLIPTextConfig, head_width: int, backbone: str, dinotxt: str
) -> None:
    width = vision_config.hidden_size
    if head_width != width or text_config.projection_dim != 2 * width:
        raise ValueError(
            f"backbone {backbone} is {width} wide, but dinotxt {dinotxt} has a vision head of {head_width} and text "
            f"embeddings of {text_config.projection_dim}, which should be the same and twice as much. Give the "
            f"backbone that dino.txt was trained on, ViT-L/16: {PUBLISHED_BACKBONE}."
        )


def _architecture(config: Any) -> dict[str, Any]:
    """A sub-configuration without what a file says about itself: its format must not follow into the new folder."""
    about_the_file = ("dtype", "architectures", "transformers_version", "_name_or_path")
    return {name: value for name, value in config.to_dict().items() if name not in about_the_file}


def _assemble(
    config: Dinov3SegConfig, parts: list[Tensors], dtype: torch.dtype, seed: int
) -> tuple[Dinov3SegForSemanticSegmentation, dict[str, list[str]]]:
    """The model around the converted tensors (copied only where their format changes), and what is new in it."""
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(config)
    expected = model.state_dict()
    tensors = {key: tensor for part in parts for key, tensor in part.items()}
    new = {key for key in expected if key.startswith(NEW_PARTS) and not key.startswith(PRIOR_ENCODER)}
    _refuse_differences("The model that these files describe", set(expected) - new, set(tensors))
    wrong = [
        f"{key} is {tuple(tensor.shape)} in place of {tuple(expected[key].shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != expected[key].shape
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors have other sizes than the rest of their file: {'; '.join(wrong[:3])}. Give the "
            "published files."
        )

    for key, tensor in tensors.items():
        tensors[key] = tensor.to(dtype)
        if not _is_finite(tensors[key]):
            raise ValueError(f"{key} holds NaN or infinity in {dtype}. Download its file again, or choose float32.")
    _initialize(model, seed)
    model.to(dtype)
    model.load_state_dict(tensors, strict=False, assign=True)  # compared key by key above
    by_part: dict[str, list[str]] = {}
    for key in sorted(new):
        by_part.setdefault(key.split(".")[0], []).append(key)
    return model, by_part


@torch.no_grad()
def _initialize(model: Dinov3SegForSemanticSegmentation, seed: int) -> None:
    """Gives the parts to be trained memory and initial values; the caller's random numbers stay as they are."""
    modules = [
        module
        for name, module in model.named_modules()
        if name.startswith(NEW_PARTS) and not f"{name}.".startswith(PRIOR_ENCODER)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in reversed(modules):  # a part comes after its own parts, whose values it may set
            for name, parameter in list(module.named_parameters(recurse=False)):
                unset = torch.full(parameter.shape, float("nan"), dtype=parameter.dtype)
                setattr(module, name, torch.nn.Parameter(unset))
            model._init_weights(module)
    forgotten = [name for name, value in model.named_parameters() if not value.is_meta and not _is_finite(value)]
    if forgotten:
        raise RuntimeError(f"The model's `_init_weights` leaves {forgotten} without a value.")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Without temporaries of the tensor's size, as `isfinite` makes them: NaN passes through minimum and maximum."""
    return tensor.numel() == 0 or torch.stack(torch.aminmax(tensor)).isfinite().all().item()


def _sizes(config: Dinov3SegConfig) -> dict[str, int | float]:
    vision, text = config.vision_config, config.text_config
    sizes = {
        "backbone layers": vision.num_hidden_layers,
        "width": vision.hidden_size,
        "heads": vision.num_attention_heads,
        "patch": vision.patch_size,
        "registers": vision.num_register_tokens,
        "rope theta": vision.rope_theta,
        "vision head layers": config.vision_head_num_layers,
        "vision head inner width": config.vision_head_intermediate_size,
        "text layers": text.num_hidden_layers,
        "text width": text.hidden_size,
        "text heads": text.num_attention_heads,
        "text tokens": text.vocab_size,
        "text length": text.max_position_embeddings,
    }
    if config.prior_config is not None:
        sizes |= {"prior layers": config.prior_config.num_hidden_layers, "prior image": config.prior_config.image_size}
    return sizes


def _make_processor(tokenizer: str | None, vision_config: DINOv3ViTConfig, text_config: CLIPTextConfig) -> Any:
    """The processor; without a tokenizer, the image processor alone."""
    image_processor = Dinov3SegImageProcessorPil(size_divisor=vision_config.patch_size)
    if tokenizer is None:
        return image_processor
    loaded = _load_tokenizer(tokenizer, text_config)
    given = (max(loaded.get_vocab().values()) + 1, loaded.bos_token_id, loaded.eos_token_id)
    expected = (text_config.vocab_size, text_config.bos_token_id, text_config.eos_token_id)
    if given != expected:
        raise ValueError(
            f"tokenizer {tokenizer}: number of tokens, start-of-text and end-of-text are {given}, but {expected} in "
            "the text tower. Give CLIP's vocabulary, for example openai/clip-vit-large-patch14."
        )
    loaded.model_max_length = text_config.max_position_embeddings
    return Dinov3SegProcessor(image_processor, loaded)


def _load_tokenizer(source: str, text_config: CLIPTextConfig) -> CLIPTokenizer:
    path = Path(source).expanduser()
    if path.is_file():
        return _read_bpe(path, text_config.vocab_size)
    try:
        with _quiet():
            loaded = CLIPTokenizer.from_pretrained(source)
        if set(loaded.get_vocab()) <= set(loaded.all_special_tokens):  # what the library makes of nothing
            raise ValueError("no vocabulary was found")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"tokenizer {source} is neither a file, nor a folder, nor a Hub id with a CLIP tokenizer "
            f"({_first_line(error)}). Give openai/clip-vit-large-patch14, bpe_simple_vocab_16e6.txt.gz, or none."
        ) from error
    return loaded


def _read_bpe(path: Path, vocab_size: int) -> CLIPTokenizer:
    """CLIP's original file of merges: a header, then one merge a line, more of them than are used."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"tokenizer {path} is no readable text ({_first_line(error)}). Download it again.") from error
    # every byte, every byte at the end of a word, a token for each merge, start and end of text
    symbols = list(bytes_to_unicode().values())
    num_merges = max(vocab_size - 2 * len(symbols) - 2, 0)
    merges = [tuple(line.split()) for line in lines[1 : 1 + num_merges]]
    if len(merges) < num_merges or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"tokenizer {path} does not hold the {num_merges} merges that a vocabulary of {vocab_size} needs. Give "
            "bpe_simple_vocab_16e6.txt.gz, unchanged."
        )
    endings = [f"{symbol}</w>" for symbol in symbols]
    tokens = [*symbols, *endings, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)


def _write(
    model: Dinov3SegForSemanticSegmentation, processor: Any, report: ConversionReport, output: Path, max_shard_size: str
) -> None:
    """Writes beside `output` first, then takes its place."""
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.partial")
    earlier = partial.with_suffix(".earlier")
    needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(output.parent).free
        if needed > free:
            raise ValueError(
                f"output {output} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there. Make room, or "
                "choose bfloat16."
            )
        partial.mkdir()
        with _quiet():
            model.save_pretrained(partial, max_shard_size=max_shard_size)
            processor.save_pretrained(partial)
        kept = {name: value for name, value in report.to_dict().items() if name != "output"}
        (partial / REPORT_NAME).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        if output.exists():
            output.rename(earlier)
        partial.rename(output)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"output {output} cannot be written ({_first_line(error)}). Give another folder.") from error
    finally:
        if earlier.exists() and not output.exists():
            earlier.rename(output)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)


__all__ = ["ConversionReport", "ConvertedKey", "convert"]
