# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Tokenizes each prompt of the classes once, checks its length, and stacks the token ids by class.

Uses a tokenizer and lists of strings; does not depend on images or weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .checks import quoted
from .text_cleaning import clean_text

Prompts = Sequence[Sequence[str]]  # the prompts of each class
TokenIds = list[list[list[int]]]  # the token ids of each prompt of each class


def tokenize_prompts(
    tokenizer: Any, prompts: Prompts, limit: int | None = None, labels: Sequence[int] | None = None, **options: Any
) -> TokenIds:
    """Returns the token ids of every prompt, cleaned by `clean_text`, not padded.

    Args:
        tokenizer: The tokenizer of the text tower.
        prompts: C lists of prompts.
        limit: Maximum number of tokens per prompt. `None`: no limit.
        labels: The labels of the classes in error messages. Default: 0, 1, ...
        **options: Options of the tokenizer; `truncation=True` truncates prompts.

    Raises:
        ValueError: If a prompt is longer than the limit. The message names the prompt.
    """
    for of_class in prompts:
        for prompt in of_class:
            if any("\ud800" <= letter <= "\udfff" for letter in prompt):
                raise ValueError(f"{quoted(prompt)} contains broken Unicode; expected text. Remove these characters.")
    flat = [clean_text(prompt) for of_class in prompts for prompt in of_class]
    # "<|endoftext|>" in a name is text, not the end of the prompt
    fixed = {"padding": False, "verbose": False, "split_special_tokens": True}
    rows = iter(tokenizer(flat, **{"truncation": False, **options, **fixed})["input_ids"])
    token_ids = [[list(next(rows)) for _ in of_class] for of_class in prompts]
    for index, (of_class, ids_of_class) in enumerate(zip(prompts, token_ids)):
        for prompt, ids in zip(of_class, ids_of_class):
            if limit is not None and len(ids) > limit:
                label = index if labels is None else labels[index]
                raise ValueError(
                    f"The prompt {quoted(prompt)} of label {label} has {len(ids)} tokens; expected at most {limit} for "
                    f"the text tower. Shorten the class name or the template."
                )
    return token_ids


def stack_prompts(
    token_ids: TokenIds, pad_token_id: int, length: int = 0, multiple_of: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Stacks token ids of different lengths into one array, padded on the right.

    The text tower is causal, so padding after a prompt has no effect.

    Args:
        token_ids: Token ids from `tokenize_prompts`, at least one class.
        pad_token_id: The value that fills short prompts, and prompts that a class does not have.
        length: Minimum length of the array.
        multiple_of: The length of the array is rounded up to a multiple of this number.

    Returns:
        `input_ids` int64 `(C, P, L)` and `attention_mask` int64 `(C, P, L)`, all zero for prompts that a class does not
        have.
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
