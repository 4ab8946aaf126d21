# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The tokenizer of the embedded checkpoint: CLIP's byte-level BPE with merges learned from the drawn world's words.

The tokenizer can encode any text as bytes. The words of the drawn world and of the default template are one token each.
"""

import itertools
import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ..model.prompts import DEFAULT_TEMPLATE
from .names import COLORS, KINDS, PATTERNS


def make_tokenizer() -> CLIPTokenizer:
    """Creates the tokenizer. Equal pairs may be merged in another order, so ids can differ from call to call."""
    words = sorted({*DEFAULT_TEMPLATE.replace("{}", "").lower().split(), *COLORS, *PATTERNS, *KINDS})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", min_frequency=1, show_progress=False
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator([" ".join(words)], trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]

    tokens = itertools.chain(
        alphabet,
        (symbol + "</w>" for symbol in alphabet),
        ("".join(merge) for merge in merges),
        ("<|startoftext|>", "<|endoftext|>"),  # end-of-text has the highest id, as in CLIP
    )
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # annotated as list[str], but BPE requires pairs
        model_max_length=77,
    )
