# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Cache of the text embeddings that a pipeline made recently, per class: a new class only needs its own prompts."""

import threading
from collections import OrderedDict
from typing import Any

import torch
from transformers import PreTrainedModel

from .fingerprints import TextEncoder, model_fingerprint, sha256_of, weights_key
from .text_embeddings import TextEmbeddings, encode_classes
from .vocabulary import Vocabulary

# Maximum number of classes in the cache, 128 MiB at ViT-L's 2 x 1024 values. Least recently used ones are evicted.
MAX_CACHED_CLASSES = 16_384


class TextCache:
    """Text embeddings by class.

    All cached embeddings were made with the current weights; if the model, its weights or the tokenizer change, the
    cache is cleared.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: tuple[PreTrainedModel, tuple[object, ...]] | None = None
        self._tokenizer: Any = None
        self._embeds: OrderedDict[str, torch.Tensor] = OrderedDict()  # digest of the prompts -> (2, D)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._embeds)

    def __reduce__(self) -> tuple[type["TextCache"], tuple[()]]:
        """Pickles an empty cache, because pipelines are sent to the processes that read images."""
        return type(self), ()

    def check(self, text: TextEmbeddings, model: TextEncoder) -> TextEmbeddings:
        """Returns the embeddings if this model made them.

        Raises:
            ValueError: If another model made the embeddings.
        """
        with self._lock:
            self._belong_to(model, None)
            if text.model_fingerprint != self._fingerprint_of(model):
                text.check(model)  # raises an error with the reason
        return text

    def fingerprint(self, model: TextEncoder) -> str:
        """Returns the `model_fingerprint` of the model; its weights are read only once, until they change."""
        with self._lock:
            self._belong_to(model, None)
            return self._fingerprint_of(model)

    def encode(self, vocabulary: Vocabulary, model: TextEncoder, processor: Any, progress: bool) -> TextEmbeddings:
        """Returns the embeddings of a vocabulary; encodes only the classes that are not in the cache.

        Raises:
            ValueError: See `encode_classes`.
        """
        prompts = vocabulary.prompts()
        keys = [sha256_of(of_class) for of_class in prompts]  # a class can have megabytes of prompts
        with self._lock:  # one thread at a time, because two threads would encode the same classes twice
            self._belong_to(model, processor.tokenizer)
            known = {key: self._embeds[key] for key in keys if key in self._embeds}
            missing = [index for index, key in enumerate(keys) if key not in known]
            if missing:
                encoded = encode_classes(
                    model,
                    processor.tokenizer,
                    [prompts[index] for index in missing],
                    labels=missing,
                    progress=progress,
                )
                # clones, because a view of a row would keep the whole tensor in memory
                known |= {keys[index]: row.clone() for index, row in zip(missing, encoded)}
            for key in keys:
                self._embeds[key] = known[key]
                self._embeds.move_to_end(key)
            while len(self._embeds) > MAX_CACHED_CLASSES:
                self._embeds.popitem(last=False)
            tensor = torch.stack([known[key] for key in keys])
            fingerprint = self._fingerprint_of(model)
            return TextEmbeddings(tensor, vocabulary.names, vocabulary.fingerprint, fingerprint, vocabulary.calibration)

    def _fingerprint_of(self, model: TextEncoder) -> str:
        """Returns the fingerprint of the model; reads the whole text tower only once, until its weights change."""
        if self._fingerprint is None:
            self._fingerprint = model_fingerprint(model)
        return self._fingerprint

    def _belong_to(self, model: TextEncoder, tokenizer: Any) -> None:
        """Clears the cache unless this text tower, with its current weights, and this tokenizer made its content."""
        text_model = model.text_model
        owner = (text_model, weights_key(text_model))
        if self._owner is None or self._owner[0] is not text_model or self._owner[1] != owner[1]:
            self._owner, self._fingerprint = owner, None
            self._embeds.clear()
        if tokenizer is not None and tokenizer is not self._tokenizer:
            self._tokenizer = tokenizer
            self._embeds.clear()
