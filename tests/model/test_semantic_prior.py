# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The semantic prior gives guidance at the grid of patches and a feature as fine as each step of the decoder."""

import pytest
import torch

from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.dinotxt import Dinov3SegVisionTower
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation

SIZES = [(16, 16), (1, 1), (17, 30), (8, 40)]


def config_with(tiny_config, **changes) -> Dinov3SegConfig:
    return Dinov3SegConfig.from_dict({**tiny_config.to_dict(), **changes})


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("with_stem", [False, True])
def test_features_are_as_fine_as_the_steps_of_the_decoder(tiny_config, with_stem, image_size):
    config = tiny_config if with_stem else config_with(tiny_config, stem_channels=None)
    model = Dinov3SegForSemanticSegmentation(config).eval()
    features = model.get_image_features(torch.randn(2, 3, *image_size))
    patch_size = tiny_config.vision_config.patch_size
    height, width = (-(-side // patch_size) for side in image_size)
    assert features.guidance.shape == (2, tiny_config.guidance_hidden_size, height, width)
    assert [tuple(feature.shape) for feature in features.prior_features] == [
        (2, size, 2 ** (step + 1) * height, 2 ** (step + 1) * width)
        for step, size in enumerate(tiny_config.decoder_prior_sizes)
    ]


def test_steps_finer_than_the_stem_fall_back_to_the_layers_of_the_backbone(tiny_config):
    stem = tiny_config.stem_channels
    steps = len(stem) + 1
    config = config_with(tiny_config, decoder_hidden_sizes=[8] * steps, decoder_prior_sizes=[4] * steps)
    model = Dinov3SegForSemanticSegmentation(config).eval()
    assert model.semantic_prior.num_stem_steps == len(stem)
    assert len(model.semantic_prior.layer_indices) == 1
    features = model.get_image_features(torch.randn(1, 3, 16, 16)).prior_features
    patches = 16 // config.vision_config.patch_size
    assert [feature.shape[-1] for feature in features] == [2 ** (step + 1) * patches for step in range(steps)]


def test_the_maps_of_the_stem_are_those_the_patches_come_from(tiny_config):
    tower = Dinov3SegVisionTower(tiny_config)
    image = torch.randn(2, 3, 16, 24)
    maps = tower.stem_maps(image)
    assert [tuple(one.shape[1:]) for one in maps] == [
        (channels, 16 >> level, 24 >> level) for level, channels in enumerate(tiny_config.stem_channels, start=1)
    ]
    stem = tower.backbone.embeddings.patch_embeddings
    torch.testing.assert_close(stem.projection(maps[-1]), stem(image))
    assert Dinov3SegVisionTower(config_with(tiny_config, stem_channels=None)).stem_maps(image) == ()


def test_detail_within_a_patch_reaches_the_finest_feature(tiny_config):
    """Two images of stripes differ by half a patch to the right: so do their features."""
    model = Dinov3SegForSemanticSegmentation(tiny_config).eval()
    patch = tiny_config.vision_config.patch_size
    stripes = torch.where(torch.arange(8 * patch) % patch < patch // 2, 1.0, -1.0).expand(1, 3, 8 * patch, -1)
    one, other = (model.get_image_features(sign * stripes).prior_features[-1][0] for sign in (1, -1))
    inner = slice(one.shape[-1] // 4, -one.shape[-1] // 4)  # the borders are no stripes
    moved = other.roll(one.shape[-1] // 16, -1)
    assert (one - moved)[:, inner, inner].abs().mean() < 0.1 * (one - other)[:, inner, inner].abs().mean()


def test_the_stem_is_frozen_with_the_encoders_and_its_projection_learns(tiny_config):
    model = Dinov3SegForSemanticSegmentation(tiny_config)
    model.freeze_encoders().train()
    features = model.get_image_features(torch.randn(1, 3, 16, 16)).prior_features
    sum(feature.square().sum() for feature in features).backward()
    assert all(parameter.grad is None for parameter in model.vision_model.parameters())
    assert all(projection.weight.grad.any() for projection in model.semantic_prior.feature_projections)
