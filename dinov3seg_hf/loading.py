# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A checkpoint as people name it (folder, Hub id, training run, `embedded`) to a model, or to an error with a remedy.

The one loader of checkpoints: for pipelines, for training, for publishing.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoProcessor, pipeline

from .about import EMBEDDED, EMBEDDED_TITLE, TINY
from .file_names import RUN_DESCRIPTION, TRAINED_MODEL
from .model.checks import first_line
from .model.configuration_dinov3seg import Dinov3SegConfig
from .model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .model.pipeline import TASK, OpenVocabularySegmentationPipeline
from .model.processing_dinov3seg import Dinov3SegProcessor

# Everything that is not the head: copied whatever the head.
_ENCODER_KEYS = ("vision_model.", "text_model.", "semantic_prior.encoder.", "logit_scale")
# Tensors with a place for each half of the text embeddings, [global, local], and the axis of it.
_HALVES = {
    "correlation_embedding.text_threshold.weight": 0,
    "correlation_embedding.convolution.weight": 1,
    "decoder.correlation_weight": 0,
}


# --- names ------------------------------------------------------------------------------------------------------------


def resolve_checkpoint(name: str | os.PathLike) -> str:
    """The folder or Hub id that holds the model.

    Args:
        name: A folder, a Hub id, the folder of a finished training run, or `"embedded"`.

    Raises:
        ValueError: It is none of these, or the run is not finished. The network is not asked.
    """
    name = os.fspath(name)
    if name == EMBEDDED:
        return TINY
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not is_hub_id(name):  # a slip, and not worth asking the network
            raise ValueError(
                f"There is no checkpoint folder {name!r} (now in {os.getcwd()!r}). Check the path, or give a Hub id "
                "such as owner/name."
            )
        return name
    if (folder / RUN_DESCRIPTION).exists() and not (folder / "config.json").exists():
        if not (folder / TRAINED_MODEL).is_dir():
            raise ValueError(
                f"The run in {name!r} is not finished, so it has no model yet. Finish it with --resume first."
            )
        folder /= TRAINED_MODEL
    if not (folder / "config.json").exists():
        raise ValueError(
            f"The folder {name!r} has no config.json; expected what `dinov3seg convert` or a finished run wrote."
        )
    return str(folder)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def is_embedded(name: str | os.PathLike) -> bool:
    """Whether a name stands for the checkpoint inside the package."""
    return os.fspath(name) == EMBEDDED or Path(name).resolve() == Path(TINY).resolve()


def title_of(name: str | os.PathLike) -> str:
    """What results and pages call a checkpoint."""
    return EMBEDDED_TITLE if is_embedded(name) else os.fspath(name)


# --- parts ------------------------------------------------------------------------------------------------------------


def load_model(
    name: str | os.PathLike,
    dtype: str | torch.dtype = "auto",
    *,
    required: tuple[str, ...] = ("",),
    **options: Any,
) -> Dinov3SegForSemanticSegmentation:
    """Loads the weights.

    Args:
        name: See `resolve_checkpoint`.
        dtype: Of the weights; `"auto"`: that of the checkpoint.
        required: Beginnings of the names of tensors that have to be there; others may be missing, and are initialized.
        **options: For `from_pretrained`, such as `local_files_only`.

    Raises:
        ValueError: There is no such checkpoint, it is of another architecture, or lacks tensors.
    """
    folder = resolve_checkpoint(name)
    try:
        config = AutoConfig.from_pretrained(folder, **_of_the_hub(options))
        if not isinstance(config, Dinov3SegConfig):
            raise ValueError(
                f"it is a checkpoint of another architecture, {config.model_type!r}, not 'dinov3seg'. Published "
                "dino.txt weights become one by `dinov3seg convert`."
            )
        loaded = Dinov3SegForSemanticSegmentation.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, **options
        )
        # asked for what it found, it gives a pair, which its type leaves out
        model, report = cast(tuple[Dinov3SegForSemanticSegmentation, dict[str, Any]], loaded)
    except Exception as error:  # the library reports what it does not find or understand in many ways
        raise _not_loaded(name, error) from error
    if missing := sorted(key for key in report["missing_keys"] if key.startswith(required)):
        raise ValueError(  # the library would go on with random numbers
            f"The weights of {os.fspath(name)!r} lack {len(missing)} of the model's tensors, such as {missing[0]}. "
            "Convert, download or save the whole model again."
        )
    return model


