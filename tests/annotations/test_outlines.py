# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Outlines enclose exactly the pixels of a mask, with holes and without; simplified ones stay within the tolerance."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask
from scipy import ndimage

from dinov3seg_hf.annotations.outlines import outline, rings_of, single_ring

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
dense = arrays(
    bool, array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=12), elements=st.sampled_from([True] * 4 + [False])
)


def parts(mask):
    numbers, count = ndimage.label(mask)
    return [numbers == number for number in range(1, count + 1)]


def pixels_inside(polygon, shape):
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return shapely.contains_xy(polygon, x, y)


def even_odd(ring, shape):
    """The pixels whose centers are inside of a ring by the even-odd rule."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0)):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


@settings(deadline=None, max_examples=200)
@given(mask=masks | dense)
def test_outline_without_tolerance_is_the_mask(mask):
    for part in parts(mask):
        polygon = outline(part)
        assert polygon.is_valid and polygon.area == part.sum()
        np.testing.assert_array_equal(pixels_inside(polygon, part.shape), part)


@settings(deadline=None, max_examples=200)
@given(mask=masks | dense)
def test_one_ring_is_the_mask_also_for_the_reader_of_coco(mask):
    height, width = mask.shape
    for part in parts(mask):
        ring = single_ring(outline(part))
        np.testing.assert_array_equal(even_odd(ring, part.shape), part)
        runs = coco_mask.frPyObjects([ring.ravel().tolist()], height, width)
        np.testing.assert_array_equal(coco_mask.decode(coco_mask.merge(runs)).astype(bool), part)


@settings(deadline=None, max_examples=200)
@given(mask=masks | dense, tolerance=st.floats(0.1, 4))
def test_a_simplified_outline_is_valid_and_near_the_exact_one(mask, tolerance):
    for part in parts(mask):
        exact, simple = outline(part), outline(part, tolerance)
        assert simple.is_valid and simple.area > 0 and len(simple.interiors) == len(exact.interiors)
        # every corner that was left out is near
        for before, after in zip((exact.exterior, *exact.interiors), (simple.exterior, *simple.interiors)):
            away = shapely.distance(shapely.points(before.coords), after)
            assert away.max() <= tolerance + 1e-9
        assert abs(shapely.Polygon(single_ring(simple)).area) == pytest.approx(simple.area)


def test_corners_only_and_a_hole_that_meets_the_outline_in_a_corner():
    square = np.ones((3, 4), bool)
    (ring,) = rings_of(square)
    assert ring.tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    # the pixel in the middle touches the missing corner
    bitten = np.ones((3, 3), bool)
    bitten[0, 0] = bitten[1, 1] = False
    polygon = outline(bitten)
    assert polygon.is_valid and len(polygon.interiors) == 1 and polygon.area == 7


def test_a_large_circle_becomes_a_short_polygon():
    y, x = np.mgrid[:200, :200]
    circle = (x - 100) ** 2 + (y - 100) ** 2 < 90**2
    exact, simple = outline(circle), outline(circle, 1.0)
    assert len(simple.exterior.coords) < len(exact.exterior.coords) / 5
    assert (pixels_inside(simple, circle.shape) != circle).mean() < 0.02
