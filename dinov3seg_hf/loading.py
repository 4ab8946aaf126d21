# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Loads a model from the name of a checkpoint (see `checkpoint_names.py`); errors contain a remedy.

Pipelines, training and publishing use only this module to load checkpoints.
"""

import difflib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoProcessor, pipeline

from .checkpoint_names import is_embedded, resolve_checkpoint
from .file_names import CONVERSION_REPORT, LICENSES, PART_LICENSES
from .hub_connection import at_hand
from .model.checks import TokenizerWarning, first_line, load_json, plain_reason
from .model.configuration_dinov3seg import Dinov3SegConfig
from .model.files import is_of_full_disk
from .model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .model.pipeline import TASK, OpenVocabularySegmentationPipeline
from .model.processing_dinov3seg import Dinov3SegProcessor
from .model.yaml_text import load_yaml
from .registration import register

register()  # the Auto classes and `pipeline` load checkpoints

# Prefixes of all tensors that are not in the head; these tensors are always copied.
_ENCODER_KEYS = ("vision_model.", "text_model.", "semantic_prior.encoder.", "logit_scale")
# Tensors with an axis for the two halves of the text embeddings, [global, local], and the index of this axis.
_HALVES = {
    "correlation_embedding.text_threshold.weight": 0,
    "correlation_embedding.convolution.weight": 1,
    "decoder.correlation_weight": 0,
}
# The files of a tokenizer, its words first.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# The values of the configuration that do not affect the encoders; a fresh head may have others than the checkpoint.
HEAD_VALUES = (
    *("early_hidden_size", "early_num_attention_heads", "early_refinement_scale", "refine_features"),
    *("correlation_hidden_size", "correlation_kernel_size", "late_num_layers", "late_window_size"),
    *("late_num_attention_heads", "late_mlp_ratio", "guidance_hidden_size"),
    *("decoder_hidden_sizes", "decoder_prior_sizes", "class_chunk_size", "initializer_range"),
)


# --- models and processors --------------------------------------------------------------------------------------------


def load_model(
    name: str | os.PathLike,
    dtype: str | torch.dtype = "auto",
    *,
    required: tuple[str, ...] = ("",),
    **options: Any,
) -> Dinov3SegForSemanticSegmentation:
    """Loads the model of a checkpoint.

    Args:
        name: See `resolve_checkpoint`.
        dtype: Dtype of the weights; `"auto"`: the dtype of the checkpoint.
        required: Prefixes of the tensors that the checkpoint must contain; other missing tensors are initialized.
        **options: Passed to `from_pretrained`, for example `local_files_only`.

    Raises:
        ValueError: If the checkpoint does not exist, has another architecture, or lacks required tensors.
    """
    return _load_model(name, _at_hand(name, options), dtype, required, options)


def _load_model(
    name: str | os.PathLike, folder: str, dtype: str | torch.dtype, required: tuple[str, ...], options: dict[str, Any]
) -> Dinov3SegForSemanticSegmentation:
    try:
        config = AutoConfig.from_pretrained(folder, **_of_the_hub(options))
        if not isinstance(config, Dinov3SegConfig):
            raise ValueError(
                f"its architecture is {config.model_type!r}; expected 'dinov3seg'. Convert published dino.txt weights "
                "with `dinov3seg convert`."
            )
        loaded = Dinov3SegForSemanticSegmentation.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, **options
        )
        # with `output_loading_info`, the result is a pair, which its type does not include
        model, report = cast(tuple[Dinov3SegForSemanticSegmentation, dict[str, Any]], loaded)
    except Exception as error:  # transformers raises many types of errors for missing and invalid files
        raise _not_loaded(name, error) from error
    if missing := sorted(key for key in report["missing_keys"] if key.startswith(required)):
        raise ValueError(  # transformers would initialize these tensors randomly
            f"The weights of {os.fspath(name)!r} lack {len(missing)} of the model's tensors, for example {missing[0]}. "
            "Convert, download or save the whole model again."
        )
    return model


def load_processor(name: str | os.PathLike, **options: Any) -> Dinov3SegProcessor:
    """Loads the image processor and the tokenizer of a checkpoint.

    Args:
        name: See `resolve_checkpoint`.
        **options: Passed to `from_pretrained`, for example `local_files_only`.

    Raises:
        ValueError: If the checkpoint does not exist or does not have a tokenizer (needed to encode class names).
    """
    folder = _at_hand(name, options)
    try:
        processor = AutoProcessor.from_pretrained(folder, **options)
    except Exception as error:
        raise _not_loaded(name, error) from error
    if not isinstance(processor, Dinov3SegProcessor) or not _has_words(processor):
        raise ValueError(
            f"{os.fspath(name)!r} does not contain a tokenizer, which is needed to encode class names. Convert the "
            "published weights again with --tokenizer."
        )
    return processor


def _has_words(processor: Any) -> bool:
    """Whether a processor has a tokenizer with more than special tokens, all that it has without its vocabulary."""
    tokenizer = getattr(processor, "tokenizer", None)
    return tokenizer is not None and len(tokenizer) > len(set(tokenizer.all_special_tokens))


def _warn_of_damaged_tokenizer(name: str | os.PathLike, folder: str) -> None:
    files = {file: path for file in TOKENIZER_FILES if (path := _find_in(folder, file)) is not None}
    if not files:
        return  # converted without a tokenizer
    reason = f"{TOKENIZER_FILES[0]} is " + ("no tokenizer of this model" if TOKENIZER_FILES[0] in files else "missing")
    for file, path in files.items():
        try:
            Tokenizer.from_file(str(path)) if file == TOKENIZER_FILES[0] else load_json(path.read_bytes())
        except Exception as error:  # the library tokenizers has no class for its errors
            reason = f"{file} is damaged: {first_line(error)}"
    warnings.warn(
        f"The tokenizer of {os.fspath(name)!r} cannot be read ({reason}), so the pipeline takes text embeddings, not "
        "words. Download the checkpoint again, or convert it again with --tokenizer.",
        TokenizerWarning,
        stacklevel=3,
    )


def _at_hand(name: str | os.PathLike, options: dict[str, Any]) -> str:
    """The folder or Hub id to load. Asks the Hub once, so that an error takes no minutes.

    Raises:
        ValueError: If it is a Hub id, and there is neither a connection nor an earlier download.
    """
    folder = resolve_checkpoint(name)
    if Path(folder).is_dir() or {"local_files_only", "cache_dir"} & options.keys():
        return folder
    try:
        return at_hand(folder, options.get("revision"))
    except ValueError as error:
        raise ValueError(f"The checkpoint {os.fspath(name)!r} cannot be loaded: {error}.") from error


def _of_the_hub(options: dict[str, Any]) -> dict[str, Any]:
    """The options for weights that also apply to a configuration."""
    return {key: value for key, value in options.items() if key in ("local_files_only", "revision", "token")}


def _not_loaded(name: str | os.PathLike, error: Exception) -> ValueError:
    name = os.fspath(name)
    if is_of_full_disk(error):
        return ValueError(
            f"The checkpoint {name!r} cannot be stored in the cache: No space left on device. Free disk space, or set "
            "HF_HOME to a folder on another disk. Then run the same command again."
        )
    return ValueError(
        f"The checkpoint {name!r} cannot be loaded: {plain_reason(error)}. Expected a folder or Hub id of a dinov3.seg "
        "checkpoint."
    )


def license_files(name: str | os.PathLike) -> list[Path]:
    """Returns the license files of a checkpoint, which go with every copy and derivative; empty if it has none.

    That of the weights is the first; those of SAM and AnyUp follow.

    Args:
        name: See `resolve_checkpoint`. Of a Hub id, only files that can be downloaded, or were, are found.

    Raises:
        ValueError: If a license is a link to a file elsewhere, whose content would go with every copy.
    """
    folder = resolve_checkpoint(name)
    if is_embedded(name):
        return []  # of this package, under the license of its code
    names = (*LICENSES, *(name for files in PART_LICENSES.values() for name in files))
    place = _place_of_files(name)
    licenses = [path for file in names if (path := _find_in(place, file)) is not None]
    for path in licenses if Path(folder).is_dir() else ():
        if leads_outside(path, Path(folder)):
            raise ValueError(
                f"The license {str(path)!r} is a link to a file outside of the folder. Put a copy in its place."
            )
    return licenses


def find_file(name: str | os.PathLike, file: str) -> Path | None:
    """Returns the path of a file that a checkpoint may have; `None` if it is not found.

    Args:
        name: See `resolve_checkpoint`. Of a Hub id, only files that can be downloaded, or were, are found.
        file: Name of the file.
    """
    return _find_in(_place_of_files(name), file)


def _place_of_files(name: str | os.PathLike) -> str | None:
    """The folder or Hub id; `None` if the Hub cannot be reached and nothing was downloaded. Asks the Hub once."""
    folder = resolve_checkpoint(name)
    try:
        return folder if Path(folder).is_dir() or is_offline_mode() else at_hand(folder)
    except ValueError:
        return None


def _find_in(place: str | None, file: str) -> Path | None:
    if place is None:
        return None
    if Path(place).is_dir():
        return path if (path := Path(place) / file).is_file() else None
    try:
        return Path(hf_hub_download(place, file))
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None


def licenses_of_copy(folder: Path) -> list[Path]:
    """Returns the license files that a published or exported copy of the weights in `folder` must contain.

    Raises:
        ValueError: If the weights are converted and have no license file.
    """
    licenses = license_files(folder)
    if (folder / CONVERSION_REPORT).is_file() and not any(path.name in LICENSES for path in licenses):
        raise ValueError(
            f"The weights in {str(folder)!r} are converted, and the folder has no license file, but their license goes "
            f"with every copy. Convert again with --license FILE, or put the file there as {LICENSES[0]}."
        )
    return licenses


def leads_outside(path: Path, folder: Path) -> bool:
    """Returns whether a file of a folder is a link to a file elsewhere; the Hub's cache has its files in `blobs`."""
    places = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    return path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in places)