def load_processor(name: str | os.PathLike, **options: Any) -> Dinov3SegProcessor:
    """Loads image processor and tokenizer.

    Args:
        name: See `resolve_checkpoint`.
        **options: For `from_pretrained`, such as `local_files_only`.

    Raises:
        ValueError: There is no such checkpoint, or it has no tokenizer, without which no word can be read.
    """
    folder = resolve_checkpoint(name)
    try:
        processor = AutoProcessor.from_pretrained(folder, **options)
    except Exception as error:
        raise _not_loaded(name, error) from error
    if not isinstance(processor, Dinov3SegProcessor) or processor.tokenizer is None:
        raise ValueError(
            f"{os.fspath(name)!r} has no tokenizer, without which no class name can be read. Convert it with "
            "--tokenizer."
        )
    return processor


def _of_the_hub(options: dict[str, Any]) -> dict[str, Any]:
    """Of the options for weights, those that a configuration takes too."""
    return {key: value for key, value in options.items() if key in ("local_files_only", "revision", "token")}


def _not_loaded(name: str | os.PathLike, error: Exception) -> ValueError:
    name = os.fspath(name)
    if _disk_was_full(error):
        return ValueError(
            f"The checkpoint {name!r} cannot be kept in the cache: No space left on device. Make room, or set HF_HOME "
            "to a folder where there is some; then run the same command again."
        )
    return ValueError(
        f"The checkpoint {name!r} cannot be loaded: {first_line(error)}. Expected a folder or Hub id of a dinov3.seg "
        "checkpoint."
    )


def _disk_was_full(error: BaseException | None) -> bool:
    """Whether that is what the library's error began with."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


# --- wholes -----------------------------------------------------------------------------------------------------------


def load_pipeline(
    name: str | os.PathLike, device: str | None = None, dtype: str | None = None
) -> OpenVocabularySegmentationPipeline:
    """Loads a checkpoint to segment with.

    Args:
        name: See `resolve_checkpoint`.
        device: An accelerator if there is one, unless given.
        dtype: The checkpoint's unless given; float32 on the CPU, which computes slowly or badly in others.

    Raises:
        ValueError: It cannot be loaded.
    """
    model = load_model(name, "auto" if dtype is None else dtype)
    folder = resolve_checkpoint(name)
    try:
        # without a tokenizer, as a conversion may be, it takes text embeddings
        pipe: OpenVocabularySegmentationPipeline = pipeline(  # type: ignore[call-overload]  # typed for its own tasks
            TASK, model=model, processor=folder, image_processor=folder, device=device
        )
    except Exception as error:
        raise _not_loaded(name, error) from error
    if dtype is None and pipe.device.type == "cpu":
        pipe.model.float()
    return pipe


def load_starting_point(
    init: str, head: str = "keep", ablate: Sequence[str] = (), seed: int = 0
) -> tuple[Dinov3SegForSemanticSegmentation, Dinov3SegProcessor]:
    """Loads the model to be trained, in float32, and its processor.

    Args:
        init: See `resolve_checkpoint`.
        head: `"keep"` or `"fresh"`: newly initialized after the encoders.
        ablate: Switches of the configuration to turn off; a head that is kept loses those parts.
        seed: Of a fresh head.

    Raises:
        ValueError: There is no such checkpoint, it is of another architecture, lacks tensors, or has no tokenizer.
    """
    source = load_model(init, torch.float32, required=("",) if head == "keep" else _ENCODER_KEYS)
    model = source
    if head == "fresh" or ablate:
        config = AutoConfig.from_pretrained(resolve_checkpoint(init))
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
    return model.float(), load_processor(init)
