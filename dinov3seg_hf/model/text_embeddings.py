# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Text embeddings: encodes the prompts of a vocabulary once, and saves and loads the result.

`encode_classes` is the only loop that encodes text. `TextEmbeddings` contain the fingerprints of their vocabulary and
their model, and raise an error if they are used with others.

Shapes: C classes, P prompts per class, L tokens per prompt, D channels of a text half; 2 halves, global and local.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from huggingface_hub import parse_local_safetensors_file_metadata, save_torch_state_dict
from huggingface_hub.errors import SafetensorsParsingError
from huggingface_hub.utils import tqdm

from .calibration import Calibration
from .checks import checked_flag, checked_integer, checked_path, is_number, load_json, plain_reason, quoted
from .files import disk_errors_as_value_errors, write_atomically
from .fingerprints import TextEncoder, model_fingerprint, sha256_of
from .tensor_checks import checked_device, checked_tensor
from .tokenization import stack_prompts, tokenize_prompts

# What the header of a damaged file raises.
DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


class NamedVocabulary(Protocol):
    """The properties of a `Vocabulary` that are compared."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str: ...


def encode_classes(
    model: TextEncoder,
    tokenizer: Any,
    prompts: Sequence[Sequence[str]],
    *,
    labels: Sequence[int] | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Encodes every class once.

    Classes with the same number of prompts and similar lengths share a batch, so there is almost no padding.

    Args:
        model: A model with `text_model` and `get_text_features(input_ids (C, P, L), attention_mask (C, P, L)) -> (C, 2,
            D)`.
        tokenizer: The tokenizer of the text tower.
        prompts: The prompts of each of C classes.
        labels: The labels of the classes in error messages. Default: 0, 1, ...
        batch_size: Maximum number of prompts per batch; a class with more prompts gets its own batch.
        device: Device for the token ids. `None`: the device of the text tower.
        progress: Whether to show a progress bar.

    Returns:
        `(C, 2, D)`, float32, on the CPU: [global, local] of each class, of unit length.

    Raises:
        ValueError: If a prompt is too long for the text tower (prompts are never truncated), or an embedding is not
            finite.
    """
    if checked_integer(batch_size, "batch_size") < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    checked_flag(progress, "progress")
    text_model = model.text_model
    device = checked_device(device)
    if device is None:
        device = next(text_model.parameters()).device
    limit = _token_limit(tokenizer, text_model)
    token_ids = tokenize_prompts(tokenizer, prompts, limit, labels)

    lengths = [max(map(len, of_class)) for of_class in token_ids]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), lengths[i]))
    batches: list[list[int]] = []
    for i in order:
        num_prompts = len(prompts[i])
        fits = batches and len(prompts[batches[-1][0]]) == num_prompts
        if fits and (len(batches[-1]) + 1) * num_prompts <= batch_size:
            batches[-1].append(i)
        else:
            batches.append([i])

    was_training = text_model.training
    text_model.eval()  # dropout would make the embeddings random
    try:
        features = []
        for batch in tqdm(batches, desc="Encoding the vocabulary", unit="batch", disable=not progress):
            tables = stack_prompts(
                [token_ids[i] for i in batch], tokenizer.pad_token_id or 0
            )  # input_ids and attention_mask, (C', P, L)
            with torch.inference_mode():
                batch_features = model.get_text_features(*(torch.from_numpy(table).to(device) for table in tables))
            features.append(batch_features.float().cpu())  # (C', 2, D)
    finally:
        text_model.train(was_training)
    # outside of inference mode, because training may use the tensor
    unordered = torch.cat(features)
    tensor = torch.empty_like(unordered)
    tensor[order] = unordered
    if not (finite := tensor.isfinite().flatten(1).all(1)).all():
        index = int(finite.int().argmin())
        raise ValueError(
            f"The embedding of {quoted(prompts[index][0])} (label {index if labels is None else labels[index]}) is not "
            "finite. Load the model in float32 or bfloat16."
        )
    return tensor


