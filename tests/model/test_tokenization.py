# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Odd names are read as CLIP's reference reads them, and plain names are left alone."""

import itertools

import pytest

from dinov3seg_hf.model.tokenization import clean_text, tokenize_prompts
from dinov3seg_hf.model.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ladies\u2019 room", "ladies' room"),
        ("\u201cstop\u201d sign", '"stop" sign'),
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("a &lt; b", "a < b"),
        ("of\ufb01ce", "office"),
        ("\uff34\uff36\u3000\uff53\uff45\uff54", "TV set"),
        ("cafe\u0301", "caf\u00e9"),
        ("bell\x07 tower", "bell tower"),
        (" sky ", "sky"),
    ],
)
def test_odd_names_become_plain(text, expected):
    assert clean_text(text) == expected
    assert clean_text(expected) == expected


def test_the_names_of_the_benchmarks_are_plain():
    for preset in Vocabulary.presets():
        words = itertools.chain.from_iterable(Vocabulary.from_preset(preset).synonyms)
        assert all(clean_text(word) == word for word in words), preset


def test_names_that_look_alike_have_the_same_tokens(tiny_tokenizer):
    (odd,), (plain,) = tokenize_prompts(tiny_tokenizer, [["ladies\u2019 room &amp; bar"], ["ladies' room & bar"]])
    assert odd == plain


@pytest.mark.parametrize("word", ["<|endoftext|>", "<|startoftext|> sky", "red <|endoftext|> circle"])
def test_special_tokens_in_a_name_are_text(tiny_tokenizer, word):
    ((ids,),) = tokenize_prompts(tiny_tokenizer, [[word]])
    special = {tiny_tokenizer.bos_token_id, tiny_tokenizer.eos_token_id}
    assert ids[0] == tiny_tokenizer.bos_token_id and ids[-1] == tiny_tokenizer.eos_token_id
    assert not special.intersection(ids[1:-1]) and len(ids) > 3
    # the option of one call does not stay
    assert special.intersection(tiny_tokenizer(word)["input_ids"][1:-1])
