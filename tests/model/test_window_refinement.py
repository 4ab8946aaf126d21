# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Early refinement re-weights neighbors and does nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3seg_hf.model.window_refinement import (
    Dinov3SegWindowRefinement,
    rotate,
    window_average,
    window_logits,
    window_offsets,
)


@pytest.fixture(scope="module")
def refinement(tiny_config):
    torch.manual_seed(0)
    module = Dinov3SegWindowRefinement(tiny_config).eval().requires_grad_(False)
    module.self_bias.fill_(0.5)
    return module


def features(height, width, seed=0, channels=32):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 100))
def test_every_output_is_a_convex_combination_of_its_window(refinement, height, width, seed):
    patches, pixels = features(height, width, seed), torch.randn(2, 3, 8 * height, 8 * width)
    weights = refinement.attention(patches, pixels)  # (B, window**2, h, w)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, height, width))

    # the definition, written with loops: sum of weight x neighbor inside the map, nothing else
    refined = refinement(patches, pixels)
    radius = refinement.window_size // 2
    expected = torch.zeros_like(patches)
    for row in range(height):
        for column in range(width):
            for index, (down, right) in enumerate(window_offsets(refinement.window_size)):
                y, x = row + down - radius, column + right - radius
                weight = weights[:, index, row, column]
                if 0 <= y < height and 0 <= x < width:
                    expected[:, :, row, column] += weight[:, None] * patches[:, :, y, x]
                else:
                    assert weight.max() == 0
    torch.testing.assert_close(refined, expected, atol=1e-5, rtol=1e-5)


def test_a_constant_map_stays_constant(refinement):
    patches = torch.randn(1, 32, 1, 1).expand(1, 32, 5, 7)
    torch.testing.assert_close(refinement(patches, torch.randn(1, 3, 40, 56)), patches, atol=1e-5, rtol=1e-5)


def test_the_image_decides_where_attention_goes(refinement):
    patches = features(6, 6)
    one, other = (refinement(patches, torch.randn(2, 3, 48, 48)) for _ in range(2))
    assert (one - other).abs().max() > 1e-4


def test_position_counts_only_relatively():
    query, key = features(9, 9).unflatten(1, (2, 16)), features(9, 9, 1).unflatten(1, (2, 16))
    logits = window_logits(rotate(query), rotate(key), 3)
    rolled = window_logits(rotate(query.roll((1, 1), dims=(-2, -1))), rotate(key.roll((1, 1), dims=(-2, -1))), 3)
    # away from the border (and from what the roll brought round) a shifted map gives shifted logits
    torch.testing.assert_close(logits[..., 1:7, 1:7], rolled[..., 2:8, 2:8], atol=1e-4, rtol=1e-4)
    plain = window_logits(query, key, 3)
    assert (plain[:, :, 0, 1:-1, 1:-1] - logits[:, :, 0, 1:-1, 1:-1]).abs().max() > 0.1  # a neighbor's place does count
    torch.testing.assert_close(plain[:, :, 4], logits[:, :, 4], atol=1e-4, rtol=1e-4)  # the center is not turned


def test_window_average_of_the_center_alone_is_the_identity():
    values = features(4, 6)
    weights = torch.zeros(2, 25, 4, 6)
    weights[:, 12] = 1
    torch.testing.assert_close(window_average(values, weights, 5), values)
