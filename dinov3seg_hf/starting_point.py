# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What a training run starts from: a converted dino.txt folder, an earlier run's output, a Hub id, or `embedded`.

Knows checkpoints, and nothing of data or of training.
"""

import os
import re
from collections.abc import Sequence

import torch
from transformers import AutoConfig, AutoProcessor

from . import TINY
from .configuration_dinov3seg import Dinov3SegConfig
from .modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .processing_dinov3seg import Dinov3SegProcessor
from .run_files import first_line, model_of_run

EMBEDDED = "embedded"
# Everything that is not the head: copied whatever the head.
_ENCODER_KEYS = ("vision_model.", "text_model.", "semantic_prior.encoder.", "logit_scale")
# Tensors with a place for each half of the text embeddings, [global, local], and the axis of it.
_HALVES = {
    "correlation_embedding.text_threshold.weight": 0,
    "correlation_embedding.convolution.weight": 1,
    "decoder.correlation_weight": 0,
}


def load_starting_point(
    init: str, head: str = "keep", ablate: Sequence[str] = (), seed: int = 0
) -> tuple[Dinov3SegForSemanticSegmentation, Dinov3SegProcessor]:
    """Loads the model to be trained, in float32, and its processor.

    Args:
        init: Folder or Hub id; `"embedded"` is the checkpoint inside the package.
        head: `"keep"` or `"fresh"`: newly initialized after the encoders.
        ablate: Switches of the configuration to turn off; a head that is kept loses those parts.
        seed: Of a fresh head.

    Raises:
        ValueError: There is no such checkpoint, it is of another architecture, lacks tensors, or has no tokenizer.
    """
    init = _resolve(init)
    config = _load_config(init)
    try:
        source, report = Dinov3SegForSemanticSegmentation.from_pretrained(
            init, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the library reports what it does not find or understand in many ways
        raise ValueError(f"The weights in {init!r} cannot be loaded: {first_line(error)}.") from error
    missing = sorted(key for key in report["missing_keys"] if head == "keep" or key.startswith(_ENCODER_KEYS))
    if missing:
        raise ValueError(
            f"The checkpoint {init!r} lacks {len(missing)} tensors of its own architecture, such as {missing[0]}. "
            "Convert or download it again."
        )
    model = source
    if head == "fresh" or ablate:
        for switch in ablate:
            setattr(config, switch, False)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Dinov3SegForSemanticSegmentation(config)
        kept = source.state_dict()
        if head == "fresh":
            kept = {key: value for key, value in kept.items() if key.startswith(_ENCODER_KEYS)}
        elif source.config.use_global_text and not config.use_global_text:
            kept |= {key: kept[key].narrow(axis, 1, 1) for key, axis in _HALVES.items()}
        model.load_state_dict(kept, strict=False)
    model.config.head = "full"  # a converted folder has the zero-shot head until the full one is trained
    return model.float(), _load_processor(init)


def _resolve(init: str) -> str:
    """The folder or Hub id that holds the model."""
    return TINY if init == EMBEDDED else model_of_run(init)


def _load_config(init: str) -> Dinov3SegConfig:
    if os.path.isdir(init):
        if not os.path.exists(os.path.join(init, "config.json")):
            raise ValueError(
                f"The folder {init!r} has no config.json; expected what `dinov3seg convert` or a finished run wrote."
            )
    elif not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", init):  # not worth asking the network
        raise ValueError(f"There is no folder {init!r} (now in {os.getcwd()!r}). Check the path, or give a Hub id.")
    try:
        config = AutoConfig.from_pretrained(init)
    except Exception as error:
        raise ValueError(f"The configuration of {init!r} cannot be loaded: {first_line(error)}.") from error
    if not isinstance(config, Dinov3SegConfig):
        raise ValueError(
            f"{init!r} is a checkpoint of another architecture, {config.model_type!r}; expected 'dinov3seg'. Published "
            "dino.txt weights become one by `dinov3seg convert`."
        )
    return config


def _load_processor(init: str) -> Dinov3SegProcessor:
    try:
        processor = AutoProcessor.from_pretrained(init)
    except Exception as error:
        raise ValueError(f"The processor of {init!r} cannot be loaded: {first_line(error)}.") from error
    if getattr(processor, "tokenizer", None) is None:
        raise ValueError(
            f"{init!r} has no tokenizer, without which no class name can be read. Convert it with --tokenizer."
        )
    return processor
