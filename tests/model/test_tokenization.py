# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Prompts to token ids and to one table: nothing is lost, cut or invented."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3seg_hf.model.tokenization import stack_prompts, tokenize_prompts

CLASSES = st.lists(
    st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=9), min_size=1, max_size=4), min_size=1, max_size=5
)


@given(CLASSES, st.integers(0, 12), st.integers(1, 8))
def test_a_table_holds_every_prompt_and_nothing_else(token_ids, length, multiple_of):
    input_ids, attention_mask = stack_prompts(token_ids, 0, length, multiple_of)
    assert input_ids.shape == attention_mask.shape and input_ids.dtype == attention_mask.dtype == np.int64
    assert input_ids.shape[-1] % multiple_of == 0 and input_ids.shape[-1] >= length
    for row, of_class in enumerate(token_ids):
        found = [list(ids[mask == 1]) for ids, mask in zip(input_ids[row], attention_mask[row]) if mask.any()]
        assert found == of_class
    assert not input_ids[attention_mask == 0].any()
    assert attention_mask.sum() == sum(len(ids) for of_class in token_ids for ids in of_class)
    assert (np.diff(attention_mask, axis=-1) <= 0).all()  # padded on the right only


def test_prompts_of_a_class_stay_together_and_in_order(tiny_tokenizer):
    prompts = [["a red circle"], ["blue", "a very long blue prompt", "sky"], ["x", "y"]]
    token_ids = tokenize_prompts(tiny_tokenizer, prompts)
    assert [len(of_class) for of_class in token_ids] == [1, 3, 2]
    for of_class, ids_of_class in zip(prompts, token_ids):
        for prompt, ids in zip(of_class, ids_of_class):
            assert ids == tiny_tokenizer(prompt)["input_ids"]


@pytest.mark.parametrize(("labels", "label"), [(None, 1), ([7, 40], 40)])
def test_a_prompt_that_is_too_long_is_named_with_its_label(tiny_tokenizer, labels, label):
    with pytest.raises(ValueError, match=rf"'long long long long' of label {label} has \d+ tokens.*at most 8"):
        tokenize_prompts(tiny_tokenizer, [["a"], ["long long long long"]], limit=8, labels=labels)
