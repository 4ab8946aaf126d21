# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3seg_hf.data.augmentation import PairedTransform
from dinov3seg_hf.model.loss import IGNORED

sides = st.integers(3, 60)
seeds = st.integers(0, 2**32 - 1)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image that says in red and green where each pixel is, four levels a pixel, and labels that say it too."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([4 * rows, 4 * columns, np.full_like(rows, 100)], axis=-1).astype(np.uint8)
    return image, (rows * width + columns).astype(np.int64)


@given(height=sides, width=sides, crop=st.tuples(sides, sides), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_every_pixel_keeps_its_label_whatever_scale_crop_and_flip(height, width, crop, seed):
    image, labels = coordinates(height, width)
    # enlarged only: a shrunken pixel is the mean of many, and has one label
    same_size = min(height, width) / min(crop)
    transform = PairedTransform(crop, scale=(same_size, 3 * same_size), color=0)
    cropped, kept = transform(image, labels, np.random.default_rng(seed))
    valid = kept >= 0
    # half a pixel is what nearest and bicubic differ by; the cubic overshoots at the image's edges
    assert np.abs(cropped[..., 0].astype(int) - 4 * (kept // width))[valid].max() <= 4
    assert np.abs(cropped[..., 1].astype(int) - 4 * (kept % width))[valid].max() <= 4


@given(height=sides, width=sides, crop=st.tuples(sides, sides), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_crop_has_the_size_asked_for_and_no_label_that_was_not_there(height, width, crop, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.choice([0, 7, 255, 256, 846, 65534, IGNORED], (height, width))
    cropped, kept = PairedTransform(crop, scale=(0.3, 3))(image, labels, rng)
    assert cropped.shape == (*crop, 3) and cropped.dtype == np.uint8
    assert kept.shape == crop and kept.dtype == labels.dtype
    assert set(np.unique(kept)) <= set(np.unique(labels)) | {IGNORED}


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_the_generator_alone_decides(seed):
    image, labels = coordinates(30, 40)
    transform = PairedTransform(24)
    first = transform(image, labels, np.random.default_rng(seed))
    np.random.default_rng(1).random(7)
    second = transform(image, labels, np.random.default_rng(seed))
    assert all(np.array_equal(one, other) for one, other in zip(first, second))


def test_draws_differ():
    image, labels = coordinates(30, 40)
    crops = {PairedTransform(24)(image, labels, np.random.default_rng(seed))[0].tobytes() for seed in range(20)}
    assert len(crops) == 20


def test_nothing_is_changed_where_there_is_nothing_to_draw():
    image, labels = coordinates(30, 40)
    transform = PairedTransform((30, 40), scale=(1, 1), flip=0, color=0)
    same = transform(image, labels, np.random.default_rng(0))
    assert np.array_equal(same[0], image) and np.array_equal(same[1], labels)


def test_flip_mirrors_both():
    image, labels = coordinates(30, 40)
    transform = PairedTransform((30, 40), scale=(1, 1), flip=1, color=0)
    mirrored = transform(image, labels, np.random.default_rng(0))
    assert np.array_equal(mirrored[0], image[:, ::-1]) and np.array_equal(mirrored[1], labels[:, ::-1])


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_color_leaves_geometry_and_labels_alone(seed):
    image, labels = coordinates(30, 40)
    plain = PairedTransform(24, color=1, brightness=0, contrast=0, saturation=0, hue=0)
    strong = PairedTransform(24, color=1, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
    before, after = (transform(image, labels, np.random.default_rng(seed)) for transform in (plain, strong))
    assert np.array_equal(before[1], after[1])
    assert not np.array_equal(before[0], after[0])


def test_each_kind_of_color_change_does_what_its_name_says():
    image = np.full((8, 8, 3), (160, 64, 32), np.uint8)
    labels = np.zeros((8, 8), np.int64)
    off = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}

    def colors(**strength) -> np.ndarray:
        transform = PairedTransform(8, scale=(1, 1), flip=0, color=1, **{**off, **strength})
        crops = [transform(image, labels, np.random.default_rng(seed))[0][0, 0] for seed in range(40)]
        return np.array(crops, float)

    brightness = colors(brightness=0.5)
    assert np.allclose(brightness / brightness[:, :1], image[0, 0] / 160, atol=0.03)  # the color remains
    assert brightness[:, 0].min() < 100 and brightness[:, 0].max() > 210
    spread = np.ptp(colors(saturation=0.5), axis=1)
    assert spread.min() < 90 < 160 < spread.max()
    turned = colors(hue=0.3)
    assert np.allclose(turned.max(axis=1), 160, atol=4)  # as bright as before, and another color
    assert len(set(turned.argmax(axis=1))) > 1


def test_a_shrunken_image_lies_in_a_border_that_is_ignored():
    image, labels = coordinates(40, 40)
    transform = PairedTransform(40, scale=(0.5, 0.5), flip=0, color=0, border=(1, 2, 3))
    places = set()
    for seed in range(10):
        cropped, kept = transform(image, labels, np.random.default_rng(seed))
        rows, columns = np.nonzero(kept >= 0)
        assert np.ptp(rows) == np.ptp(columns) == 19 and len(rows) == 400
        assert (cropped[kept < 0] == (1, 2, 3)).all()
        places.add((rows.min(), columns.min()))
    assert len(places) > 1


def test_scale_reaches_both_ends():
    image, labels = coordinates(60, 60)
    transform = PairedTransform(60, scale=(0.5, 2), color=0)
    seen = [len(np.unique(transform(image, labels, np.random.default_rng(seed))[1])) for seed in range(60)]
    assert min(seen) < 1.2 * 30 * 30 and max(seen) > 0.9 * 60 * 60


@pytest.mark.parametrize(
    "arguments",
    [
        {"crop_size": 0},
        {"crop_size": (3, 4, 5)},
        {"crop_size": 8, "scale": (2, 1)},
        {"crop_size": 8, "scale": (0, 1)},
        {"crop_size": 8, "flip": 1.5},
        {"crop_size": 8, "hue": 0.6},
        {"crop_size": 8, "contrast": 1},
    ],
)
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        PairedTransform(**arguments)


def test_what_does_not_belong_together_is_refused():
    transform, rng = PairedTransform(8), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"\(8, 9\).*\(9, 8\)"):
        transform(np.zeros((8, 9, 3), np.uint8), np.zeros((9, 8), np.int64), rng)
    with pytest.raises(ValueError, match=r"uint8.*signed"):
        transform(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), rng)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(PairedTransform)])
def test_what_is_no_number_is_refused_in_a_sentence(name):
    for value in (True, math.nan, "8", None, [None, 1, 2], (math.inf, math.inf), (1, math.inf), 0.5j, {}):
        with pytest.raises(ValueError, match=f"{name} is .*expected"):
            PairedTransform(**{"crop_size": 8, name: value})


def test_numbers_of_numpy_and_lists_are_numbers():
    image = np.arange(9 * 12 * 3, dtype=np.uint8).reshape(9, 12, 3)
    labels = np.arange(9 * 12).reshape(9, 12)
    expected = PairedTransform((8, 6), scale=(0.5, 2.0), border=(1, 2, 3))(image, labels, np.random.default_rng(0))
    same = PairedTransform([np.int64(8), 6], scale=[np.float32(0.5), 2], border=[1, 2, 3])
    for one, other in zip(expected, same(image, labels, np.random.default_rng(0))):
        np.testing.assert_array_equal(one, other)
    for wrong in (image[..., 0], image / 255, image[..., :2], image.tolist()):
        with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)"):
            same(wrong, labels, np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected an array and a Generator"):
        same(image, labels, 0)
