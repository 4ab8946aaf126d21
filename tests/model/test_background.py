# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Pixels that show none of the labels: the bound makes few errors, and only such pixels lose their label."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov3seg_hf import OpenVocabularySegmentationPipeline, Vocabulary
from dinov3seg_hf.model import resizing
from dinov3seg_hf.model.background import (
    FULL_HEAD_BOUND,
    SEAM,
    Confidence,
    bound_between,
    measure_confidence,
    shows_none,
)
from dinov3seg_hf.model.calibration import Calibration
from dinov3seg_hf.model.checks import CalibrationWarning

LABELS = ["cat", "dog", "grass", "sky"]
FUNCTIONS = ("sigmoid", "softmax", "none")


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor)


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


# --- the bound -------------------------------------------------------------------------------------------------------


def mixture(share, distance, spread, seed):
    """Confidences of 4000 right and missing labels, and of runners-up: the truth that `bound_between` does not see."""
    generator = torch.Generator().manual_seed(seed)
    missing = torch.rand(4000, generator=generator) < share
    low = torch.randn(4000, generator=generator).mul(spread).exp()
    best = torch.where(missing, low, distance * torch.randn(4000, generator=generator).mul(0.3).exp())
    return best, torch.randn(4000, generator=generator).mul(spread).exp(), missing


@settings(deadline=None, max_examples=40)
@given(share=st.floats(0, 1), distance=st.floats(2, 20), spread=st.floats(0.1, 0.6), seed=st.integers(0, 999))
def test_the_bound_is_nearly_as_good_as_one_that_knows_the_truth(share, distance, spread, seed):
    best, runner_up, missing = mixture(share, distance, spread, seed)

    def errors(bound):
        return ((best < bound) != missing).float().mean().item()

    optimum = min(errors(bound) for bound in [*best.quantile(torch.linspace(0, 1, 101)).tolist(), float("inf")])
    assert errors(bound_between(best, runner_up)) <= optimum + 0.06


@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_only_the_order_of_confidences_matters(seed, share):
    best, runner_up, _ = mixture(share, 5, 0.4, seed)
    best, runner_up = best[:200].double(), runner_up[:200].double()
    bound = bound_between(best, runner_up)
    assert bound_between(best**3 + 7, runner_up**3 + 7) == pytest.approx(bound**3 + 7)


def test_labels_that_are_no_more_confident_than_the_second_are_all_dropped_and_clear_ones_all_kept():
    for same in (torch.rand(500), torch.ones(30), torch.zeros(1)):
        assert (same < bound_between(same, same)).all()
    ones = torch.ones(30)
    assert (ones >= bound_between(ones, torch.zeros(30))).all()


# --- the confidence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_runner_up_is_as_confident_as_without_the_best_label(function):
    maps = torch.rand(5, 6, 7) * 0.2 + (0 if function != "sigmoid" else -1)
    confidence = measure_confidence(maps, function, (48, 56))
    assert confidence.labels.shape == confidence.values.shape == (2, 24, 28) and confidence.num_labels == 5
    for removed in range(5):
        others = [label for label in range(5) if label != removed]
        without = measure_confidence(maps[others], function, (48, 56))
        where = confidence.labels[0] == removed
        assert where.any()
        torch.testing.assert_close(without.values[0][where], confidence.values[1][where])
        assert torch.equal(torch.tensor(others)[without.labels[0]][where], confidence.labels[1][where])


def test_the_scale_of_similarities_and_the_order_of_labels_do_not_matter():
    maps, order = torch.rand(6, 5, 5), torch.tensor([3, 0, 5, 1, 4, 2])
    one, other = (measure_confidence(m, "softmax", (40, 40)) for m in (maps, 0.25 * maps[order]))
    torch.testing.assert_close(0.125 * one.values, other.values)
    assert torch.equal(order[other.labels], one.labels)
    pixels = torch.zeros(40, 40, dtype=torch.int32)
    assert torch.equal(shows_none(one, "softmax", pixels), shows_none(other, "softmax", pixels))


def test_strips_change_nothing(monkeypatch):
    maps = torch.rand(4, 9, 11)
    expected = measure_confidence(maps, "softmax", (72, 88))
    monkeypatch.setattr(resizing, "MAX_RESIZED_VALUES", 500)
    confidence = measure_confidence(maps, "softmax", (72, 88))
    torch.testing.assert_close(confidence.values, expected.values)
    assert torch.equal(confidence.labels, expected.labels)


@pytest.mark.parametrize("num_labels", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (300, 200)])
def test_few_labels_and_maps_as_fine_as_the_image(num_labels, size):
    confidence = measure_confidence(torch.rand(num_labels, 5, 3), "sigmoid", size)
    assert confidence.values.isfinite().all() and confidence.values.shape[1:] >= (5, 3)
    assert shows_none(confidence, "sigmoid", torch.zeros(size, dtype=torch.int32)).shape == size


def test_where_two_labels_meet_both_keep_their_pixels_and_a_wide_gap_stays():
    maps = torch.full((3, 12, 40), 0.1)
    maps[0, :, :20], maps[1, :, 20:] = 1.0, 1.0
    maps[:2, 3:9, 6:12] = 0.2  # neither of them
    confidence = measure_confidence(maps, "softmax", (96, 320))
    none = shows_none(
        confidence, "softmax", torch.zeros(96, 320, dtype=torch.int32), Calibration((0.5,), "dinotxt", "m")
    )
    expected = torch.zeros(96, 320, dtype=torch.bool)
    expected[24:72, 48:96] = True
    assert confidence.values[0, :, 79:81].max() < 0.5  # the seam
    assert not none[:, 150:170].any() and (none != expected).float().mean() < 0.02


