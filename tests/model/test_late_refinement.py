# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The spatial layer attends inside windows of one class, the class layer across classes at one position."""

import copy

import pytest
import torch

from dinov3seg_hf.model.late_refinement import (
    Dinov3SegClassLayer,
    Dinov3SegLateRefinement,
    Dinov3SegSpatialLayer,
    window_regions,
)


def build(module_class, config, *args):
    torch.manual_seed(0)
    module = module_class(config, *args).eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        if "relative_bias" in name:
            parameter.normal_()
    return module


def states(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (5, 7), (1, 1), (3, 13), (9, 2)])
@pytest.mark.parametrize("shifted", [False, True])
def test_spatial_attention_equals_masked_attention_over_the_whole_map(tiny_config, size, shifted):
    layer = build(Dinov3SegSpatialLayer, tiny_config, shifted)
    height, width = size
    x, guidance = states(3, height, width, 16), states(1, height, width, 8, seed=2)

    # reference: one attention over all positions, those of other windows masked out, by definition of the windows
    window = layer.window_size
    row_shift, column_shift = (window // 2 if shifted and length > window else 0 for length in size)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    # A window starts at every multiple of the window size, moved back by half a window where shifted. An axis that fits
    # into one window is never shifted: every position sees all of it.
    same_rows = (rows[:, None] - row_shift).div(window, rounding_mode="floor") == (rows[None] - row_shift).div(
        window, rounding_mode="floor"
    )
    same_columns = (columns[:, None] - column_shift).div(window, rounding_mode="floor") == (
        columns[None] - column_shift
    ).div(window, rounding_mode="floor")
    relative = (rows[:, None] - rows[None]).clamp(-window + 1, window - 1) + window - 1
    relative = (
        relative * (2 * window - 1) + (columns[:, None] - columns[None]).clamp(-window + 1, window - 1) + window - 1
    )
    bias = layer.relative_bias[relative].permute(2, 0, 1)
    bias = bias.masked_fill(~(same_rows & same_columns), float("-inf"))
    query, key, value = (
        t.flatten(1, 2).unflatten(-1, (2, -1)).transpose(1, 2) for t in layer.attention.project(x, guidance)
    )
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    expected = layer.attention.output(attended.transpose(1, 2).flatten(2).unflatten(1, size))

    torch.testing.assert_close(layer.attend(x, guidance), expected, atol=1e-5, rtol=1e-5)


def test_regions_separate_padding_and_what_a_roll_brought_together():
    regions = window_regions(5, 5, (8, 8), (2, 2), torch.device("cpu"))
    assert (regions[3:6] == 0).all()  # rows 5, 6, 7 are padding: after the roll they stand at 3, 4, 5
    assert regions[0, 0] != regions[7, 0] and regions[0, 0] != regions[0, 7]


def test_the_class_layer_is_equivariant_to_class_order_and_local_to_positions(tiny_config):
    layer = build(Dinov3SegClassLayer, tiny_config)
    x, guidance = states(2, 6, 10, 16), states(6, 8, seed=3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(layer(x, guidance)[:, order], layer(x[:, order], guidance[order]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(x, guidance)[:, :, 4:6], layer(x[:, :, 4:6], guidance), atol=1e-5, rtol=1e-5)
    other = x.clone()
    other[:, 0] *= -1
    assert (layer(other, guidance)[:, 1:] - layer(x, guidance)[:, 1:]).abs().max() > 1e-4  # classes do see each other


def test_the_spatial_layer_keeps_classes_and_images_apart(tiny_config):
    layer = build(Dinov3SegSpatialLayer, tiny_config, True)
    x, guidance = states(2, 5, 6, 7, 16), states(2, 6, 7, 8, seed=3)
    whole = layer(x, guidance)
    torch.testing.assert_close(whole[:, 2:3], layer(x[:, 2:3], guidance), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole[1:], layer(x[1:], guidance[1:]), atol=1e-5, rtol=1e-5)


def test_guidance_joins_queries_and_keys_but_never_values(tiny_config):
    layer = build(Dinov3SegClassLayer, tiny_config)
    x = states(1, 1, 3, 16)  # a single class: whatever its query and key, attention returns its value
    torch.testing.assert_close(layer(x, states(1, 8)), layer(x, states(1, 8, seed=9)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_chunks_change_nothing(tiny_config, chunk_size):
    module = build(Dinov3SegLateRefinement, tiny_config)
    x, guidance, text = states(2, 5, 6, 7, 16), states(2, 8, 6, 7), states(5, 2, 32)
    torch.testing.assert_close(module(x, guidance, text, chunk_size), module(x, guidance, text), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("switch", ["use_spatial_refinement", "use_class_refinement", "use_guidance"])
def test_each_part_can_be_switched_off_and_is_then_gone(tiny_config, switch):
    config = copy.deepcopy(tiny_config)
    setattr(config, switch, False)
    full = {name for name, _ in build(Dinov3SegLateRefinement, tiny_config).named_parameters()}
    module = build(Dinov3SegLateRefinement, config)
    gone = full - {name for name, _ in module.named_parameters()}
    word = {
        "use_spatial_refinement": "spatial_layers",
        "use_class_refinement": "class_layers",
        "use_guidance": "guidance",
    }[switch]
    assert gone and all(word in name or "text_projection" in name for name in gone)
    x, guidance, text = states(1, 3, 6, 7, 16), states(1, 8, 6, 7), states(3, 2, 32)
    out = module(x, guidance, text)
    if switch == "use_class_refinement":
        torch.testing.assert_close(out[:, :1], module(x[:, :1], guidance, text[:1]), atol=1e-5, rtol=1e-5)
    if switch == "use_guidance":
        torch.testing.assert_close(out, module(x, 2 * guidance, -text), atol=0, rtol=0)
