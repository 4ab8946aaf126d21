# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Windows cover every pixel and their maps come together without a seam, whatever the sizes."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinov3seg_hf.model import windows
from dinov3seg_hf.model.windows import cut_windows, merge_windows, plan_windows

side = st.one_of(st.integers(1, 40), st.integers(1, 300))


@st.composite
def plans(draw):
    """(image size, boxes) for any image, window and stride."""
    image = draw(st.tuples(side, side))
    window = draw(st.tuples(side, side))
    stride = tuple(draw(st.integers(max(1, w // 4), w)) for w in window)
    # thousands of one-pixel windows test nothing new and take long
    image = tuple(min(axis, 8 * step + w) for axis, step, w in zip(image, stride, window))
    return image, plan_windows(image, window, stride), window, stride


@settings(deadline=None)
@given(plans())
def test_every_pixel_is_covered(plan):
    (height, width), boxes, _, _ = plan
    covered = torch.zeros(height, width)
    for top, left, tall, wide in boxes:
        assert 0 <= top < top + tall <= height and 0 <= left < left + wide <= width
        covered[top : top + tall, left : left + wide] += 1
    assert covered.min() >= 1


@settings(deadline=None)
@given(plans())
def test_windows_are_equal_distinct_and_flush_with_both_borders(plan):
    (height, width), boxes, window, stride = plan
    assert {box[2:] for box in boxes} == {(min(window[0], height), min(window[1], width))}
    assert len(set(boxes)) == len(boxes)
    assert boxes[0][:2] == (0, 0)
    assert boxes[-1][0] + boxes[-1][2] == height and boxes[-1][1] + boxes[-1][3] == width
    for axis in (0, 1):
        starts = sorted({box[axis] for box in boxes})
        assert all(0 < after - before <= stride[axis] for before, after in itertools.pairwise(starts))


def test_the_papers_geometry_is_three_by_three():
    boxes = plan_windows((640, 640), 384, 128)
    assert boxes == [(top, left, 384, 384) for top in (0, 128, 256) for left in (0, 128, 256)]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (383, 385), (384, 384)])
def test_a_short_axis_gets_one_window_of_its_own_size(size):
    boxes = plan_windows(size, 384, 192)
    assert boxes[0] == (0, 0, min(384, size[0]), min(384, size[1]))
    assert len(boxes) == (size[0] > 384 or 1) * (2 if max(size) > 384 else 1)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (((10, 10), 4, 5), "larger than the window"),
        (((10, 10), (4, 8), (4, 9)), "larger than the window"),
        (((0, 10), 4, 2), "image_size"),
        (((10, 10), 0, 1), "window_size"),
        (((10, 10), 4, 0), "stride"),
        (((10, 10), 4, -2), "stride"),
        (((10, 10), 4.5, 2), "window_size"),
        (((10, 10, 3), 4, 2), "image_size"),
    ],
)
def test_impossible_plans_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan_windows(*arguments)


@settings(max_examples=60, deadline=None)
@given(plans(), st.tuples(st.integers(1, 50), st.integers(1, 50)), st.tuples(st.integers(1, 20), st.integers(1, 20)))
@example(((1, 1), [(0, 0, 1, 1)], (5, 5), (1, 1)), (1, 1), (1, 1))
@example(((7, 300), plan_windows((7, 300), 16, 9), (16, 16), (9, 9)), (1, 19), (2, 3))
def test_a_constant_survives_plan_and_merge(plan, output_size, window_map):
    image_size, boxes, _, _ = plan
    constant = torch.tensor([3.7, -0.1])
    maps = constant[None, None, :, None, None].expand(1, len(boxes), 2, *window_map)
    merged = merge_windows(maps, boxes, output_size, image_size)
    assert merged.shape == (1, 2, *output_size)
    torch.testing.assert_close(merged, constant[None, :, None, None].expand_as(merged), rtol=1e-5, atol=0)