def test_negative_similarities_are_no_confidence():
    confidence = measure_confidence(-torch.rand(3, 4, 4), "softmax", (4, 4))
    assert (confidence.values == 0).all()


def test_the_full_head_needs_a_probability_and_a_lead():
    logits = torch.tensor([[4.0, 4.0, -4.0], [-4.0, 3.9, -4.0]])  # sure, two that fit alike, none
    logits = logits.repeat_interleave(2 * SEAM, dim=1)[:, None]
    confidence = measure_confidence(logits, "sigmoid", (1, 6 * SEAM))
    none = shows_none(confidence, "sigmoid", torch.zeros(1, 6 * SEAM, dtype=torch.int32))
    assert none.tolist() == [[False] * 2 * SEAM + [True] * 4 * SEAM]


@given(num_labels=st.integers(2, 40), level=st.floats(5, 50), lead=st.floats(3, 20))
def test_labels_that_fit_nearly_as_well_do_not_take_the_label_of_the_full_head(num_labels, level, lead):
    logits = torch.full((num_labels, 1, 1), level)  # their sigmoids are all 1
    logits[0] += lead
    confidence = measure_confidence(logits, "sigmoid", (1, 1))
    assert confidence.labels[0].item() == 0 and confidence.values[0].item() > FULL_HEAD_BOUND
    two = measure_confidence(logits[:2], "sigmoid", (1, 1))
    torch.testing.assert_close(confidence.values[0], two.values[0])  # their number does not matter


# --- the pipeline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["full", "dinotxt"])
@pytest.mark.parametrize("options", [{}, {"refine": "pixels"}, {"inference": "slide"}, {"size": {"shortest_edge": 40}}])
def test_only_pixels_that_show_none_lose_their_label(pipe, image, head, options):
    every, some = (
        pipe(image, LABELS, return_label_map=True, head=head, background=background, **options)["label_map"]
        for background in ("never", "auto")
    )
    assert (every >= 0).all() and np.array_equal(some[some >= 0], every[some >= 0])
    encodable = options.get("inference") != "slide"
    if encodable:
        size = {"size": options["size"]} if "size" in options else {}
        again = pipe(
            pipe.encode_image(image, head=head, **size), LABELS, return_label_map=True, head=head, background="auto",
            **({"refine": "pixels"} if "refine" in options else {}),
        )  # fmt: skip
        assert np.array_equal(again["label_map"], some)


@pytest.mark.parametrize("head", ["full", "dinotxt"])
def test_the_bounds_of_a_calibrated_vocabulary_decide_per_label(pipe, image, head):
    plain = pipe(image, LABELS, return_label_map=True, head=head)["label_map"]
    dropped = int(np.bincount(plain.ravel()).argmax())
    thresholds = [1e9 if label == dropped else 0.0 for label in range(len(LABELS))]
    calibration = Calibration(tuple(thresholds), head, pipe.text_fingerprint())
    vocabulary = Vocabulary(LABELS, calibration=calibration)
    labeled = pipe(image, vocabulary, return_label_map=True, head=head)["label_map"]
    assert np.array_equal(labeled, np.where(plain == dropped, -1, plain))
    text = pipe.encode_labels(vocabulary)
    assert np.array_equal(pipe(image, text, return_label_map=True, head=head)["label_map"], labeled)
    never = pipe(image, vocabulary, return_label_map=True, head=head, background="never")["label_map"]
    assert np.array_equal(never, plain)


def test_what_cannot_be_decided_is_refused(pipe, image):
    with pytest.raises(ValueError, match='Got 2 labels with background="auto"; expected at least 3'):
        pipe(image, ["cat", "dog"], head="dinotxt", background="auto")
    with pytest.raises(ValueError, match='background is \'always\'; expected "auto" or "never"'):
        pipe(image, LABELS, background="always")
    calibration = Calibration((0.1,) * 4, "dinotxt", pipe.text_fingerprint())
    with pytest.raises(ValueError, match='calibrated for head="dinotxt"; expected head="full"'):
        pipe(image, Vocabulary(LABELS, calibration=calibration), head="full")
    with pytest.warns(CalibrationWarning, match="calibrated with another checkpoint"):
        pipe(image, Vocabulary(LABELS, calibration=Calibration((0.1,) * 4, "full", "other")), head="full")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe(image, Vocabulary(LABELS, calibration=Calibration((0.1,) * 4, "full", "other")), background="never")


def test_a_confidence_is_what_it_says():
    best = torch.tensor([[0.5, 0.1]]).repeat_interleave(2 * SEAM, dim=1)
    values = torch.stack([best, torch.zeros_like(best)])
    confidence = Confidence(torch.zeros_like(values, dtype=torch.int64), values, 3)
    none = shows_none(
        confidence, "softmax", torch.zeros(best.shape, dtype=torch.int32), Calibration((0.3,), "dinotxt", "m")
    )
    assert none.tolist() == [[False] * 2 * SEAM + [True] * 2 * SEAM]
