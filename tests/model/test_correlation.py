# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Correlations are cosines, and each text has a threshold of its own that its embedding decides alone."""

import pytest
import torch
from torch.nn import functional as F

from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.correlation import Dinov3SegCorrelationEmbedding, correlate
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation


@pytest.fixture
def inputs(tiny_config):
    generator = torch.Generator().manual_seed(0)
    width = tiny_config.vision_config.hidden_size
    patches = torch.randn(2, width, 3, 5, generator=generator)
    texts = F.normalize(torch.randn(4, 2, width, generator=generator), dim=-1)
    return patches, texts


def test_a_correlation_is_the_cosine_whatever_the_length_of_the_patch_token(inputs):
    patches, texts = inputs
    correlation = correlate(7 * patches, texts)
    expected = F.cosine_similarity(patches[:, None, None], texts[None, :, :, :, None, None], dim=3)
    torch.testing.assert_close(correlation, expected)


def test_products_of_half_precision_keep_the_best_of_847_names():
    """Names lie close together, as those of a language do: products in bfloat16 exchange the best of some patches."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(256, generator=generator)
    texts = F.normalize(common + 0.5 * torch.randn(847, 1, 256, generator=generator), dim=-1).bfloat16()
    patches = (common[:, None, None] + 0.5 * torch.randn(1, 256, 40, 40, generator=generator)).bfloat16()
    units = F.normalize(patches.double(), dim=1)
    expected = torch.einsum("bdhw,ckd->bckhw", units, texts.double()).argmax(1)
    in_half = torch.einsum("bdhw,ckd->bckhw", F.normalize(patches.float(), dim=1).bfloat16(), texts).argmax(1)
    assert (in_half != expected).float().mean() > 0.1
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = correlate(patches, texts).argmax(1)
        assert (found != expected).float().mean() <= 0.001


def test_thresholds_are_zero_until_they_are_trained(tiny_config, inputs):
    patches, texts = inputs
    model = Dinov3SegForSemanticSegmentation(tiny_config)
    correlation = correlate(patches, texts)
    torch.testing.assert_close(model.correlation_embedding.center(correlation, texts), correlation)


@pytest.mark.parametrize("use_global_text", [True, False])
def test_a_threshold_is_one_number_a_text_and_half_whatever_the_other_texts(tiny_config, inputs, use_global_text):
    patches, texts = inputs
    config = Dinov3SegConfig.from_dict({**tiny_config.to_dict(), "use_global_text": use_global_text})
    embedding = Dinov3SegCorrelationEmbedding(config)
    correlation = correlate(patches, texts if use_global_text else texts[:, 1:])
    shift = correlation - embedding.center(correlation, texts)  # (B, C, K, h, w)
    torch.testing.assert_close(shift, shift[:1, :, :, :1, :1].expand_as(shift))
    assert (shift[0, 0, :, 0, 0] - shift[0, 1, :, 0, 0]).abs().min() > 1e-4
    alone = embedding.center(correlation[:, 2:3], texts[2:3])
    torch.testing.assert_close(alone, embedding.center(correlation, texts)[:, 2:3])


def test_a_text_alone_is_told_apart_from_another_of_the_same_cosines(tiny_config, inputs):
    """What the attention among classes cannot do: of one class there is nothing to attend to."""
    _, texts = inputs
    model = Dinov3SegForSemanticSegmentation(tiny_config).eval()
    torch.nn.init.normal_(model.decoder.classifier.weight)
    image = model.get_image_features(torch.randn(1, 3, 16, 16))
    # two texts that are the same for every patch: they differ at right angles to all of them
    image.refined_features[:, 0] = 0
    one, other = texts[:1].clone(), texts[:1].clone()
    one[..., 0], other[..., 0] = 0.5, -0.5
    before = [model(image_features=image, text_embeds=text).logits for text in (one, other)]
    torch.testing.assert_close(*before)
    torch.nn.init.normal_(model.correlation_embedding.text_threshold.weight)
    after = [model(image_features=image, text_embeds=text).logits for text in (one, other)]
    assert (after[0] - after[1]).abs().min() > 1e-3