@settings(max_examples=60, deadline=None)
@given(plans(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_cut_then_merge_gives_the_image_back(plan, dtype):
    image_size, boxes, _, _ = plan
    image = torch.randn(2, 1, *image_size).to(dtype)
    merged = merge_windows(cut_windows(image, boxes), boxes, image_size, image_size)
    assert merged.dtype == dtype
    torch.testing.assert_close(merged, image, rtol=1e-5 if dtype == torch.float32 else 0, atol=0)


@settings(max_examples=60, deadline=None)
@given(plans(), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(1, 9))
def test_a_linear_ramp_comes_back_at_its_true_place(plan, output_size, cell):
    """Each window samples the same ramp at its own cells; the merged map is the ramp, misplaced by nothing.

    Within half a cell of a window's border a sample is held at the border's value, hence the tolerance of half a cell.
    """
    (height, width), boxes, _, _ = plan
    tall = boxes[0][2]
    rows = max(1, tall // cell)
    centers = (torch.arange(rows) + 0.5) * tall / rows
    maps = torch.stack([(top + centers)[:, None].expand(rows, 2) for top, _, _, _ in boxes])[None, :, None]
    merged = merge_windows(maps, boxes, output_size, (height, width))
    truth = (torch.arange(output_size[0]) + 0.5) * height / output_size[0]
    error = (merged[0, 0] - truth[:, None]).abs().max()
    assert error <= tall / rows / 2 + 1e-3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.sampled_from([2, 8, 16]))
def test_patch_aligned_features_are_added_not_resampled(rows, columns, window, step, patch):
    step = min(step, window)
    height, width = (window + step * (rows - 1), window + step * (columns - 1))
    boxes = plan_windows((height * patch, width * patch), window * patch, step * patch)
    features = torch.randn(1, len(boxes), 3, window, window)
    total, count = torch.zeros(1, 3, height, width), torch.zeros(height, width)
    for index, (top, left, _, _) in enumerate(boxes):
        cells = slice(top // patch, top // patch + window), slice(left // patch, left // patch + window)
        total[(..., *cells)] += features[:, index]
        count[cells] += 1
    merged = merge_windows(features, boxes, (height, width), (height * patch, width * patch))
    torch.testing.assert_close(merged, total / count, rtol=0, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_both_ways_of_sampling_are_the_usual_bilinear_resize(image_size, window_map):
    logits = torch.randn(2, 3, *window_map)
    expected = F.interpolate(logits, image_size, mode="bilinear", align_corners=False)
    merged = merge_windows(logits[:, None], [(0, 0, *image_size)], image_size, image_size)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    for dim, size in ((-1, image_size[1]), (-2, image_size[0])):
        logits = windows._sample(logits, dim, slice(0, size), 0, size, size, size)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_boxes_may_be_a_tensor_or_a_list():
    boxes = plan_windows((50, 70), 32, 20)
    maps = torch.randn(1, len(boxes), 2, 3, 3)
    as_list = merge_windows(maps, boxes, (13, 17), (50, 70))
    as_tensor = merge_windows(maps, torch.tensor(boxes), (13, 17), (50, 70))
    assert torch.equal(as_list, as_tensor)


@pytest.mark.parametrize("output_size", [(4, 6), (7, 5), (16, 24)])
def test_every_window_gets_a_gradient_and_the_gradient_is_right(output_size):
    boxes = plan_windows((16, 24), 8, 6)
    maps = torch.randn(1, len(boxes), 1, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: merge_windows(x, boxes, output_size, (16, 24)), (maps,))
    merge_windows(maps, boxes, output_size, (16, 24)).sum().backward()
    assert (maps.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()


def test_sums_of_low_precision_windows_are_kept_in_fp32():
    boxes = plan_windows((16, 128), 16, 1)  # sixteen windows over one pixel
    maps = torch.full((1, len(boxes), 1, 16, 16), 1.0078125, dtype=torch.bfloat16)
    merged = merge_windows(maps, boxes, (16, 128), (16, 128))
    assert merged.dtype == torch.bfloat16 and (merged == 1.0078125).all()


@pytest.mark.parametrize("output_size", [(16, 24), (9, 11)])
def test_low_precision_windows_are_resampled_in_fp32(output_size):
    boxes = plan_windows((16, 24), 8, 6)
    maps = torch.randn(1, len(boxes), 2, 3, 3).to(torch.bfloat16)
    merged = merge_windows(maps, boxes, output_size, (16, 24))
    expected = merge_windows(maps.float(), boxes, output_size, (16, 24)).to(torch.bfloat16)
    assert torch.equal(merged, expected)


def test_merging_compiles_without_graph_breaks():
    boxes = plan_windows((48, 80), 32, 24)
    maps = torch.randn(2, len(boxes), 3, 2, 2)
    compiled = torch.compile(
        lambda x: merge_windows(x, boxes, (7, 9), (48, 80)), fullgraph=True, backend="eager", dynamic=False
    )
    torch.testing.assert_close(compiled(maps), merge_windows(maps, boxes, (7, 9), (48, 80)))


@pytest.mark.parametrize(
    "shape, boxes, words",
    [
        ((1, 2, 3, 4, 4), [(0, 0, 8, 8)], "one box for each window"),
        ((2, 3, 4, 4), [(0, 0, 8, 8)], "one box for each window"),
        ((1, 1, 3, 4, 4), [(0, 0, 8, 9)], "inside the image"),
        ((1, 1, 3, 4, 4), [(-1, 0, 8, 8)], "inside the image"),
        ((1, 1, 3, 4, 4), [(0, 0, 8, 7)], "uncovered"),
        ((1, 2, 3, 4, 4), [(0, 0, 8, 4), (0, 4, 7, 4)], "uncovered"),
        ((1, 2, 3, 4, 4), [(0, 0, 3, 8), (5, 0, 3, 8)], "uncovered"),
        ((1, 1, 3, 4, 4), [(0, 0, 8)], r"\(N, 4\)"),
        ((1, 0, 3, 4, 4), [], r"\(N, 4\)"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(shape, boxes, words):
    with pytest.raises(ValueError, match=words):
        merge_windows(torch.zeros(shape), boxes, (8, 8), (8, 8))


def test_cutting_needs_windows_of_one_size():
    with pytest.raises(ValueError, match="boxes of the same size"):
        cut_windows(torch.zeros(1, 3, 8, 8), [(0, 0, 4, 4), (0, 0, 4, 5)])
