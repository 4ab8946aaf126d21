# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Prompts of classes to token ids: each prompt is read once, checked for its length, and stacked with its class.

Knows a tokenizer and lists of strings; nothing of images or weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .checks import quoted

Prompts = Sequence[Sequence[str]]  # for each class its prompts
TokenIds = list[list[list[int]]]  # for each class, for each of its prompts, the ids


def tokenize_prompts(
    tokenizer: Any, prompts: Prompts, limit: int | None = None, labels: Sequence[int] | None = None, **options: Any
) -> TokenIds:
    """The token ids of every prompt, not padded.

    Args:
        tokenizer: Of the text tower.
        prompts: C lists of prompts.
        limit: Most tokens that may be read of a prompt. `None`: no limit.
        labels: What errors call the classes; 0, 1, ... unless given.
        **options: For the tokenizer; `truncation=True` cuts prompts in place of refusing them.

    Raises:
        ValueError: A prompt is longer than the limit: it is named, never cut.
    """
    flat = [prompt for of_class in prompts for prompt in of_class]
    rows = iter(tokenizer(flat, **{"truncation": False, **options, "padding": False, "verbose": False})["input_ids"])
    token_ids = [[list(next(rows)) for _ in of_class] for of_class in prompts]
    for index, (of_class, ids_of_class) in enumerate(zip(prompts, token_ids)):
        for prompt, ids in zip(of_class, ids_of_class):
            if limit is not None and len(ids) > limit:
                label = index if labels is None else labels[index]
                raise ValueError(
                    f"The prompt {quoted(prompt)} of label {label} has {len(ids)} tokens, but the text tower reads at "
                    f"most {limit}. Shorten the name or its template."
                )
    return token_ids


def stack_prompts(
    token_ids: TokenIds, pad_token_id: int, length: int = 0, multiple_of: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Ragged token ids to one table, padded on the right: the tower is causal, so what follows a prompt never counts.

    Args:
        token_ids: Of `tokenize_prompts`, at least one class.
        pad_token_id: Fills up short prompts, and the place of prompts that a class does not have.
        length: The table is at least so long ...
        multiple_of: ... and its length a multiple of this.

    Returns:
        `input_ids` int64 `(C, P, L)` and `attention_mask` int64 `(C, P, L)`, all zero where a class has no prompt.
    """
    num_prompts = max(map(len, token_ids))
    length = max(length, *(len(ids) for of_class in token_ids for ids in of_class), 1)
    length = -(-length // multiple_of) * multiple_of
    input_ids = np.full((len(token_ids), num_prompts, length), pad_token_id, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, of_class in enumerate(token_ids):
        for column, ids in enumerate(of_class):
            input_ids[row, column, : len(ids)] = ids
            attention_mask[row, column, : len(ids)] = 1
    return input_ids, attention_mask
