# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Refinement by pixels: the average over neighbors of like color, however it is cut, and the edges that follow."""

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.model import pixel_refinement
from dinov3seg_hf.model.labeling import ScoreMaps
from dinov3seg_hf.model.pixel_refinement import CONTRAST, neighbor_offsets, neighbor_weights, refine_maps

LABELS = ["cat", "dog", "grass"]


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor)


def random_image(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def one_step_by_definition(maps, pixels, dilations):
    """The definition, pixel by pixel."""
    height, width = pixels.shape[1:]
    result = torch.zeros_like(maps)
    for row in range(height):
        for column in range(width):
            places = [
                (min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1))
                for down, right in neighbor_offsets(dilations)
            ]
            own = pixels[:, row, column]
            colors = torch.stack([pixels[:, y, x] for y, x in places])  # (N, 3)
            spread = torch.cat([colors, own[None]]).std(dim=0, correction=0)
            weights = (-(colors - own).abs() / (CONTRAST * spread + 1e-8)).mean(dim=1).softmax(dim=0)
            for weight, (y, x) in zip(weights, places):
                result[:, row, column] += weight * maps[:, y, x]
    return result


@pytest.mark.parametrize("dilations", [(1,), (1, 2), (3,)])
def test_a_step_is_the_definition(dilations):
    pixels, maps = torch.rand(3, 9, 7, dtype=torch.float64).float(), torch.rand(2, 9, 7)
    weights = neighbor_weights(pixels, dilations)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(9, 7))
    refined = refine_maps(maps, weights, dilations, num_steps=1)
    torch.testing.assert_close(refined, one_step_by_definition(maps, pixels, dilations), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "maps"), [(1, 1), (5, 2), (1000, 1000)])
def test_bands_change_nothing(height, maps, monkeypatch):
    pixels, values = torch.rand(3, 37, 23), torch.rand(5, 37, 23)
    expected = refine_maps(values, neighbor_weights(pixels))
    monkeypatch.setattr(pixel_refinement, "BAND_HEIGHT", height)
    monkeypatch.setattr(pixel_refinement, "BAND_MAPS", maps)
    torch.testing.assert_close(refine_maps(values, neighbor_weights(pixels)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (12, 3), (40, 40)])
def test_results_are_convex_combinations_for_any_size(size):
    pixels, maps = torch.rand(3, *size), torch.rand(3, *size)
    refined = refine_maps(maps, neighbor_weights(pixels))
    low, high = maps.amin(dim=(1, 2)), maps.amax(dim=(1, 2))
    assert (refined.amin(dim=(1, 2)) >= low - 1e-5).all() and (refined.amax(dim=(1, 2)) <= high + 1e-5).all()
    constant = refine_maps(torch.full((1, *size), 0.3), neighbor_weights(pixels))
    torch.testing.assert_close(constant, torch.full((1, *size), 0.3))


def test_brightness_and_contrast_do_not_matter():
    pixels = torch.rand(3, 20, 20)
    scaled = pixels * torch.tensor([2.0, 5.0, 0.5])[:, None, None] + torch.tensor([1.0, -3.0, 0.0])[:, None, None]
    torch.testing.assert_close(neighbor_weights(scaled), neighbor_weights(pixels), rtol=0, atol=1e-4)


def test_edges_move_to_the_edges_of_the_image():
    pixels = torch.zeros(3, 48, 48)
    pixels[:, :, 24:] = 1
    pixels += 0.01 * torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    left = torch.zeros(48, 48)
    left[:, :20] = 1  # four columns too narrow
    refined = refine_maps(torch.stack([left, 1 - left]), neighbor_weights(pixels))
    truth = torch.arange(48).expand(48, 48) >= 24
    wrong = (refined.argmax(dim=0).bool() != truth).float().mean()
    assert wrong < 0.01 < ((1 - left).bool() != truth).float().mean()


def test_shares_keep_the_order_of_high_logits():
    logits = torch.tensor([30.0, 32.0, -5.0])[:, None, None]
    shares = ScoreMaps(logits, "sigmoid").shares().flatten()
    assert shares[1] > shares[0] > shares[2] and shares.sum() <= 1
    torch.testing.assert_close(
        ScoreMaps(torch.tensor([[[0.7]]]), "sigmoid").shares(), torch.tensor([[[0.7]]]).sigmoid()
    )


# --- in the pipeline -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["full", "dinotxt"])
@pytest.mark.parametrize("inference", ["whole", "local-global", "slide"])
def test_every_mode_and_size_can_be_refined(pipe, head, inference):
    for size in ((60, 90), (200, 33)):
        result = pipe(random_image(*size), LABELS, inference=inference, head=head, refine="pixels", return_scores=True)
        assert result["label_map"].shape == size and set(np.unique(result["label_map"])) <= {0, 1, 2}
        assert all(0 <= segment["score"] <= 1 for segment in result["segments"])
        plain = pipe(random_image(*size), LABELS, inference=inference, head=head, refine="none", return_scores=True)
        np.testing.assert_array_equal(result["scores"], plain["scores"])


def test_an_encoded_image_is_refined_like_the_image(pipe):
    image = random_image(60, 90)
    whole = pipe(image, LABELS, refine="pixels", return_label_map=True)
    encoded = pipe(pipe.encode_image(image), LABELS, refine="pixels", return_label_map=True)
    np.testing.assert_array_equal(whole["label_map"], encoded["label_map"])


def test_many_labels_are_refined_in_parts(pipe):
    """The parts, and labels that win nowhere, change nothing."""
    image, labels = random_image(60, 90), [f"thing {index}" for index in range(30)]
    expected = pipe(image, labels, refine="pixels", return_label_map=True)["label_map"]
    for maps in (1, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dinov3seg_hf.model.labeling.BAND_MAPS", maps)
            label_map = pipe(image, labels, refine="pixels", return_label_map=True)["label_map"]
        assert (label_map == expected).mean() > 0.999


def test_a_threshold_holds_after_the_refinement(pipe):
    result = pipe(random_image(60, 90), LABELS, refine="pixels", threshold=1.0, return_label_map=True)
    assert (result["label_map"] == -1).all()


def test_other_refinements_are_refused(pipe):
    with pytest.raises(ValueError, match=r"refine is .*expected \"pixels\" or \"none\""):
        pipe(Image.new("RGB", (20, 20)), LABELS, refine="crf")
