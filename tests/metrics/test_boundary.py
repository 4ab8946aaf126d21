# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The boundary F-score equals a computation by all distances, and sees what the mIoU hardly sees."""

import math

import numpy as np
import pytest

from dinov3seg_hf.metrics.boundary import TOLERANCE, BoundaryScore, outline
from dinov3seg_hf.metrics.scoring import ConfusionMatrix


def score(prediction, truth, **options):
    boundary = BoundaryScore(**options)
    boundary.update(np.asarray(prediction), np.asarray(truth))
    return boundary.mean()


def by_distances(prediction, truth, tolerance):
    """The definition, with a table of all distances."""
    scores = []
    for label in np.unique(truth):
        points = [np.argwhere(outline(labels == label)) for labels in (prediction, truth)]
        if not all(map(len, points)):
            scores.append(0.0)
            continue
        distances = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
        precision = (distances.min(axis=1) <= tolerance).mean()
        recall = (distances.min(axis=0) <= tolerance).mean()
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(scores))


@pytest.mark.parametrize("tolerance", [1, 1.5, 3])
def test_it_is_the_definition(tolerance):
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, prediction = (np.kron(rng.integers(0, 3, (4, 5)), np.ones((5, 4), int)) for _ in range(2))
        assert score(prediction, truth, tolerance=tolerance) == pytest.approx(
            by_distances(prediction, truth, tolerance)
        )


def test_equal_maps_score_one_and_a_missing_class_zero():
    truth = np.kron(np.arange(4).reshape(2, 2), np.ones((8, 8), int))
    assert score(truth, truth) == 1
    assert score(np.full_like(truth, 7), truth) == 0
    assert score(np.zeros((8, 8), int), np.zeros((8, 8), int)) == 1  # one class everywhere


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (2, 1.0), (3, 0.0)])
def test_an_edge_that_moved_by_more_than_the_tolerance_is_missed(shift, expected):
    truth, moved = np.zeros((40, 40), int), np.zeros((40, 40), int)
    truth[:, 20:], moved[:, 20 + shift :] = 1, 1
    assert score(moved, truth, tolerance=2) == expected


def test_the_tolerance_follows_the_diagonal():
    truth, moved = np.zeros((600, 800), int), np.zeros((600, 800), int)
    reach = int(TOLERANCE * 1000)
    truth[:, 400:], moved[:, 400 + reach :] = 1, 1
    assert score(moved, truth) == 1
    moved[:, : 400 + reach + 1] = 0
    assert score(moved, truth) == 0


def test_clipped_corners_cost_more_here_than_in_the_iou():
    truth = np.zeros((96, 96), int)
    truth[32:64, 32:64] = 1
    clipped = truth.copy()
    rows, columns = np.indices((96, 96))
    clipped[np.abs(rows - 47.5) + np.abs(columns - 47.5) > 26] = 0
    matrix = ConfusionMatrix(2)
    matrix.update(clipped, truth)
    assert 1 - score(clipped, truth) > 2 * (1 - matrix.mean_iou())


def test_ignored_pixels_are_left_out_and_images_are_averaged():
    truth = np.zeros((20, 20), int)
    truth[:, 10:] = 1
    hidden, wrong = truth.copy(), truth.copy()
    hidden[:5], wrong[:5] = -1, 5
    boundary = BoundaryScore()
    boundary.update(wrong, hidden)
    assert boundary.mean() == 1
    boundary.update(np.full_like(truth, 3), truth)
    boundary.update(truth, np.full_like(truth, -1))  # nothing to score
    assert boundary.mean() == 0.5
    assert math.isnan(BoundaryScore().mean())


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"has shape \(4, 5\) and the ground truth has shape \(4, 4\)"):
        BoundaryScore().update(np.zeros((4, 5), int), np.zeros((4, 4), int))


def test_what_is_no_label_map_or_distance_is_refused():
    for wrong in (np.zeros((4, 4)), np.ma.masked_all((4, 4), int), [[0.5]]):
        with pytest.raises(ValueError, match="expected"):
            BoundaryScore().update(wrong, np.zeros(np.shape(wrong), int))
    for tolerance in (math.nan, -1, math.inf, "3"):
        with pytest.raises(ValueError, match="expected a distance in pixels"):
            BoundaryScore(tolerance)
