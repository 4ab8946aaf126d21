# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Refinement by pixels: the average over neighbors of like color, however it is cut, and the edges that follow."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.model import labeling, pixel_refinement, refined_label_maps
from dinov3seg_hf.model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from dinov3seg_hf.model.image_stages import PreparedImage
from dinov3seg_hf.model.inference_settings import InferenceSettings
from dinov3seg_hf.model.labeling import MAX_LEAD, ScoreMaps, label_pixels
from dinov3seg_hf.model.pixel_refinement import (
    CONTRAST,
    DILATIONS,
    NUM_STEPS,
    TINY,
    grow,
    neighbor_offsets,
    neighbor_weights,
    refine_maps,
)
from dinov3seg_hf.model.refined_label_maps import label_and_score_refined

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
                result[row, column] += weight * maps[y, x]
    return result


def plain_twin(maps, weights):
    """All steps for whole maps, one neighbor after the other."""
    margin, (height, width) = max(DILATIONS), maps.shape[:2]
    for _ in range(NUM_STEPS):
        around = F.pad(maps.permute(2, 0, 1)[None], [margin] * 4, mode="replicate")[0].permute(1, 2, 0)
        maps = sum(
            weight[..., None] * around[margin + down :, margin + right :][:height, :width]
            for weight, (down, right) in zip(weights.unbind(dim=2), neighbor_offsets())
        )
    return maps


@pytest.mark.parametrize("dilations", [(1,), (1, 2), (3,)])
def test_a_step_is_the_definition(dilations):
    pixels, maps = torch.rand(3, 9, 7, dtype=torch.float64).float(), torch.rand(9, 7, 2)
    weights = neighbor_weights(pixels, dilations)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(9, 7))
    refined = refine_maps(maps, weights, dilations=dilations, num_steps=1)
    torch.testing.assert_close(refined, one_step_by_definition(maps, pixels, dilations), rtol=0, atol=1e-4)


def test_no_value_is_denormal_and_no_value_is_lost():
    """A CPU takes ten times as long for denormal numbers, to which shares far from their region decay."""
    smallest = torch.finfo(torch.float32).tiny
    pixels = torch.rand(3, 30, 30).round()  # edges as hard as can be: weights of 0 and near it
    distances = torch.cdist(torch.rand(6, 2) * 30, torch.cartesian_prod(*2 * [torch.arange(30.0)]))
    maps = distances.square().neg().softmax(dim=0).T.unflatten(0, (30, 30))
    assert ((maps > 0) & (maps < smallest)).any()
    weights = neighbor_weights(pixels)
    refined = refine_maps(maps, weights)
    for values in weights, refined:
        assert ((values == 0) | (values >= smallest)).all()
    expected = plain_twin(maps.double(), weights.double())
    torch.testing.assert_close(refined.double(), expected, rtol=1e-5, atol=1e-16)


@pytest.mark.parametrize("height", [1, 5, 1000])
def test_bands_change_nothing(height, monkeypatch):
    pixels, values = torch.rand(3, 37, 23), torch.rand(37, 23, 5)
    expected = plain_twin(values, neighbor_weights(pixels))
    monkeypatch.setattr(pixel_refinement, "BAND_HEIGHT", height)
    torch.testing.assert_close(refine_maps(values, neighbor_weights(pixels)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "columns"), [((0, 40), (0, 30)), ((100, 130), (0, 200)), ((101, 102), (90, 97)), ((150, 190), (150, 200))]
)
def test_a_part_of_an_image_is_refined_as_in_the_whole_image(rows, columns):
    weights, maps = neighbor_weights(torch.rand(3, 190, 200)), torch.rand(190, 200, 3)
    rows, columns, reach = slice(*rows), slice(*columns), NUM_STEPS * max(DILATIONS)
    around = maps[grow(rows, reach, 190), grow(columns, reach, 200)]
    part = refine_maps(around, weights, rows, columns)
    assert torch.equal(part, refine_maps(maps, weights)[rows, columns])


@pytest.mark.parametrize("size", [(30, 210), (50, 400), (20, 90)])
@pytest.mark.parametrize(("contrast", "sides"), [(0.3, (70,)), (3.0, (1000,)), (30.0, (70, 110))])
def test_blocks_of_classes_that_can_win_give_the_labels_of_all_classes(size, contrast, sides, monkeypatch):
    """Vague and clear shares, in small and large blocks, at other sizes than that of the image."""
    monkeypatch.setattr(refined_label_maps, "BLOCK_SIDES", sides)
    monkeypatch.setattr(refined_label_maps, "MAX_CLASSES", 3)
    generator = torch.Generator().manual_seed(0)
    shares = (contrast * torch.randn(12, 2, 15, generator=generator)).softmax(dim=0)
    weights = neighbor_weights(torch.rand(3, 30, 210, generator=generator))
    classes = torch.arange(12) * 2 + 1
    labels, scores = label_and_score_refined(shares, classes, weights, size)

    upsampled = F.interpolate(shares[None], size=(30, 210), mode="bilinear")[0].permute(1, 2, 0)
    refined = plain_twin(upsampled, weights).permute(2, 0, 1)
    expected = F.interpolate(refined[None], size=size, mode="bilinear")[0]
    best, winners = expected.max(dim=0)
    torch.testing.assert_close(scores, best, rtol=1e-5, atol=1e-6)
    chosen = expected.gather(0, (labels.long()[None] - 1) // 2)[0]
    torch.testing.assert_close(chosen, best, rtol=1e-5, atol=1e-6)  # of equals, either may win
    assert (labels == classes[winners]).float().mean() > 0.999


def test_classes_that_cannot_win_nearby_are_not_refined(monkeypatch):
    refined, refine = [], refined_label_maps.refine_maps
    monkeypatch.setattr(refined_label_maps, "BLOCK_SIDES", (100,))
    monkeypatch.setattr(
        refined_label_maps, "refine_maps", lambda maps, *others: refined.append(maps.shape[2]) or refine(maps, *others)
    )
    shares = torch.full((50, 1, 30), 0.01)
    shares[0], shares[49, :, 24:] = 0.5, 0.51  # the last one can win on the right alone
    label_and_score_refined(shares, torch.arange(50), neighbor_weights(torch.rand(3, 10, 300)), (10, 300))
    assert refined == [1, 2, 2]


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (12, 3), (40, 40)])
def test_results_are_convex_combinations_for_any_size(size):
    pixels, maps = torch.rand(3, *size), torch.rand(*size, 3)
    refined = refine_maps(maps, neighbor_weights(pixels))
    low, high = maps.amin(dim=(0, 1)), maps.amax(dim=(0, 1))
    assert (refined.amin(dim=(0, 1)) >= low - 1e-5).all() and (refined.amax(dim=(0, 1)) <= high + 1e-5).all()
    constant = refine_maps(torch.full((*size, 1), 0.3), neighbor_weights(pixels))
    torch.testing.assert_close(constant, torch.full((*size, 1), 0.3))


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
    refined = refine_maps(torch.stack([left, 1 - left], dim=2), neighbor_weights(pixels))
    truth = torch.arange(48).expand(48, 48) >= 24
    wrong = (refined.argmax(dim=2).bool() != truth).float().mean()
    assert wrong < 0.01 < ((1 - left).bool() != truth).float().mean()


