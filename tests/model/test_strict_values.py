# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Values that the library checks by their types raise `ValueError`, with what came, what was expected and a remedy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinov3seg_hf import Dinov3SegConfig
from dinov3seg_hf.model.checks import is_number
from dinov3seg_hf.model.configuration_dinov3seg import RANGES
from dinov3seg_hf.model.files import disk_errors_as_value_errors

from tiny import tiny_config_values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("late_window_size", "3"),
        ("decoder_hidden_sizes", [8, "8"]),
        ("head", "both"),
        ("known_words", "red"),
        ("vision_config", 3),
        ("use_guidance", 1),
        ("late_num_attention_heads", 0),
        ("initializer_range", math.nan),
        ("late_mlp_ratio", -1.0),
        ("decoder_hidden_sizes", []),
        ("stem_channels", [0, 16]),
    ],
)
def test_impossible_values_of_a_configuration_are_refused_in_our_words(name, value, tiny_tokenizer, tiny_config):
    with pytest.raises(ValueError, match=rf"{name}.*expected|expected.*{name}"):
        Dinov3SegConfig(**{**tiny_config_values(tiny_tokenizer), name: value})
    with pytest.raises(ValueError, match=name):
        changed = Dinov3SegConfig(**tiny_config_values(tiny_tokenizer))
        setattr(changed, name, value)
        changed.validate()
    assert tiny_config.late_window_size == 4


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads"])
def test_no_size_of_a_part_is_zero(part, name, tiny_tokenizer):
    values = tiny_config_values(tiny_tokenizer)
    values[part][name] = 0
    with pytest.raises(ValueError, match=rf"{part}\.{name} is 0; expected at least 1"):
        Dinov3SegConfig(**values)


@given(st.sampled_from(sorted(RANGES)), st.floats(max_value=-21) | st.just(math.inf) | st.just(math.nan))
def test_every_number_of_the_table_has_a_smallest_value(name, value):
    least, most = RANGES[name]
    assert not is_number(value, least, most)


def test_a_full_disk_has_one_kind_of_error_whoever_writes(tmp_path):
    from safetensors import SafetensorError

    for error in (OSError(28, "No space left on device"), SafetensorError("No space left on device (os error 28)")):
        with pytest.raises(ValueError, match=r"The model cannot be written: No space left.*Free disk space"):
            with disk_errors_as_value_errors("The model", "Free disk space."):
                raise error
    with pytest.raises(KeyError), disk_errors_as_value_errors("The model", "Free disk space."):
        raise KeyError("x")


def test_inputs_of_the_model_are_named_in_errors(tiny_model):
    pixels, ids = torch.zeros(1, 3, 16, 16), torch.zeros(2, 1, 4, dtype=torch.long)
    for inputs, what in (
        ({"pixel_values": pixels, "input_ids": ids.float()}, "input_ids has dtype"),
        ({"pixel_values": pixels, "input_ids": ids + 10**6}, "input_ids contains ids.*tokenizer of this checkpoint"),
        ({"pixel_values": pixels.tolist(), "input_ids": ids}, "pixel_values is of type list"),
        ({"pixel_values": pixels.byte(), "input_ids": ids}, "pixel_values has dtype"),
        ({"pixel_values": pixels * math.nan, "input_ids": ids}, "pixel_values contains NaN"),
        ({"pixel_values": pixels, "input_ids": ids, "labels": torch.zeros(1, 16, 16)}, "labels has dtype"),
    ):
        with pytest.raises(ValueError, match=what):
            tiny_model(**inputs)
