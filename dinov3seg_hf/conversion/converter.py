# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Converts the published DINOv3, dino.txt, SAM and AnyUp checkpoints to a folder that `from_pretrained` loads.

The conversion is strict: the report accounts for every key of every file (taken, split, dropped, and the reason), every
tensor of the model has a known origin, and the folder is written atomically. This module handles files and sizes;
`layouts.py` contains the names, and the model files define the computation.
"""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CLIPTextConfig, DINOv3ViTConfig

from ..about import DTYPES
from ..model.checks import check_flags, checked_choice, checked_integer, checked_path, checked_shard_size
from ..model.configuration_dinov3seg import SAM_VITL16, Dinov3SegConfig
from ..model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from ..model.processing_dinov3seg import Dinov3SegProcessor
from .assembly import assemble_model
from .layouts import PUBLISHED_BACKBONE
from .license import find_licenses, notes_of_licenses
from .parts import Part, VisionHead, convert_anyup_file, convert_backbone, convert_dinotxt, convert_prior
from .paths import Source, checked_output, refuse_full_disk
from .report import ConversionReport
from .tokenizer import TokenizerOf, find_tokenizer
from .writer import write_checkpoint


def convert(
    backbone: Source,
    dinotxt: Source,
    output: Source,
    prior: Source | None = None,
    tokenizer: Source | None = None,
    *,
    anyup: Source | None = None,
    anyup_scale: Literal[1, 2, 4] = 1,
    license: Source | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    text_num_attention_heads: int | None = None,
    prior_image_size: int = SAM_VITL16["image_size"],
    seed: int = 0,
    max_shard_size: str = "2GB",
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionReport:
    """Converts published checkpoints to a folder that `Dinov3SegForSemanticSegmentation.from_pretrained` loads.

    The folder is configured with `head="dinotxt"`, so the model segments zero-shot without training. The parts to be
    trained are not in any published file: these parts are initialized from `seed` and listed in the report.

    Args:
        backbone: DINOv3 as published (`.pth` or `.safetensors`), or a folder or Hub id of a `transformers` DINOv3 ViT.
        dinotxt: dino.txt's vision head and text encoder as published (`.pth` or `.safetensors`).
        output: Folder to write. All files are written atomically.
        prior: SAM as published (`.pth`), or a folder or Hub id of a `transformers` SAM; its image encoder becomes the
            semantic prior. `None`: intermediate layers of the backbone are used instead.
        tokenizer: CLIP's BPE vocabulary: a folder or Hub id that `CLIPTokenizer` loads, the original
            `bpe_simple_vocab_16e6.txt.gz`, or `"open_clip"` for that file in the installed package. `None` or `"none"`:
            only weights and image processor are written.
        anyup: AnyUp as published (`.pth` or `.safetensors`), for the early refinement. The zero-shot head then uses the
            refined features. `None`: the early refinement is to be trained.
        anyup_scale: Size of the grid of refined features, in units of the patch grid: 1, 2 or 4.
        license: The license file of the weights, copied to `output`. `None`: the file beside the weights. `"none"`: no
            license, so that the folder cannot be published. The licenses beside `prior` and `anyup` are copied, too.
        dtype: Dtype of the written weights.
        text_num_attention_heads: Attention heads of the text tower (not in the file). Default: one per 64 channels.
        prior_image_size: Side length of the prior encoder's images in pixels; its position embeddings are resized.
        seed: Seed of the initialization of the parts to be trained.
        max_shard_size: Maximum size of one weights file.
        overwrite: Whether to replace an earlier conversion in `output`, after the new conversion is complete.
        progress: Whether to print progress messages on stderr.

    Returns:
        The report of all keys. The folder contains the same report as `conversion_report.json`, without local paths.

    Raises:
        ValueError: If a file is not the expected one (missing, damaged, swapped, the satellite backbone, other keys or
            sizes), the files do not fit each other, or `output` cannot be written. Partial output is removed.
    """
    _refuse_paths(backbone, dinotxt, output, prior=prior, tokenizer=tokenizer, anyup=anyup, license=license)
    _refuse_options(dtype, anyup, anyup_scale, overwrite, progress)
    _refuse_numbers(text_num_attention_heads, prior_image_size, seed, max_shard_size)
    tokenizer = None if tokenizer is None or os.fspath(tokenizer) == "none" else os.fspath(tokenizer)
    output = checked_output(output, overwrite)
    given = {"backbone": backbone, "dinotxt": dinotxt, "prior": prior, "anyup": anyup, "tokenizer": tokenizer}
    licenses = find_licenses(license, given)
    refuse_full_disk(output, _expected_size((backbone, dinotxt, prior, anyup), dtype))
    tokenizer_of = None if tokenizer is None else find_tokenizer(tokenizer)  # before gigabytes are read
    say = _printer(progress)
    say(f"reading {backbone}")
    vision = convert_backbone(backbone)
    say(f"reading {dinotxt}")
    text, head = convert_dinotxt(dinotxt, text_num_attention_heads)
    _refuse_other_width(vision.config, text.config, head.width, os.fspath(backbone), os.fspath(dinotxt))
    parts = [vision, text]
    for source, read, size in ((prior, convert_prior, prior_image_size), (anyup, convert_anyup_file, anyup_scale)):
        if source is not None:
            say(f"reading {source}")
            parts.append(read(source, size))
    processor = _make_processor(tokenizer, tokenizer_of, vision.config.patch_size, text.config)
    config = _config(vision, text, head, anyup=parts[-1] if anyup else None, prior=parts[2] if prior else None)
    say("building the model")
    model, new = assemble_model(config, [part.tensors for part in parts], getattr(torch, dtype), seed)
    report = _report(output, given, licenses, parts, config, model, new, dtype)
    say(f"writing {output}")
    write_checkpoint(model, processor, report, output, max_shard_size, licenses, overwrite)
    return report


def _config(vision: Part, text: Part, head: VisionHead, anyup: Part | None, prior: Part | None) -> Dinov3SegConfig:
    return Dinov3SegConfig(
        vision_config=_architecture(vision.config),
        text_config=_architecture(text.config),
        prior_config=None if prior is None else _architecture(prior.config),
        head="dinotxt",
        head_trained=False,
        vision_head_num_layers=head.num_layers,
        vision_head_intermediate_size=head.intermediate_size,
        **({} if anyup is None else anyup.config),
    )


def _report(
    output: Path,
    given: dict[str, Source | None],
    licenses: dict[str, Path | None],
    parts: list[Part],
    config: Dinov3SegConfig,
    model: Dinov3SegForSemanticSegmentation,
    new: dict[str, list[str]],
    dtype: str,
) -> ConversionReport:
    notes = [note for part in parts for note in part.notes]
    notes.append('The configuration contains head="dinotxt": zero-shot, without the parts to be trained.')
    notes += notes_of_licenses(licenses)
    if given["tokenizer"] is None:
        notes.append("Only weights and image processor are written. Pass a tokenizer to segment by class names.")
    sources = {**given, **{"license" if of == "weights" else f"license of {of}": at for of, at in licenses.items()}}
    return ConversionReport(
        output=str(output),
        files={role: "none" if source is None else _public_name(source) for role, source in sources.items()},
        keys=[key for part in parts for key in part.keys],
        new=new,
        sizes=_sizes(config),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=dtype,
        notes=notes,
    )


def _expected_size(sources: tuple[Source | None, ...], dtype: str) -> float:
    """The size of the converted weights in bytes, from the sizes of the given files, before they are read.

    Published weights are float32. A tenth is left out, because some tensors are dropped.
    """
    files = [path for source in sources if source is not None and (path := Path(source).expanduser()).is_file()]
    return 0.9 * sum(path.stat().st_size for path in files) * getattr(torch, dtype).itemsize / 4


def _public_name(source: Source) -> str:
    """The Hub id, or the name of the file or folder without its path, because the report is shared with the weights."""
    path = Path(source).expanduser()
    return path.name if path.exists() else os.fspath(source)


def _printer(progress: bool) -> Callable[[str], None]:
    return functools.partial(print, file=sys.stderr, flush=True) if progress else lambda message: None


def _refuse_paths(backbone: Any, dinotxt: Any, output: Any, **others: Any) -> None:
    given = {name: source for name, source in others.items() if source is not None}
    for name, source in {"backbone": backbone, "dinotxt": dinotxt, "output": output, **given}.items():
        checked_path(source, name)


def _refuse_numbers(text_num_attention_heads: Any, prior_image_size: Any, seed: Any, max_shard_size: Any) -> None:
    if text_num_attention_heads is not None:
        checked_integer(text_num_attention_heads, "text_num_attention_heads", least=1)
    checked_integer(prior_image_size, "prior_image_size", least=1)
    if checked_integer(seed, "seed", least=0) >= 2**63:
        raise ValueError(f"seed is {seed}; expected less than 2**63.")
    checked_shard_size(max_shard_size)


def _refuse_options(dtype: str, anyup: Source | None, anyup_scale: int, overwrite: bool, progress: bool) -> None:
    check_flags(overwrite=overwrite, progress=progress)
    checked_choice(dtype, "dtype", DTYPES)
    if checked_integer(anyup_scale, "anyup_scale") not in (1, 2, 4):
        raise ValueError(f"anyup_scale is {anyup_scale!r}; expected 1, 2 or 4.")
    if anyup is None and anyup_scale != 1:
        raise ValueError(
            f"anyup_scale is {anyup_scale}, but anyup is not given. Pass the file of AnyUp, or leave out the scale."
        )


def _refuse_other_width(
    vision_config: DINOv3ViTConfig, text_config: CLIPTextConfig, head_width: int, backbone: str, dinotxt: str
) -> None:
    width = vision_config.hidden_size
    if head_width != width or text_config.projection_dim != 2 * width:
        raise ValueError(
            f"dinotxt {dinotxt} has a vision head of width {head_width} and text embeddings of width "
            f"{text_config.projection_dim}; expected {width} and {2 * width}, for the width {width} of backbone "
            f"{backbone}. Pass the backbone that dino.txt was trained on, ViT-L/16: {PUBLISHED_BACKBONE}."
        )


def _architecture(config: Any) -> dict[str, Any]:
    """The configuration of a part, without entries about its file: the new folder may have another dtype."""
    about_the_file = ("dtype", "architectures", "transformers_version", "_name_or_path")
    return {name: value for name, value in config.to_dict().items() if name not in about_the_file}


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


def _make_processor(
    tokenizer: str | None, tokenizer_of: TokenizerOf | None, patch_size: int, text_config: CLIPTextConfig
) -> Any:
    """Makes the processor, or only the image processor if `tokenizer_of` is `None`."""
    image_processor = Dinov3SegImageProcessorPil(size_divisor=patch_size)
    if tokenizer_of is None:
        return image_processor
    loaded = tokenizer_of(text_config)
    given = (max(loaded.get_vocab().values()) + 1, loaded.bos_token_id, loaded.eos_token_id)
    expected = (text_config.vocab_size, text_config.bos_token_id, text_config.eos_token_id)
    if given != expected:
        raise ValueError(
            f"tokenizer {tokenizer} has {given} (number of tokens, start-of-text id, end-of-text id); expected "
            f"{expected}, the values of the text tower. Pass CLIP's vocabulary, for example "
            "openai/clip-vit-large-patch14."
        )
    loaded.model_max_length = text_config.max_position_embeddings
    return Dinov3SegProcessor(image_processor, loaded)


__all__ = ["convert"]