# --- pipelines and training -------------------------------------------------------------------------------------------


def load_pipeline(
    name: str | os.PathLike, device: str | None = None, dtype: str | None = None
) -> OpenVocabularySegmentationPipeline:
    """Loads a checkpoint as a segmentation pipeline.

    Args:
        name: See `resolve_checkpoint`.
        device: Device of the model. Default: an accelerator if available, else the CPU.
        dtype: Dtype of the weights. Default: float32 on the CPU, because other dtypes are slow or inaccurate there, and
            the dtype of the checkpoint on other devices.

    Raises:
        ValueError: If the checkpoint cannot be loaded. Of a tokenizer that cannot be read, a `TokenizerWarning` tells:
            the pipeline then takes text embeddings only, as without a tokenizer.
    """
    folder = _at_hand(name, {})
    model = _load_model(name, folder, "auto" if dtype is None else dtype, ("",), {})
    try:
        # the tokenizer may be missing after a conversion; then the pipeline accepts only text embeddings
        pipe: OpenVocabularySegmentationPipeline = pipeline(  # type: ignore[call-overload]  # typed for other tasks
            TASK, model=model, processor=folder, image_processor=folder, device=device
        )
    except Exception as error:
        raise _not_loaded(name, error) from error
    if not _has_words(pipe.processor):
        pipe.processor = pipe.tokenizer = None
        _warn_of_damaged_tokenizer(name, folder)
    if dtype is None and pipe.device.type == "cpu":
        pipe.model.float()
    return pipe


