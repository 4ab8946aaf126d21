# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Early refinement computes what AnyUp's published code computes, and only re-weights its input.

`anyup_tiny.safetensors` holds random weights under the published names (`anyup/`), inputs (`in/`) and what the
published code computes from them (`out/`).
"""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dinov3seg_hf import Dinov3SegConfig
from dinov3seg_hf.conversion import convert_anyup
from dinov3seg_hf.model import early_refinement
from dinov3seg_hf.model.early_refinement import (
    Dinov3SegEarlyRefinement,
    initial_mixing_weight,
    plan_tiles,
    window_attention,
    window_bounds,
)

from places import FIXTURES

RECORDED = load_file(FIXTURES / "anyup_tiny.safetensors")
OUTPUTS = sorted(key for key in RECORDED if key.startswith("out/"))
assert len(OUTPUTS) == 10


@pytest.fixture(scope="module")
def published():
    config = Dinov3SegConfig(early_hidden_size=32, early_num_attention_heads=4)
    module = Dinov3SegEarlyRefinement(config).eval()
    module.load_state_dict(
        convert_anyup({key.removeprefix("anyup/"): tensor for key, tensor in RECORDED.items() if "anyup/" in key})
    )
    return module


def make(tiny_config, share=1.0, scale=1):
    torch.manual_seed(0)
    module = Dinov3SegEarlyRefinement(
        type(tiny_config).from_dict({**tiny_config.to_dict(), "early_refinement_scale": scale})
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
        module.mixing_weight.fill_(initial_mixing_weight(share) if share < 1 else 10)
    return module.eval()


@torch.no_grad()
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("device, order", [("cpu", torch.channels_last), ("meta", torch.contiguous_format)])
def test_maps_of_pixels_have_the_order_that_suits_the_device(tiny_config, device, order, given):
    module, seen = make(tiny_config).to(device), []
    module.image_encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    pixels = torch.ones(2, 3, 32, 48, device=device).contiguous(memory_format=given)
    module(torch.ones(2, 32, 4, 6, device=device), pixels)
    assert [pixels.is_contiguous(memory_format=order) for pixels in seen] == [True]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("output", OUTPUTS)
def test_equals_the_published_code(published, output, grad):
    name, expected = output.removeprefix("out/").split("_")[0], RECORDED[output]
    with torch.set_grad_enabled(grad):
        refined = published(RECORDED[f"in/features_{name}"], RECORDED[f"in/image_{name}"], expected.shape[-2:])
    torch.testing.assert_close(refined, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_limits_of_memory_do_not_change_results(published, output, monkeypatch):
    """In float64, because a convolution of few rows rounds otherwise in float32, by up to 1e-5."""
    name, expected = output.removeprefix("out/").split("_")[0], RECORDED[output]
    module = copy.deepcopy(published).double()
    inputs = RECORDED[f"in/features_{name}"].double(), RECORDED[f"in/image_{name}"].double(), expected.shape[-2:]
    with torch.no_grad():
        unlimited = module(*inputs)
        for limit in ("MAX_LOGITS", "MAX_RESPONSES", "MAX_BAND", "MAX_MAPS"):
            monkeypatch.setattr(early_refinement, limit, 1)  # the smallest tiles and bands, one image
        refined = module(*inputs)
    torch.testing.assert_close(refined.float(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(refined, unlimited, atol=1e-6, rtol=0)  # the weights of the attention are float32


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_limits_of_a_gpu_do_not_change_results(published, output, monkeypatch):
    monkeypatch.setattr(early_refinement, "elsewhere", lambda limit, device: early_refinement.ELSEWHERE[limit])
    test_the_limits_of_memory_do_not_change_results(published, output, monkeypatch)


@settings(max_examples=30, deadline=None)
@given(num_queries=st.integers(1, 70), num_keys=st.integers(1, 40), tile_size=st.integers(1, 20))
def test_tiles_cover_every_query_and_its_window(num_queries, num_keys, tile_size):
    first, end = window_bounds(num_queries, num_keys)
    seen = []
    for queries, keys, outside in plan_tiles(num_queries, num_keys, tile_size):
        for query, row in zip(range(num_queries)[queries], outside):
            inside = torch.arange(num_keys)[keys][~row].tolist()
            assert inside == list(range(first[query], end[query]))
            assert inside  # a query never has an empty window
            seen.append(query)
    assert seen == list(range(num_queries))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    scale=st.sampled_from([1, 2, 4]),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 100),
)
def test_every_output_is_a_convex_combination_of_its_inputs(tiny_config, height, width, scale, share, seed):
    module = make(tiny_config, share, scale)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, 8 * height, 8 * width, generator=generator)
    # with one-hot features, the outputs are the weights of the inputs
    one_hot = torch.eye(height * width).reshape(1, height * width, height, width).expand(2, -1, -1, -1)
    with torch.no_grad():
        weights = module(one_hot, pixels)
    assert weights.shape == (2, height * width, scale * height, scale * width)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, scale * height, scale * width))


def test_weights_are_zero_outside_the_window():
    query, key = torch.randn(1, 8, 30, 20), torch.randn(1, 8, 30, 20)
    weights = window_attention(query, key, torch.eye(600).reshape(1, 600, 30, 20), 2)[0].unflatten(0, (30, 20))
    rows, columns = torch.arange(30), torch.arange(20)
    far = (rows[:, None] - rows).abs()[:, None, :, None] > 3
    far = far | ((columns[:, None] - columns).abs()[None, :, None, :] > 2)
    assert weights[far].max() == 0
    assert weights[~far].min() >= 0 and (weights > 0).any()


def test_the_image_decides_where_attention_goes(tiny_config):
    module, patches = make(tiny_config), torch.randn(2, 32, 12, 12)
    one, other = (module(patches, torch.randn(2, 3, 96, 96)) for _ in range(2))
    assert (one - other).abs().max() > 1e-4


def test_no_tensor_has_an_entry_for_every_pair(tiny_config):
    """At 128 x 128 patches, all pairs of two heads would need 2 GiB; the windows of all queries alone 86 MiB."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
            nonlocal largest
            result = function(*arguments, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return result

    module = make(tiny_config)
    with torch.no_grad(), Watch():
        module(torch.randn(1, 32, 128, 128), torch.randn(1, 3, 256, 256))
    assert largest <= 1.1 * 2**23  # the features on the pixel grid; the logits of all windows would be 2.7 times that


@pytest.mark.parametrize("start", [0.01, 0.5, 0.99])
def test_the_share_and_the_attention_are_learned(tiny_config, start):
    module = make(tiny_config, share=start)
    assert module.share().item() == pytest.approx(start, abs=1e-6)
    module(torch.randn(1, 32, 12, 12), torch.randn(1, 3, 96, 96)).square().sum().backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None or p.grad.abs().max() == 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(tiny_config, dtype):
    module, patches, pixels = make(tiny_config), torch.randn(1, 32, 8, 8), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = module(patches, pixels)
        refined = module.to(dtype)(patches.to(dtype), pixels.to(dtype))
    assert refined.dtype == dtype
    assert (refined.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
