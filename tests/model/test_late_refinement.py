# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The spatial layer attends inside windows of one class, the class layer across classes at one position."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinov3seg_hf import TINY
from dinov3seg_hf.data.drawn_world import drawn_world
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.seeds import VALIDATION
from dinov3seg_hf.loading import load_starting_point
from dinov3seg_hf.model.chunking import resolve_chunk_size
from dinov3seg_hf.model.late_refinement import (
    Dinov3SegClassLayer,
    Dinov3SegLateRefinement,
    Dinov3SegSpatialLayer,
)
from dinov3seg_hf.model.window_attention import (
    attend_in_padded_windows,
    attend_in_windows,
    window_regions,
    window_runs,
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

    # the twin for `torch.compile`, whose operations do not depend on the size of the map
    projected = layer.attention.project(x, guidance)
    padded = attend_in_padded_windows(layer.attention.attend, layer.position_bias, *projected, window, shifted)
    torch.testing.assert_close(layer.attention.output(padded), expected, atol=1e-5, rtol=1e-5)


@given(length=st.integers(1, 60), size=st.integers(1, 13), shifted=st.booleans())
def test_windows_cut_an_axis_whole_and_only_its_ends_are_smaller(length, size, shifted):
    runs = window_runs(length, size, shifted)
    assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])] and runs[-1].stop == length
    assert all(0 < run.length <= size for run in runs)
    assert all(run.length == size for run in runs[1:-1])
    inner = [position for run in runs for position in range(run.start, run.stop, run.length)][1:]
    shift = size // 2 if shifted and length > size else 0
    assert inner == [position for position in range(1, length) if (position - shift) % size == 0]


def test_gradients_are_those_of_padded_windows(tiny_config):
    layer = build(Dinov3SegSpatialLayer, tiny_config, True)
    gradients = []
    for attend in (attend_in_windows, attend_in_padded_windows):
        x = states(2, 5, 7, 16).requires_grad_()
        layer.relative_bias.requires_grad_().grad = None
        projected = layer.attention.project(x, None)
        attended = attend(layer.attention.attend, layer.position_bias, *projected, layer.window_size, True)
        attended.square().sum().backward()
        gradients.append((x.grad, layer.relative_bias.grad))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


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


@given(repeats=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_a_class_that_is_repeated_counts_that_many_times(tiny_config, repeats):
    module = build(Dinov3SegLateRefinement, tiny_config)
    counts, classes = torch.tensor(repeats), len(repeats)
    x, guidance, text = states(2, classes, 3, 4, 16), states(2, 8, 3, 4), states(classes, 2, 32)
    once = module(x, guidance, text, class_counts=counts)
    repeated = module(x.repeat_interleave(counts, 1), guidance, text.repeat_interleave(counts, 0))
    torch.testing.assert_close(repeated, once.repeat_interleave(counts, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("repeats, changed", [(2, 0.003), (64, 0.03)])
def test_the_best_name_hardly_changes_when_a_name_is_repeated(repeats, changed):
    model, processor = load_starting_point(TINY)
    data = drawn_world(8, "unseen", VALIDATION, 96)
    names = list(NAMES)[::8]
    with torch.no_grad():
        features = model.eval().get_image_features(
            processor(images=list(data["image"]), return_tensors="pt").pixel_values
        )
        text = model.get_text_features(**processor(text=names, return_tensors="pt"))
        logits = model(image_features=features, text_embeds=text).logits
        labels = logits.argmax(dim=1)
        for index in range(0, len(names), 5):
            more = torch.cat([text, text[index : index + 1].expand(repeats - 1, -1, -1)])
            repeated = model(image_features=features, text_embeds=more).logits
            torch.testing.assert_close(repeated[:, len(names) :], repeated[:, [index] * (repeats - 1)])
            assert (repeated[:, : len(names)].argmax(dim=1) != labels).float().mean() <= changed


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_chunks_change_nothing(tiny_config, chunk_size):
    module = build(Dinov3SegLateRefinement, tiny_config)
    x, guidance, text = states(2, 5, 6, 7, 16), states(2, 8, 6, 7), states(5, 2, 32)
    expected = module(x, guidance, text)
    torch.testing.assert_close(module(x, guidance, text, chunk_size), expected, atol=1e-5, rtol=1e-5)  # with gradients
    with torch.no_grad():
        refined = module(given := x.clone(), guidance, text, chunk_size)
    torch.testing.assert_close(refined, expected, atol=1e-5, rtol=1e-5)
    assert (refined.data_ptr() == given.data_ptr()) == (chunk_size < x.shape[1])  # not twice in memory


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (3, 13)])
def test_a_bias_of_a_window_is_computed_once_whatever_the_number_of_chunks(tiny_config, size, monkeypatch):
    module = build(Dinov3SegLateRefinement, tiny_config)
    x, guidance, text = states(2, 7, *size, 16), states(2, 8, *size), states(7, 2, 32)
    position_bias, calls = Dinov3SegSpatialLayer.position_bias, []

    def counted(layer, rows, columns):
        calls.append((layer, rows, columns))
        return position_bias(layer, rows, columns)

    monkeypatch.setattr(Dinov3SegSpatialLayer, "position_bias", counted)
    for chunk_size in (1, 3, None):
        expected = module(x, guidance, text, chunk_size)  # with gradients, of which each window has its own
        assert len({(rows, columns) for _, rows, columns in calls}) > 1
        calls.clear()
        for _ in range(2):  # nothing is kept
            with torch.no_grad():
                assert torch.equal(module(x.clone(), guidance, text, chunk_size), expected)
            # smaller windows get a part of the bias of a whole one
            whole = [(layer, *[layer.window_size] * 2) for layers in module.spatial_layers for layer in layers]
            assert calls == whole
            calls.clear()


def test_another_forward_pass_sees_changed_biases(tiny_config):
    module = build(Dinov3SegLateRefinement, tiny_config)
    x, guidance, text = states(1, 3, 5, 7, 16), states(1, 8, 5, 7), states(3, 2, 32)
    with torch.no_grad():
        before = module(x.clone(), guidance, text, 1)
        for layers in module.spatial_layers:
            layers[0].relative_bias.normal_(generator=torch.Generator().manual_seed(7))
        assert not torch.equal(module(x.clone(), guidance, text, 1), before)


def test_chunks_by_memory_are_smaller_for_larger_maps_and_never_empty():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    sizes = [resolve_chunk_size("auto", side * side * 128 * 4, cpu) for side in (12, 40, 400)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] == 1
    assert resolve_chunk_size("auto", 40 * 40 * 128 * 4, gpu) > sizes[1] > 1
    assert [resolve_chunk_size(size, 10**9, cpu) for size in (7, None)] == [7, None]


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