def load_starting_point(
    init: str, head: str = "keep", ablate: Sequence[str] = (), seed: int = 0, overrides: Sequence[str] = ()
) -> tuple[Dinov3SegForSemanticSegmentation, Dinov3SegProcessor]:
    """Loads the model to train, in float32, and its processor.

    Args:
        init: See `resolve_checkpoint`.
        head: `"keep"`: the head of the checkpoint. `"fresh"`: everything after the encoders is newly initialized,
            except an early refinement that the zero-shot head uses (`refine_features`).
        ablate: Switches of the configuration to turn off; a kept head loses the corresponding parts.
        seed: Seed of a fresh head.
        overrides: Values of the configuration for a fresh head, such as `"early_refinement_scale=2"`.

    Raises:
        ValueError: If the checkpoint does not exist, has another architecture, lacks tensors, or does not have a
            tokenizer; or if an override is not a value of the head.
    """
    source = load_model(init, torch.float32, required=("",) if head == "keep" else _ENCODER_KEYS)
    model = source
    if head == "fresh" or ablate:
        config = AutoConfig.from_pretrained(_at_hand(init, {}))
        override_head(config, overrides)
        for switch in ablate:
            setattr(config, switch, False)
        config.refine_features = config.refine_features and config.use_early_refinement
        try:
            config.validate()
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"The head cannot have config_overrides {list(overrides)}: {reason}") from error
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Dinov3SegForSemanticSegmentation(config)
        kept = source.state_dict()
        if head == "fresh":
            # weights of AnyUp that were trained elsewhere are no part of the head
            given = (*_ENCODER_KEYS, "early_refinement.") if config.refine_features else _ENCODER_KEYS
            kept = {key: value for key, value in kept.items() if key.startswith(given)}
        elif source.config.use_global_text and not config.use_global_text:
            kept |= {key: kept[key].narrow(axis, 1, 1) for key, axis in _HALVES.items() if key in kept}
        model.load_state_dict(kept, strict=False)
    # converted folders select the zero-shot head, "dinotxt"
    model.config.head, model.config.head_trained = "full", True
    return model.float(), load_processor(init)


def override_head(config: Dinov3SegConfig, overrides: Sequence[str]) -> None:
    """Sets values of the configuration that belong to the head, each given as `name=value` with a YAML value.

    Raises:
        ValueError: If an override has another form, or its name is not a value of the head.
    """
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or name not in HEAD_VALUES:
            near = difflib.get_close_matches(name, HEAD_VALUES, n=1)
            raise ValueError(
                f"config_overrides contains {override!r}; expected name=value with one of {', '.join(HEAD_VALUES)}. "
                + (f"Did you mean {near[0]}?" if near else "Correct the name.")
            )
        try:
            setattr(config, name, load_yaml(text))
        except ValueError as error:
            reason = first_line(error)
            raise ValueError(f"config_overrides contains {override!r}: {reason}. Correct the value.") from error
