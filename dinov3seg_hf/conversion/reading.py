# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads published checkpoint files and folders into tensors, or raises an error that names the problem.

Never runs code from a checkpoint.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..hub_connection import at_hand
from ..model.checks import first_line, plain_reason
from .layouts import PUBLISHED_ANYUP, PUBLISHED_BACKBONE, PUBLISHED_DINOTXT, Rule, Tensors
from .report import ConvertedKey


def read_tensors(path: Path, role: str) -> Tensors:
    """Reads a flat dictionary of tensors, memory-mapped if the format allows it. Never runs code from the file."""
    what = f"{role} {path}"
    if not path.is_file():
        raise ValueError(f"{what} was not found. Check the path.")
    with path.open("rb") as file:
        start = file.read(64)
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
        elif start.startswith(b"PK\x03\x04"):  # torch.save writes a zip archive ...
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        elif start.startswith(b"\x80"):  # ... and before torch 1.6 a bare pickle, which cannot be memory-mapped
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        else:
            hint = "a web page; was the license accepted before the download?" if b"<" in start else "unknown format"
            raise ValueError(
                f"{what} is not a checkpoint ({hint}); expected .safetensors, or a file written by torch.save. "
                "Download the file again."
            )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{what} contains objects other than tensors, which could run arbitrary code when loaded. Pass the "
            "published file, or save its tensors as .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{what} is truncated or damaged ({first_line(error)}). Download the file again.") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(
            f"{what} is not a flat dictionary of tensors, unlike the published files. If the tensors are nested (under "
            "'model' or 'teacher'), save the inner dictionary as .safetensors."
        )
    return tensors


def own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """Gives a tensor its own storage, without copying contiguous values.

    Tensors that share a storage would be copied when saved, and their size would be counted only once.
    """
    array = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return torch.from_numpy(array).view(tensor.dtype).reshape(tensor.shape)


# Kinds of files, for errors that name the problem: description, matching argument, prefixes of the keys.
KINDS = (
    ("a vision head and text encoder of dino.txt", "dinotxt", ("visual_model.", "text_model.backbone.")),
    ("a DINOv3 backbone", "backbone", ("storage_tokens", "rope_embed.", "blocks.")),
    ("a file of a DINOv3 backbone for transformers (pass its folder)", None, ("embeddings.cls_token",)),
    ("a file of a SAM checkpoint for transformers (pass its folder)", None, ("vision_encoder.",)),
    ("an AnyUp checkpoint", "anyup", ("cross_decode.",)),
    ("a SAM checkpoint", "prior", ("image_encoder.",)),
    ("a checkpoint of this package (already converted)", None, ("vision_model.", "text_model.text_model.")),
)


def require_kind(tensors: Tensors, role: str, path: Path) -> None:
    for kind, belongs_to, starts in KINDS:
        if any(key.startswith(starts) for key in tensors):
            if belongs_to != role:
                remedy = f". Pass the file as {belongs_to}." if belongs_to else "; expected the published file."
                raise ValueError(f"{role} {path} is {kind}{remedy}")
            return
    first = ", ".join(list(tensors)[:3]) or "none"
    raise ValueError(f"{role} {path} is not a supported checkpoint (first keys: {first}). Pass the published file.")


def apply_rules(rules: list[Rule], tensors: Tensors, role: str, path: Path) -> tuple[Tensors, list[ConvertedKey]]:
    refuse_differences(f"{role} {path}", expected={rule.source for rule in rules}, given=set(tensors))
    converted: Tensors = {}
    for rule in rules:
        if rule.targets:
            if not tensors[rule.source].numel():
                raise ValueError(f"{role} {path}: {rule.source} is empty; expected values. Pass the published file.")
            with published_shapes(role, path):
                parts = map(own_storage, rule.compute(tensors, rule.source))
                converted.update(zip(rule.targets, parts, strict=True))
    return converted, [ConvertedKey(role, rule.source, rule.action, rule.targets, rule.reason) for rule in rules]


@contextmanager
def published_shapes(role: str, path: Path) -> Iterator[None]:
    """Says of tensors whose shapes do not fit together that the file is not the published one."""
    try:
        yield
    except (IndexError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{role} {path} has tensors of other shapes than the published layout ({plain_reason(error)}). Pass the "
            f"published files ({PUBLISHED_BACKBONE}, {PUBLISHED_DINOTXT}, {PUBLISHED_ANYUP}), unchanged."
        ) from error


def refuse_differences(what: str, expected: set[str], given: set[str]) -> None:
    differences = [
        f"{len(keys)} {kind} ({', '.join(sorted(keys)[:5])}{', ...' if len(keys) > 5 else ''})"
        for kind, keys in (("missing", expected - given), ("unexpected", given - expected))
        if keys
    ]
    if differences:
        raise ValueError(
            f"{what} has other keys than the published layout: {' and '.join(differences)}. Pass the published files "
            f"({PUBLISHED_BACKBONE}, {PUBLISHED_DINOTXT}, {PUBLISHED_ANYUP}), unchanged."
        )


@contextmanager
def quiet_library() -> Iterator[None]:
    """Turns off the progress bars and load reports of transformers, because this package prints its own."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _at_hand(source: str, role: str) -> str:
    """The folder or Hub id; without a connection, the folder of an earlier download."""
    if Path(source).expanduser().is_dir():
        return source
    try:
        return at_hand(source)
    except ValueError as error:
        raise ValueError(f"{role} {source} cannot be read: {error}.") from error


def load_library_config(source: str, role: str) -> Any:
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{role} {source} is a folder without config.json; expected a checkpoint folder or a file. Check the path."
        )
    place = _at_hand(source, role)
    try:
        return AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{role} {source} cannot be read ({first_line(error)}); expected a file, a checkpoint folder or a Hub id. "
            "Check the name. For a gated repository, accept its license on the Hub and log in with `hf auth login`."
        ) from error


def load_library_tensors(
    model_class: type[PreTrainedModel], source: str, config: Any, role: str
) -> tuple[Tensors, set[str]]:
    """Loads the tensors of a transformers model.

    Returns:
        The tensors, and the keys in its files that the model does not use.

    Raises:
        ValueError: If the weights cannot be read, or tensors are missing or have another size.
    """
    place = _at_hand(source, role)
    try:
        with quiet_library():
            loaded = model_class.from_pretrained(place, config=config, dtype="auto", output_loading_info=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{role} {source}: the weights cannot be read ({first_line(error)}). Download the checkpoint again."
        ) from error
    # with `output_loading_info`, the result is a pair, which its type does not include
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    wrong = [*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])]
    if wrong:
        raise ValueError(
            f"{role} {source} does not contain all tensors of its configuration; missing or of another size "
            f"({len(wrong)}): {', '.join(sorted(wrong)[:5])}. Download the checkpoint again."
        )
    return dict(model.state_dict()), set(info["unexpected_keys"])