def test_shares_keep_the_order_of_high_logits():
    logits = torch.tensor([30.0, 32.0, -5.0])[:, None, None]
    shares = ScoreMaps(logits, "sigmoid").shares(torch.arange(3)).flatten()
    assert shares[1] > shares[0] > shares[2] and shares.sum() <= 1
    torch.testing.assert_close(
        ScoreMaps(torch.tensor([[[0.7]]]), "sigmoid").shares(torch.tensor([0])), torch.tensor([[[0.7]]]).sigmoid()
    )


@given(level=st.floats(-1e4, 80), num_labels=st.integers(1, 6), seed=st.integers(0, 99))
def test_shares_of_any_logits_keep_their_order_and_sum_to_at_most_one(level, num_labels, seed):
    logits = level + 3 * torch.randn(num_labels, 2, 3, generator=torch.Generator().manual_seed(seed))
    shares = ScoreMaps(logits, "sigmoid").shares(torch.arange(num_labels))
    winners = shares.argmax(dim=0, keepdim=True)
    torch.testing.assert_close(logits.gather(0, winners)[0], logits.amax(dim=0), rtol=1e-6, atol=1e-5)
    assert (shares.amax(dim=0) > 100 * TINY).all() and (shares.sum(dim=0) <= 1 + 1e-6).all()
    expected = F.pad(logits, (0, 0, 0, 0, 0, 1)).softmax(dim=0)[:-1]
    torch.testing.assert_close(shares, expected, rtol=1e-5, atol=1e-8)
    ordinary = logits.amax(dim=0) > -MAX_LEAD
    torch.testing.assert_close(shares[:, ordinary], expected[:, ordinary], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("score_function", ["sigmoid", "softmax", "none"])
def test_shares_of_some_labels_count_all_of_them_however_many_at_once(score_function, monkeypatch):
    maps = torch.rand(7, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = {
        "sigmoid": F.pad(maps, (0, 0, 0, 0, 0, 1)).softmax(dim=0)[:-1],
        "softmax": (maps / 0.02).softmax(dim=0),
        "none": maps,
    }[score_function]
    classes = torch.tensor([6, 0, 3])
    for budget in (1, 70, 10**6):
        monkeypatch.setattr(labeling, "MAX_RESIZED_VALUES", budget)
        shares = ScoreMaps(maps, score_function, 0.02 if score_function == "softmax" else 1.0).shares(classes)
        torch.testing.assert_close(shares, expected[classes], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("level", [0.0, -50.0, -150.0])
def test_labels_whose_logits_are_all_low_win_where_they_are_highest(level):
    logits = torch.full((3, 8, 8), level - 8)
    logits[1, :, :4], logits[2, :, 4:] = level, level
    pixels = torch.zeros(3, 32, 32)
    pixels[:, :, 16:] = 1
    image = PreparedImage({"pixel_values": pixels[None]}, (32, 32), "whole")
    label_map = label_pixels(
        ScoreMaps(logits, "sigmoid"), image, Dinov3SegImageProcessorPil(), InferenceSettings(refine="pixels")
    ).label_map
    assert (label_map[:, :15] == 1).all() and (label_map[:, 17:] == 2).all()


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


def test_many_labels_are_refined_in_parts(pipe, monkeypatch):
    """The parts, and labels that win nowhere, change nothing."""
    image, labels = random_image(60, 90), [f"thing {index}" for index in range(30)]
    expected = pipe(image, labels, refine="pixels", return_label_map=True)["label_map"]
    monkeypatch.setattr(refined_label_maps, "MAX_CLASSES", 1)
    label_map = pipe(image, labels, refine="pixels", return_label_map=True)["label_map"]
    assert (label_map == expected).mean() > 0.999


def test_a_threshold_holds_after_the_refinement(pipe):
    result = pipe(random_image(60, 90), LABELS, refine="pixels", threshold=1.0, return_label_map=True)
    assert (result["label_map"] == -1).all()


def test_other_refinements_are_refused(pipe):
    with pytest.raises(ValueError, match=r"refine is .*expected \"pixels\" or \"none\""):
        pipe(Image.new("RGB", (20, 20)), LABELS, refine="crf")
