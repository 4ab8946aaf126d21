# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Text embeddings that a pipeline has made lately, class by class: a new word costs its own prompts alone."""

import threading
from collections import OrderedDict
from typing import Any

import torch
from transformers import PreTrainedModel

from .fingerprints import TextEncoder, model_fingerprint, weights_key
from .text_embeddings import TextEmbeddings, encode_classes
from .vocabulary import Vocabulary

# Text embeddings of so many classes are kept, those used last the longest: 128 MiB at ViT-L's 2 x 1024 numbers.
MAX_CACHED_CLASSES = 16_384


class TextCache:
    """Text embeddings by class. What is in it was made by the very weights that are asked for, or it is thrown away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: tuple[PreTrainedModel, tuple[object, ...]] | None = None
        self._tokenizer: Any = None
        self._embeds: OrderedDict[tuple[str, ...], torch.Tensor] = OrderedDict()  # prompts of a class -> (2, D)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._embeds)

    def __reduce__(self) -> tuple[type["TextCache"], tuple[()]]:
        """Pipelines travel to the processes that read images; what they remember of text stays behind."""
        return type(self), ()

    def check(self, text: TextEmbeddings, model: TextEncoder) -> TextEmbeddings:
        """The embeddings, if this model made them.

        Raises:
            ValueError: Another model made them.
        """
        with self._lock:
            self._belong_to(model, None)
            if text.model_fingerprint != self._fingerprint_of(model):
                text.check(model)  # says why
        return text

    def fingerprint(self, model: TextEncoder) -> str:
        """`model_fingerprint` of the model, whose weights are read once for as long as they stay what they are."""
        with self._lock:
            self._belong_to(model, None)
            return self._fingerprint_of(model)

    def encode(self, vocabulary: Vocabulary, model: TextEncoder, processor: Any, progress: bool) -> TextEmbeddings:
        """The embeddings of a vocabulary, of which only the classes that are not in the cache are encoded.

        Raises:
            ValueError: As `encode_classes`.
        """
        prompts = [tuple(of_class) for of_class in vocabulary.prompts()]
        with self._lock:  # one at a time: two threads would encode the same words twice
            self._belong_to(model, processor.tokenizer)
            known = {key: self._embeds[key] for key in prompts if key in self._embeds}
            missing = [index for index, key in enumerate(prompts) if key not in known]
            if missing:
                encoded = encode_classes(
                    model,
                    processor.tokenizer,
                    [prompts[index] for index in missing],
                    labels=missing,
                    progress=progress,
                )
                # clones: a row of it would keep the whole table alive
                known |= {prompts[index]: row.clone() for index, row in zip(missing, encoded)}
            for key in prompts:
                self._embeds[key] = known[key]
                self._embeds.move_to_end(key)
            while len(self._embeds) > MAX_CACHED_CLASSES:
                self._embeds.popitem(last=False)
            tensor = torch.stack([known[key] for key in prompts])
            return TextEmbeddings(tensor, vocabulary.names, vocabulary.fingerprint, self._fingerprint_of(model))

    def _fingerprint_of(self, model: TextEncoder) -> str:
        """Reads the whole text tower, once for as long as its weights stay what they are."""
        if self._fingerprint is None:
            self._fingerprint = model_fingerprint(model)
        return self._fingerprint

    def _belong_to(self, model: TextEncoder, tokenizer: Any) -> None:
        """Throws everything away unless it was made by this text tower, as it is now, and this tokenizer."""
        text_model = model.text_model
        owner = (text_model, weights_key(text_model))
        if self._owner is None or self._owner[0] is not text_model or self._owner[1] != owner[1]:
            self._owner, self._fingerprint = owner, None
            self._embeds.clear()
        if tokenizer is not None and tokenizer is not self._tokenizer:
            self._tokenizer = tokenizer
            self._embeds.clear()
