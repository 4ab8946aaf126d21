# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Text embeddings: prompts through the text tower, once a vocabulary, and what is kept of it.

`encode_classes` is the only loop that encodes text. `TextEmbeddings` carry the fingerprints of the vocabulary and of
the model they were made of, and refuse to be used with another.
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

from .checks import checked_integer, quoted
from .files import write_atomically
from .fingerprints import TextEncoder, model_fingerprint, sha256_of
from .tokenization import stack_prompts, tokenize_prompts


class NamedVocabulary(Protocol):
    """What is compared of a `Vocabulary`."""

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

    Classes with the same number of prompts and similar lengths go together, so that next to nothing is padded.

    Args:
        model: Has `text_model` and `get_text_features(input_ids (C, P, L), attention_mask (C, P, L)) -> (C, 2, D)`.
        tokenizer: Of the text tower.
        prompts: For each of C classes its prompts.
        labels: What errors call the classes; 0, 1, ... unless given.
        batch_size: Prompts at once, at most; a class that has more goes alone.
        device: Where the token ids go. `None`: where the text tower is.
        progress: Shows a bar.

    Returns:
        `(C, 2, D)`, float32, on the CPU: [global, local] of each class, of unit length.

    Raises:
        ValueError: A prompt longer than the text tower reads (none is cut short), or results that are not finite.
    """
    if checked_integer(batch_size, "batch_size") < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    text_model = model.text_model
    if device is None:
        device = next(text_model.parameters()).device
    limit = min(tokenizer.model_max_length, text_model.config.max_position_embeddings)
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
    text_model.eval()  # dropout would make embeddings of chance
    try:
        features = []
        for batch in tqdm(batches, desc="Encoding the vocabulary", unit="batch", disable=not progress):
            tables = stack_prompts([token_ids[i] for i in batch], tokenizer.pad_token_id or 0)  # (C', P, L) twice
            with torch.inference_mode():
                batch_features = model.get_text_features(*(torch.from_numpy(table).to(device) for table in tables))
            features.append(batch_features.float().cpu())  # (C', 2, D)
    finally:
        text_model.train(was_training)
    # made outside of inference mode, so that training may use it
    unordered = torch.cat(features)
    tensor = torch.empty_like(unordered)
    tensor[order] = unordered
    if not (finite := tensor.isfinite().flatten(1).all(1)).all():
        index = int(finite.int().argmin())
        raise ValueError(
            f"The embedding of {quoted(prompts[index][0])} (label {index if labels is None else labels[index]}) is not "
            "finite. Encode with the model in float32 or bfloat16."
        )
    return tensor


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """A vocabulary as a model reads it.

    Args:
        tensor: `(C, 2, D)`, float32, normalized: [global, local] of each class; `text_embeds` of the model's forward.
        names: The C display names.
        vocabulary_fingerprint: Of the vocabulary that was encoded.
        model_fingerprint: Of the model that encoded it.

    Raises:
        ValueError: The tensor does not fit.
    """

    tensor: torch.Tensor
    names: tuple[str, ...]
    vocabulary_fingerprint: str
    model_fingerprint: str

    def __post_init__(self) -> None:
        if self.tensor.ndim != 3 or self.tensor.shape[:2] != (len(self.names), 2) or self.tensor.dtype != torch.float32:
            raise ValueError(
                f"Text embeddings are {tuple(self.tensor.shape)}, {self.tensor.dtype}; expected "
                f"({len(self.names)}, 2, D), float32, for {len(self.names)} names. Encode the vocabulary again."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over vocabulary and model."""
        return sha256_of([self.vocabulary_fingerprint, self.model_fingerprint])

    def _checksum(self) -> str:
        """Over all of the content: the fingerprints say what was encoded, not what lies in a file."""
        values = self.tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return sha256_of([self.names, self.fingerprint, hashlib.sha256(values.data).hexdigest()])

    def check(self, model: TextEncoder, vocabulary: NamedVocabulary | None = None) -> None:
        """Refuses another model than the one that encoded, or another vocabulary where one is given.

        Reads all weights of the text tower (about a second a gigabyte): call it once, not for every image.

        Raises:
            ValueError: They are of another model or another vocabulary; says which.
        """
        if vocabulary is not None and vocabulary.fingerprint != self.vocabulary_fingerprint:
            raise ValueError(
                "These text embeddings are of another vocabulary: "
                f"{_difference(self.names, vocabulary.names)}. "
                "Encode this one with vocabulary.encode(model, processor)."
            )
        if (other := model_fingerprint(model)) != self.model_fingerprint:
            raise ValueError(
                "These text embeddings were made by another model: its text tower has fingerprint "
                f"{self.model_fingerprint[:12]}, this one {other[:12]}. Encode the vocabulary with this model; "
                "the same weights in another dtype count as another model."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, whole or not at all: tensor `text_embeds`, names and fingerprints as metadata.

        Raises:
            ValueError: The path cannot be written.
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
        with tempfile.TemporaryDirectory() as folder:
            save_torch_state_dict({"text_embeds": self.tensor.detach().cpu()}, folder, metadata=metadata)
            (file,) = Path(folder).iterdir()
            write_atomically(path, file.read_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TextEmbeddings":
        """Reads what `save` wrote. `check` says whether it belongs to a model.

        Raises:
            ValueError: The file cannot be read, holds something else, or was changed.
        """
        where = f"Text embeddings {str(path)!r}"
        try:
            header = parse_local_safetensors_file_metadata(Path(path))
            content = Path(path).read_bytes()
        except (OSError, SafetensorsParsingError) as error:
            raise ValueError(
                f"{where} cannot be read as safetensors: {error}. Check the path, or encode again."
            ) from error
        metadata = header.metadata
        if metadata.get("content") != "dinov3seg text embeddings" or set(header.tensors) != {"text_embeds"}:
            raise ValueError(f"{where}: the file holds something else. Expected what TextEmbeddings.save wrote.")
        info = header.tensors["text_embeds"]
        # the file is the length of its header in 8 bytes, the header, and the numbers of the one tensor
        values = content[8 + int.from_bytes(content[:8], "little") :]
        if info.dtype != "F32" or len(values) != 4 * info.parameter_count:
            raise ValueError(
                f"{where} cannot be read as safetensors: {len(values)} bytes for {info.parameter_count} numbers of "
                f"type {info.dtype}. Check the path, or encode again."
            )
        try:
            embeddings = cls(
                torch.from_numpy(np.frombuffer(values, np.dtype("<f4")).reshape(info.shape).astype(np.float32)),
                tuple(json.loads(metadata["names"])),
                metadata["vocabulary_fingerprint"],
                metadata["model_fingerprint"],
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"{where}: the metadata is incomplete or wrong ({error}). Encode again.") from error
        if metadata.get("checksum") != embeddings._checksum():
            raise ValueError(f"{where}: the checksum is wrong, so the file was changed or damaged. Encode again.")
        return embeddings


def _difference(had: Sequence[str], given: Sequence[str]) -> str:
    if len(had) != len(given):
        return f"it had {len(had)} classes, this one has {len(given)}"
    for i, (one, other) in enumerate(zip(had, given)):
        if one != other:
            return f"its label {i} was {quoted(one)}, here it is {quoted(other)}"
    return "the names are the same, but synonyms or templates differ"
