# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The decoder: the same logits with fused layers and in chunks; what all classes share is computed once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from dinov3seg_hf.model.decoder import Dinov3SegDecoder, Dinov3SegDecoderStep, add_fused_upsampling, fused_kernel


def random_step(in_size, out_size, prior_size):
    step = Dinov3SegDecoderStep(in_size, out_size, prior_size).eval()
    for parameter in step.parameters():
        nn.init.normal_(parameter)
    return step


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 7), st.integers(1, 7),
    st.integers(0, 10**6),
)  # fmt: skip
def test_a_fused_step_is_the_step(images, classes, in_size, out_size, height, width, seed):
    torch.manual_seed(seed)
    step = random_step(in_size, out_size, 3)
    hidden_states = torch.randn(images * classes, in_size, height, width)
    prior_feature = torch.randn(images, 3, 2 * height, 2 * width)
    guidance, kernel = step.guide(prior_feature)
    assert kernel is None  # with gradients
    expected = step.convolution1(step.upsample(hidden_states)) + guidance.repeat_interleave(classes, dim=0)
    with torch.no_grad():
        guidance, kernel = step.guide(prior_feature)
        found = add_fused_upsampling(guidance.repeat_interleave(classes, dim=0), hidden_states, kernel)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max()))


def test_the_kernel_has_each_pair_of_weights_once():
    upsample, convolution = torch.rand(3, 4, 2, 2), torch.rand(5, 4, 3, 3)
    kernel = fused_kernel(upsample, convolution)
    assert kernel.shape == (20, 3, 2, 2)
    expected = torch.einsum("imrs,omuv->oi", upsample, convolution)
    torch.testing.assert_close(kernel.unflatten(0, (4, 5)).sum(dim=(0, 3, 4)), expected)


@pytest.fixture
def decoder(tiny_config):
    torch.manual_seed(0)
    decoder = Dinov3SegDecoder(tiny_config).eval()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return decoder


def inputs_of(config, images=2, classes=5, height=4, width=3):
    generator = torch.Generator().manual_seed(1)
    hidden_states = torch.randn(images, classes, height, width, config.correlation_hidden_size, generator=generator)
    correlation = torch.randn(images, classes, 2, height, width, generator=generator)
    priors = tuple(
        torch.randn(images, size, 2 ** (i + 1) * height, 2 ** (i + 1) * width, generator=generator)
        for i, size in enumerate(config.decoder_prior_sizes)
    )
    return hidden_states, correlation, torch.tensor(10.0), priors


@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_chunks_and_gradients_change_nothing_and_the_prior_is_convolved_once(decoder, tiny_config, chunk_size):
    inputs = inputs_of(tiny_config)
    expected = decoder(*inputs)  # not fused
    calls = []
    for step in decoder.steps:
        step.prior_convolution.register_forward_hook(lambda *_: calls.append(0))
    with torch.no_grad():
        found = decoder(*inputs, chunk_size)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))
    assert len(calls) == len(decoder.steps)


@pytest.mark.parametrize("width", [1, 7, 16, 33, 50, 64])
def test_a_step_has_any_width_and_groups_of_about_sixteen_channels(width):
    step = random_step(4, width, 3)
    assert step(torch.randn(2, 4, 3, 5), torch.zeros(1, width, 6, 10)).shape == (2, width, 6, 10)
    assert width % step.norm1.num_groups == 0
    if width % 16 == 0:
        assert step.norm1.num_groups == width // 16


class Doubled(nn.Conv2d):
    """A layer that does more than its weights say, like that of an adapter."""

    def forward(self, hidden_states):
        return 2 * super().forward(hidden_states)


@torch.no_grad()
def test_layers_of_an_adapter_are_called(decoder, tiny_config):
    inputs = inputs_of(tiny_config)
    plain = decoder(*inputs)
    for step in decoder.steps:
        doubled = Doubled(step.convolution1.in_channels, step.convolution1.out_channels, 3, padding=1)
        doubled.load_state_dict(step.convolution1.state_dict())
        step.convolution1 = doubled
    found = decoder(*inputs)
    assert (found - plain).abs().max() > 1e-2 * plain.abs().max()
    for step in decoder.steps:
        step.convolution1.__class__ = nn.Conv2d
        step.convolution1.weight *= 2
        step.convolution1.bias *= 2
    torch.testing.assert_close(decoder(*inputs), found, rtol=1e-4, atol=1e-5 * float(found.abs().max()))


class Wrapped(torch.Tensor):
    """A tensor that is computed in another way than its values say, like a quantized one."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        return 3 * result.as_subclass(torch.Tensor) if func in (F.conv2d, F.conv_transpose2d) else result


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def doubled_forward(layer):
    layer.forward = lambda states: 2 * type(layer).forward(layer, states)


CHANGES = {
    "hook": lambda layer: layer.register_forward_hook(lambda module, inputs, output: 2 * output),
    "hook before": lambda layer: layer.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],)),
    "weights made by a hook": lambda layer: layer.register_forward_pre_hook(
        lambda module, inputs: setattr(module, "weight", nn.Parameter(torch.full_like(module.weight, 0.1)))
    ),
    "parametrization": lambda layer: parametrize.register_parametrization(layer, "weight", Halved()),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "forward of the layer": doubled_forward,
    "class of weights": lambda layer: setattr(
        layer, "weight", nn.Parameter(layer.weight.detach().as_subclass(Wrapped), requires_grad=False)
    ),
    "no bias": lambda layer: setattr(layer, "bias", None),
}


@pytest.mark.parametrize("name", ["upsample", "convolution1"])
@pytest.mark.parametrize("change", CHANGES)
def test_layers_that_do_more_than_their_weights_say_are_called(decoder, tiny_config, name, change):
    inputs = inputs_of(tiny_config)
    with torch.no_grad():
        before = decoder(*inputs)
    layer = getattr(decoder.steps[0], name)
    CHANGES[change](layer)
    expected = decoder(*inputs).detach()  # not fused
    with torch.no_grad():
        found = decoder(*inputs)
    # other steps are fused
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert (found - before).abs().max() > 1e-3 * before.abs().max()


def test_a_listener_sees_what_the_layer_computes(decoder, tiny_config):
    inputs, seen = inputs_of(tiny_config), []
    for name in ("upsample", "convolution1"):
        getattr(decoder.steps[0], name).register_forward_hook(lambda *call: seen.append(call[2].shape[2:]))
    with torch.no_grad():
        decoder(*inputs)
    assert seen == [(8, 6), (8, 6)]


def test_other_borders_are_kept(decoder, tiny_config):
    inputs = inputs_of(tiny_config)
    for step in decoder.steps:
        step.convolution1.padding_mode = "replicate"
    expected = decoder(*inputs).detach()  # not fused
    with torch.no_grad():
        assert torch.equal(decoder(*inputs), expected)
