# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The text of a run: what the model gets for the names of the vocabulary, and how similar the names are."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from ..model.processing_dinov3seg import Dinov3SegProcessor
from ..model.vocabulary import Vocabulary


@dataclass(frozen=True)
class TrainingText:
    """The text of a run.

    Attributes:
        inputs: Arguments of the model, indexed by class: `text_embeds`; or `input_ids` and `attention_mask` if the text
            tower is trained.
        similarities: `(C, C)`, the mean cosine similarity of the halves of two names before training; `None`: not
            needed.
    """

    inputs: dict[str, torch.Tensor]
    similarities: np.ndarray | None = None


def prepare_text(
    model: Dinov3SegForSemanticSegmentation,
    processor: Dinov3SegProcessor,
    vocabulary: Vocabulary,
    device: torch.device,
    needs_similarities: bool,
) -> TrainingText:
    """Encodes or tokenizes the prompts of a vocabulary, once for the whole run; moves the model to `device`.

    If the checkpoint knows certain words only, those of the vocabulary are added: it will be trained with them.
    """
    if model.config.known_words is not None:
        words = [word for words in vocabulary.synonyms for phrase in words for word in phrase.split()]
        model.config.known_words = list(dict.fromkeys([*model.config.known_words, *words]))
    is_trained = any(parameter.requires_grad for parameter in model.text_model.parameters())
    inputs, similarities = {}, None
    module: torch.nn.Module = model  # transformers types its own `to` as an unbound function
    module.to(device)
    if needs_similarities or not is_trained:
        embeddings = vocabulary.encode(model, processor, progress=len(vocabulary) > 500).tensor
        inputs = {"text_embeds": embeddings.to(device)}
        if needs_similarities:
            flat = embeddings.flatten(1).float()  # [global, local], each of unit length
            # rounding differs between devices, but all processes must choose the same classes
            similarities = broadcast_object_list([(flat @ flat.T / 2).cpu().numpy()])[0]
    if is_trained:
        tokens = processor(text=vocabulary.prompts())
        inputs = {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}
    return TrainingText(inputs, similarities)