def _token_limit(tokenizer: Any, text_model: Any) -> int:
    if not is_number(tokenizer.model_max_length, 1):
        raise ValueError(
            f"model_max_length of the tokenizer is {quoted(tokenizer.model_max_length)}; expected a number of tokens. "
            "Restore tokenizer_config.json."
        )
    return int(min(tokenizer.model_max_length, text_model.config.max_position_embeddings))


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be stored; halves of characters cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """The text embeddings of a vocabulary, made by one model.

    Args:
        tensor: `(C, 2, D)`, float32, normalized: [global, local] of each class; `text_embeds` of the model's `forward`.
        names: The C display names.
        vocabulary_fingerprint: The fingerprint of the encoded vocabulary.
        model_fingerprint: The fingerprint of the model.
        calibration: The calibration of the vocabulary, if it has one.

    Raises:
        ValueError: If the shape or the dtype of the tensor is invalid.
    """

    tensor: torch.Tensor
    names: tuple[str, ...]
    vocabulary_fingerprint: str
    model_fingerprint: str
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.names, (list, tuple)) or not all(map(_is_text, self.names)):
            raise ValueError(f"names is {quoted(self.names)}; expected one string per class. Encode the classes again.")
        for what in ("vocabulary_fingerprint", "model_fingerprint"):
            if not _is_text(getattr(self, what)):
                raise ValueError(
                    f"{what} is {quoted(getattr(self, what))}; expected the text of a fingerprint. Encode the classes "
                    "again."
                )
        checked_tensor(self.tensor, "The tensor of the text embeddings", "floats")
        if self.calibration is not None:
            object.__setattr__(self, "calibration", Calibration.of(self.calibration))
        if self.tensor.ndim != 3 or self.tensor.shape[:2] != (len(self.names), 2) or self.tensor.dtype != torch.float32:
            raise ValueError(
                f"The text embeddings have shape {tuple(self.tensor.shape)} and dtype {self.tensor.dtype}; expected "
                f"shape ({len(self.names)}, 2, D) and float32 for {len(self.names)} names. Encode the vocabulary again."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 (hex) of the vocabulary and the model."""
        return sha256_of([self.vocabulary_fingerprint, self.model_fingerprint])

    def _checksum(self) -> str:
        """Returns the SHA-256 (hex) of the whole content.

        The fingerprints describe what was encoded, not the content of a file.
        """
        values = self.tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        content = [self.names, self.fingerprint, hashlib.sha256(values.data).hexdigest()]
        return sha256_of(content if self.calibration is None else [*content, self.calibration.to_dict()])

    def check(self, model: TextEncoder, vocabulary: NamedVocabulary | None = None) -> None:
        """Checks that this model and, if given, this vocabulary were encoded.

        Reads all weights of the text tower (about one second per gigabyte). Call this method once, not for every image.

        Raises:
            ValueError: If the embeddings belong to another model or another vocabulary; the message says which.
        """
        if vocabulary is not None and vocabulary.fingerprint != self.vocabulary_fingerprint:
            raise ValueError(
                "The text embeddings belong to another vocabulary: "
                f"{_difference(self.names, vocabulary.names)}. "
                "Encode the vocabulary with vocabulary.encode(model, processor)."
            )
        if (other := model_fingerprint(model)) != self.model_fingerprint:
            raise ValueError(
                "The text embeddings were made by another model: the fingerprint of its text tower is "
                f"{self.model_fingerprint[:12]}, that of this model is {other[:12]}. Encode the vocabulary with this "
                "model. The same weights in another dtype count as another model."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file atomically: the tensor `text_embeds`, and names and fingerprints as metadata.

        Raises:
            ValueError: If the path cannot be written.
        """
        metadata = {
            "format": "pt",
            "content": "dinov3seg text embeddings",
            "names": json.dumps(self.names, ensure_ascii=False),
            "vocabulary_fingerprint": self.vocabulary_fingerprint,
            "model_fingerprint": self.model_fingerprint,
            "fingerprint": self.fingerprint,
            "checksum": self._checksum(),
        }
        if self.calibration is not None:
            metadata["calibration"] = json.dumps(self.calibration.to_dict())
        remedy = "Free disk space in the folder of temporary files, or set TMPDIR to another one."
        with disk_errors_as_value_errors("The text embeddings", remedy), tempfile.TemporaryDirectory() as folder:
            save_torch_state_dict({"text_embeds": self.tensor.detach().cpu()}, folder, metadata=metadata)
            (file,) = Path(folder).iterdir()
            write_atomically(path, file.read_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TextEmbeddings":
        """Reads a file that `save` wrote. Use `check` to find out whether the embeddings belong to a model.

        Raises:
            ValueError: If the file cannot be read, contains other data, or was changed.
        """
        where = f"The text embeddings file {str(path)!r}"
        try:
            header = parse_local_safetensors_file_metadata(Path(checked_path(path, "The file of text embeddings")))
            content = Path(path).read_bytes()
        except (OSError, SafetensorsParsingError, *DAMAGED) as error:
            raise ValueError(
                f"{where} cannot be read as safetensors: {plain_reason(error)}. Check the path, or encode "
                "the classes again."
            ) from error
        metadata = header.metadata if isinstance(header.metadata, dict) else {}
        if metadata.get("content") != "dinov3seg text embeddings" or set(header.tensors) != {"text_embeds"}:
            raise ValueError(f"{where} contains other data; expected a file of TextEmbeddings.save. Check the path.")
        info = header.tensors["text_embeds"]
        # file layout: the length of the header in 8 bytes, the header, the values of the only tensor
        values = content[8 + int.from_bytes(content[:8], "little") :]
        if info.dtype != "F32" or len(values) != 4 * info.parameter_count:
            raise ValueError(
                f"{where} cannot be read as safetensors: it has {len(values)} bytes for {info.parameter_count} values "
                f"of dtype {info.dtype}. Check the path, or encode the classes again."
            )
        try:
            embeddings = cls(
                torch.from_numpy(np.frombuffer(values, np.dtype("<f4")).reshape(info.shape).astype(np.float32)),
                tuple(load_json(metadata["names"])),
                metadata["vocabulary_fingerprint"],
                metadata["model_fingerprint"],
                Calibration.of(load_json(metadata["calibration"])) if "calibration" in metadata else None,
            )
        except DAMAGED as error:
            raise ValueError(
                f"{where} has incomplete or invalid metadata ({plain_reason(error)}). Encode the classes again."
            ) from error
        if metadata.get("checksum") != embeddings._checksum():
            raise ValueError(f"{where} has a wrong checksum: it was changed or damaged. Encode the classes again.")
        return embeddings


def checked_embeddings(text: Any) -> TextEmbeddings:
    """Returns the value if it is a `TextEmbeddings`, of the package or of the Hub's code.

    Raises:
        ValueError: If it is something else.
    """
    if not all(hasattr(text, name) for name in ("tensor", "names", "fingerprint", "model_fingerprint")):
        raise ValueError(
            f"The labels are {quoted(text)} of type {type(text).__name__}; expected text embeddings. Encode the labels "
            "first, with encode_labels of the pipeline."
        )
    return text


def _difference(had: Sequence[str], given: Sequence[str]) -> str:
    if len(had) != len(given):
        return f"the embeddings have {len(had)} classes, and the vocabulary has {len(given)}"
    for i, (one, other) in enumerate(zip(had, given)):
        if one != other:
            return f"label {i} is {quoted(one)} in the embeddings and {quoted(other)} in the vocabulary"
    return "the names are equal, but synonyms or templates differ"
