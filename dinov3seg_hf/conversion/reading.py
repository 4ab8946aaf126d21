# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Files and folders of published checkpoints to tensors, or to an error that names the mistake. Runs nobody's code."""

import os
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

from ..model.checks import first_line
from .layouts import PUBLISHED_BACKBONE, PUBLISHED_DINOTXT, Rule, Tensors
from .report import ConvertedKey

Source = str | os.PathLike


def means_file(path: Path) -> bool:
    return path.is_file() or (not path.is_dir() and path.suffix in (".pth", ".pt", ".bin", ".safetensors"))


def read_tensors(path: Path, role: str) -> Tensors:
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
        raise ValueError(f"{what} is truncated or damaged ({first_line(error)}). Download it again.") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(
            f"{what} is no flat table of tensors, as the published files are. If they lie deeper (under 'model' or "
            "'teacher'), save that table as .safetensors."
        )
    return tensors


def own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory under a storage of its own: what shares one is copied on saving, and counted once."""
    array = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return torch.from_numpy(array).view(tensor.dtype).reshape(tensor.shape)


# Tells files apart, for errors that name the mistake: what it is, where it belongs, how its keys begin.
KINDS = (
    ("a vision head and text encoder of dino.txt", "dinotxt", ("visual_model.", "text_model.backbone.")),
    ("a DINOv3 backbone", "backbone", ("storage_tokens", "rope_embed.", "blocks.")),
    ("a DINOv3 backbone in the layout of transformers; give its folder", None, ("embeddings.cls_token",)),
    ("a SAM checkpoint in the layout of transformers; give its folder", None, ("vision_encoder.",)),
    ("a SAM checkpoint", "prior", ("image_encoder.",)),
    ("a checkpoint of this package, which needs no conversion", None, ("vision_model.", "text_model.text_model.")),
)


def require_kind(tensors: Tensors, role: str, path: Path) -> None:
    for kind, belongs_to, starts in KINDS:
        if any(key.startswith(starts) for key in tensors):
            if belongs_to != role:
                remedy = f"Give it as {belongs_to}." if belongs_to else "Give the published file."
                raise ValueError(f"{role} {path} is {kind}. {remedy}")
            return
    first = ", ".join(list(tensors)[:3]) or "nothing"
    raise ValueError(f"{role} {path} is no checkpoint that is known here: it holds {first}. Give the published file.")


def apply_rules(rules: list[Rule], tensors: Tensors, role: str, path: Path) -> tuple[Tensors, list[ConvertedKey]]:
    refuse_differences(f"{role} {path}", expected={rule.source for rule in rules}, given=set(tensors))
    converted: Tensors = {}
    for rule in rules:
        if rule.targets:
            parts = map(own_storage, rule.compute(tensors, rule.source))
            converted.update(zip(rule.targets, parts, strict=True))
    return converted, [ConvertedKey(role, rule.source, rule.action, rule.targets, rule.reason) for rule in rules]


def refuse_differences(what: str, expected: set[str], given: set[str]) -> None:
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
def quiet_library() -> Iterator[None]:
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


def load_library_config(source: str, role: str) -> Any:
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"{role} {source} is a folder without config.json. Give a checkpoint folder, or a file.")
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{role} {source} is neither a file, nor a checkpoint folder, nor a Hub id that can be read "
            f"({first_line(error)}). Check the name; for a gated repository accept its license on the Hub and log in "
            "with `hf auth login`."
        ) from error


def load_library_tensors(
    model_class: type[PreTrainedModel], source: str, config: Any, role: str
) -> tuple[Tensors, set[str]]:
    """The tensors of a library model, and the keys of its files that it has no place for; missing ones are an error."""
    try:
        with quiet_library():
            loaded = model_class.from_pretrained(source, config=config, dtype="auto", output_loading_info=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{role} {source}: its weights cannot be read ({first_line(error)}). Download them again."
        ) from error
    # asked for what it found, it gives a pair, which its type leaves out
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    wrong = [*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])]
    if wrong:
        raise ValueError(
            f"{role} {source} lacks {len(wrong)} tensors of its own configuration, or has them in other sizes: "
            f"{', '.join(sorted(wrong)[:5])}. Download it again."
        )
    return dict(model.state_dict()), set(info["unexpected_keys"])
