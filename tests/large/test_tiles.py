# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Tiles: every pixel is written once, and tiles leave no seam where a label depends on its surroundings alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinov3seg_hf.large.tiles import plan_tiles
from dinov3seg_hf.model.windows import sample_region

sides = st.integers(1, 150)


@given(sides, sides, st.sampled_from([16, 32, 48]), st.integers(0, 20))
def test_every_pixel_is_in_one_core_and_the_regions_have_one_size(height, width, core, overlap):
    tiles = plan_tiles((height, width), core, overlap)
    written = np.zeros((height, width), int)
    for tile in tiles:
        top, left, rows, columns = tile.core
        written[top : top + rows, left : left + columns] += 1
        assert top % core == 0 and left % core == 0  # a block of the file
        first, start, tall, wide = tile.region
        assert 0 <= first <= top and 0 <= start <= left and first + tall <= height and start + wide <= width
        for edge, border, length in ((top - first, 0, top), (first + tall - top - rows, 0, height - top - rows)):
            assert edge >= min(overlap, length) + border
    assert (written == 1).all() and len({tile.region[2:] for tile in tiles}) == 1


@given(sides, sides, st.sampled_from([16, 32]), st.integers(0, 6), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_labels_that_depend_on_their_surroundings_alone_have_no_seam(height, width, core, margin, reach, seed):
    """A labeling that looks `reach` pixels around gives the same tile by tile, if tiles overlap that far."""
    image = np.random.default_rng(seed).integers(0, 9, (height, width))

    def labels_of(pixels):
        padded = np.pad(pixels, reach)
        rows, columns = range(pixels.shape[0]), range(pixels.shape[1])
        shifted = [
            padded[down : down + len(rows), right : right + len(columns)]
            for down in range(2 * reach + 1)
            for right in range(2 * reach + 1)
        ]
        return np.max(shifted, axis=0)

    tiled = np.full_like(image, -1)
    for tile in plan_tiles(image.shape, core, margin + reach):
        top, left, rows, columns = tile.region
        top_core, left_core, tall, wide = tile.core
        core_labels = labels_of(image[top : top + rows, left : left + columns])[tile.core_in_region]
        tiled[top_core : top_core + tall, left_core : left_core + wide] = core_labels
    assert (tiled == labels_of(image)).all()


@pytest.mark.parametrize("core, overlap", [(0, 0), (24, 0), (32, -1)])
def test_tiles_that_a_file_cannot_have_are_refused(core, overlap):
    with pytest.raises(ValueError, match="multiple of 16"):
        plan_tiles((100, 100), core, overlap)


def test_a_size_that_only_a_damaged_file_has_is_refused_at_once():
    with pytest.raises(ValueError, match=r"The image is 2147483647 x 9 pixels, which are 134217728 tiles; expected at"):
        plan_tiles((2**31 - 1, 9), 16, 0)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 60), st.integers(1, 60))
def test_the_context_of_the_whole_image_is_the_whole_image(height, width, tall, wide):
    features = torch.randn(1, 3, height, width)
    same = sample_region(features, (0, 0, tall, wide), (tall, wide), (height, width))
    torch.testing.assert_close(same, features, rtol=1e-5, atol=1e-5)


def test_the_context_of_a_tile_lies_where_the_tile_lies():
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)  # the column
    part = sample_region(ramp, (16, 32, 16, 32), (64, 64), (4, 8))
    assert part.shape == (1, 2, 4, 8)
    torch.testing.assert_close(part[0, 0, 0], (torch.arange(8) * 0.5 + 3.75).clamp(max=7))  # 32 px: 4 cells, 8 points
