# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The published checkpoints of DINOv3, dino.txt and SAM -> a folder that `from_pretrained` loads.

Strict: every key of every file is accounted for in a report (taken, split, dropped and why), every tensor of the model
has a known origin, and the result appears whole or not at all. Knows files and sizes; the names are in
`layouts.py`, what the tensors compute is told by the model files.
"""

import os
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CLIPTextConfig, DINOv3ViTConfig

from ..about import DTYPES
from ..file_names import CONVERSION_REPORT
from ..model.configuration_dinov3seg import SAM_VITL16, Dinov3SegConfig
from ..model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from ..model.processing_dinov3seg import Dinov3SegProcessor
from .assembly import assemble_model
from .layouts import PUBLISHED_BACKBONE
from .parts import Part, convert_backbone, convert_dinotxt, convert_prior
from .reading import Source
from .report import ConversionReport
from .tokenizer import load_clip_tokenizer
from .writer import write_checkpoint


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
    vision = convert_backbone(backbone)
    say(f"reading {dinotxt}")
    text, head = convert_dinotxt(dinotxt, text_num_attention_heads)
    _refuse_other_width(vision.config, text.config, head.width, os.fspath(backbone), os.fspath(dinotxt))
    parts = [vision, text]
    if prior is not None:
        say(f"reading {prior}")
        parts.append(convert_prior(prior, prior_image_size))
    processor = _make_processor(tokenizer, vision.config.patch_size, text.config)

    config = Dinov3SegConfig(
        vision_config=_architecture(vision.config),
        text_config=_architecture(text.config),
        prior_config=None if prior is None else _architecture(parts[-1].config),
        head="dinotxt",
        vision_head_num_layers=head.num_layers,
        vision_head_intermediate_size=head.intermediate_size,
    )
    say("putting the model together")
    model, new = assemble_model(config, [part.tensors for part in parts], getattr(torch, dtype), seed)
    given = {"backbone": backbone, "dinotxt": dinotxt, "prior": prior, "tokenizer": tokenizer}
    report = _report(output, given, parts, config, model, new, dtype)
    say(f"writing {output}")
    write_checkpoint(model, processor, report, output, max_shard_size)
    return report


def _report(
    output: Path,
    given: dict[str, Source | None],
    parts: list[Part],
    config: Dinov3SegConfig,
    model: Dinov3SegForSemanticSegmentation,
    new: dict[str, list[str]],
    dtype: str,
) -> ConversionReport:
    notes = [note for part in parts for note in part.notes]
    notes.append('head="dinotxt" in the configuration: zero-shot, without the parts to be trained.')
    if given["tokenizer"] is None:
        notes.append("No tokenizer: weights and image processor only. To segment from words, give one.")
    return ConversionReport(
        output=str(output),
        files={role: "none" if source is None else _public_name(source) for role, source in given.items()},
        keys=[key for part in parts for key in part.keys],
        new=new,
        sizes=_sizes(config),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=dtype,
        notes=notes,
    )


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
    if not (output / CONVERSION_REPORT).is_file():
        raise ValueError(
            f"output {output} is no earlier conversion (it has no {CONVERSION_REPORT}), so it is kept. Give another "
            "folder."
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


def _make_processor(tokenizer: str | None, patch_size: int, text_config: CLIPTextConfig) -> Any:
    """The processor; without a tokenizer, the image processor alone."""
    image_processor = Dinov3SegImageProcessorPil(size_divisor=patch_size)
    if tokenizer is None:
        return image_processor
    loaded = load_clip_tokenizer(tokenizer, text_config)
    given = (max(loaded.get_vocab().values()) + 1, loaded.bos_token_id, loaded.eos_token_id)
    expected = (text_config.vocab_size, text_config.bos_token_id, text_config.eos_token_id)
    if given != expected:
        raise ValueError(
            f"tokenizer {tokenizer}: number of tokens, start-of-text and end-of-text are {given}, but {expected} in "
            "the text tower. Give CLIP's vocabulary, for example openai/clip-vit-large-patch14."
        )
    loaded.model_max_length = text_config.max_position_embeddings
    return Dinov3SegProcessor(image_processor, loaded)


__all__ = ["convert"]
