# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The drawn world: what is held out, what a scene may hold, and that its labels say what was drawn."""

import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from dinov3seg_hf.drawn_world import scenes
from dinov3seg_hf.drawn_world.names import (
    COLORS,
    KINDS,
    NAMES,
    PATTERNS,
    SEEN,
    SHAPES,
    SPLITS,
    UNSEEN,
    factors_of,
    phrase_groups,
    phrases_of,
    true_phrase,
)
from dinov3seg_hf.drawn_world.scenes import batch, contact_sheet, draw_scene

FACTOR_PAIRS = ((0, 1), (0, 2), (1, 2))  # of (color, pattern, kind)


def rgb_of(image, mask):
    return np.median(image[mask].astype(float), axis=0)


# Names and the holdout


def test_names_are_all_combinations_once():
    assert len(NAMES) == len(set(NAMES)) == len(COLORS) * len(PATTERNS) * len(KINDS) == 192
    assert {factors_of(name) for name in NAMES} == set(itertools.product(COLORS, PATTERNS, KINDS))


def test_seen_and_unseen_part_the_names_and_about_a_quarter_is_held_out():
    assert not set(SEEN) & set(UNSEEN)
    assert sorted(SEEN + UNSEEN) == sorted(NAMES)
    assert 0.22 <= len(UNSEEN) / len(NAMES) <= 0.28
    objects = [name for name in NAMES if not name.endswith("background")]
    assert 0.22 <= len(set(objects) & set(UNSEEN)) / len(objects) <= 0.28


def test_of_each_group_of_phrases_just_one_is_true_of_a_name():
    groups = phrase_groups()
    assert [len(group) for group in groups.values()] == [8, 4, 6, 32, 48, 24]
    for group in groups.values():
        for name, index in zip(NAMES, true_phrase(group)):
            assert set(group) & set(phrases_of(name)) == {group[index]}


@pytest.mark.parametrize("pair", FACTOR_PAIRS)
def test_two_factors_of_an_unseen_name_leave_several_unseen_candidates_for_the_third(pair):
    unseen = [factors_of(name) for name in UNSEEN]
    candidates = Counter(tuple(factors[i] for i in pair) for factors in unseen)
    assert min(candidates.values()) >= (3 if pair == (1, 2) else 2)
    if pair == (0, 1):  # most kinds have three or more; purple, without a background among them, has two
        assert np.mean([count >= 3 for count in candidates.values()]) > 0.8


def test_two_factors_do_not_give_away_the_third_among_objects_alone():
    unseen = [factors_of(name) for name in UNSEEN if not name.endswith("background")]
    for pair in FACTOR_PAIRS:
        assert min(Counter(tuple(factors[i] for i in pair) for factors in unseen).values()) >= 2


@pytest.mark.parametrize("pair", FACTOR_PAIRS)
def test_every_pair_of_words_is_seen_in_training(pair):
    possible = {tuple(factors_of(name)[i] for i in pair) for name in NAMES}
    assert {tuple(factors_of(name)[i] for i in pair) for name in SEEN} == possible
    # Also without the backgrounds: objects alone teach each pair of words.
    objects = [factors_of(name) for name in SEEN if not name.endswith("background")]
    assert {tuple(f[i] for i in pair) for f in objects} == {p for p in possible if "background" not in p}


def test_backgrounds_show_every_word_and_do_not_give_away_color_or_pattern():
    seen = [factors_of(name)[:2] for name in SEEN if name.endswith("background")]
    assert {color for color, _ in seen} == set(COLORS) and {pattern for _, pattern in seen} == set(PATTERNS)
    unseen = [factors_of(name) for name in UNSEEN if name.endswith("background")]
    for pair in ((0, 2), (1, 2)):
        assert min(Counter(tuple(factors[i] for i in pair) for factors in unseen).values()) >= 2


def test_every_word_loses_some_combination_and_keeps_most():
    unseen = Counter(word for name in UNSEEN for word in name.split())
    seen = Counter(word for name in SEEN for word in name.split())
    for word in COLORS + PATTERNS + KINDS:
        assert 0 < unseen[word] < seen[word], word


# Phrases


def test_phrases_of_an_object_are_every_true_partial_phrase_in_word_order():
    assert phrases_of("red striped circle") == (
        "red",
        "striped",
        "circle",
        "red striped",
        "red circle",
        "striped circle",
        "red striped circle",
    )


@pytest.mark.parametrize("name", NAMES[::17])
def test_a_phrase_belongs_to_exactly_the_names_that_hold_all_its_words(name):
    for phrase in phrases_of(name):
        for other in NAMES:
            assert (phrase in phrases_of(other)) == (set(phrase.split()) <= set(other.split()))


@pytest.mark.parametrize("name", ["", "red circle", "circle striped red", "pink striped circle", "red striped circle "])
def test_a_name_outside_the_world_is_refused_with_what_was_expected(name):
    with pytest.raises(ValueError, match=r"is not a name of the drawn world; expected"):
        factors_of(name)
    with pytest.raises(ValueError, match="is not a name"):
        phrases_of(name)


# Determinism


@pytest.mark.parametrize("split", ["seen", "unseen", "all"])
def test_a_scene_is_a_function_of_its_seed_split_and_size(split):
    first, _, again = draw_scene(11, split, (40, 70)), draw_scene(12, split), draw_scene(11, split, (40, 70))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.objects == again.objects and first.background == again.background
    assert not np.array_equal(first.image, draw_scene(12, split, (40, 70)).image)
    assert not np.array_equal(draw_scene(11, split, 70).image[:40], first.image)


@pytest.mark.multiprocess
def test_another_process_draws_the_same_bytes():
    code = (
        "import hashlib, dinov3seg_command; dinov3seg_command.running = True; "  # without torch, which takes seconds
        "from dinov3seg_hf.drawn_world.scenes import batch; "
        "print(hashlib.sha256(b''.join(a.tobytes() for a in batch(range(4), 'unseen', 64))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    here = hashlib.sha256(b"".join(a.tobytes() for a in batch(range(4), "unseen", 64))).hexdigest()
    assert other.stdout.strip() == here


def test_drawing_leaves_the_global_random_state_alone():
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    draw_scene(5)
    assert np.random.random() == expected


def test_a_batch_holds_the_scenes_of_its_seeds_in_order():
    images, labels = batch([9, 2, 9], "all", (33, 50))
    assert images.shape == (3, 33, 50, 3) and images.dtype == np.uint8
    assert labels.shape == (3, 33, 50) and labels.dtype == np.int16
    for index, seed in enumerate([9, 2, 9]):
        scene = draw_scene(seed, "all", (33, 50))
        np.testing.assert_array_equal(images[index], scene.image)
        np.testing.assert_array_equal(labels[index], scene.labels)
    assert batch([], "seen", 32)[0].shape == (0, 32, 32, 3)


# What a scene holds


@pytest.mark.parametrize("split,allowed", [("seen", SEEN), ("unseen", UNSEEN)])
def test_a_few_hundred_scenes_hold_every_name_of_their_split_and_no_other(split, allowed):
    scenes = [draw_scene(seed, split) for seed in range(300)]
    times = Counter(label for scene in scenes for label in np.unique(scene.labels).tolist())
    assert {NAMES[label] for label in times} == set(allowed)
    assert min(times.values()) >= 2
    counts = Counter(len(scene.objects) for scene in scenes)
    assert set(counts) == {1, 2, 3} and min(counts.values()) > 30


def test_the_split_all_mixes_seen_and_unseen_names():
    names = {name for seed in range(40) for name in draw_scene(seed, "all").names}
    assert names & set(SEEN) and names & set(UNSEEN)


def test_labels_say_what_was_drawn():
    for seed in range(60):
        scene = draw_scene(seed, "all")
        drawn = {scene.background} | {item.name for item in scene.objects}
        assert {NAMES[label] for label in np.unique(scene.labels)} == drawn
        assert scene.names[0] == scene.background and set(scene.names) == drawn
        assert scene.background.endswith("background")
        for item in scene.objects:
            assert NAMES[item.label] == item.name and factors_of(item.name)[2] in SHAPES
        # The top object is never covered: its center, inside every shape, carries its label.
        top = scene.objects[-1]
        assert scene.labels[int(top.center[0]), int(top.center[1])] == top.label


def test_every_object_stays_visible_with_its_center_inside():
    occluded = 0
    for seed in range(150):
        scene = draw_scene(seed)
        height, width = scene.labels.shape
        for index, item in enumerate(scene.objects):
            y, x = item.center
            assert 0.7 * item.radius <= y <= height - 0.7 * item.radius
            assert 0.7 * item.radius <= x <= width - 0.7 * item.radius
            assert 17 <= item.radius <= 32 and -30 <= item.rotation <= 30
            assert 0.35 <= item.visible <= 1
            same = [other for other in scene.objects if other.label == item.label]
            pixels = np.count_nonzero(scene.labels == item.label)
            assert pixels >= 0.35 * 1.8 * sum(other.radius**2 for other in same)  # 1.8 r^2: the smallest shape's area
            occluded += item.visible < 0.8 and index < len(scene.objects) - 1
    assert occluded > 10


def test_touching_regions_differ_in_color():
    for seed in range(120):
        scene = draw_scene(seed, "all")
        color = np.array([COLORS.index(factors_of(name)[0]) for name in NAMES])[scene.labels]
        for a, b, la, lb in (
            (color[1:], color[:-1], scene.labels[1:], scene.labels[:-1]),
            (color[:, 1:], color[:, :-1], scene.labels[:, 1:], scene.labels[:, :-1]),
        ):
            assert not np.any((a == b) & (la != lb))


def test_plain_regions_show_their_named_color():
    hues = {"red": 0, "orange": 28, "yellow": 56, "green": 128, "blue": 221, "purple": 287}
    checked = Counter()
    for seed in range(250):
        scene = draw_scene(seed, "all")
        for name in scene.names:
            color, pattern, _ = factors_of(name)
            if pattern != "plain":
                continue
            red, green, blue = rgb_of(scene.image, scene.labels == NAMES.index(name))
            high, low = max(red, green, blue), min(red, green, blue)
            checked[color] += 1
            if color == "white":
                assert low > 150, (seed, name)
            elif color == "black":
                assert high < 70, (seed, name)
            else:
                span = high - low
                assert span > 50, (seed, name)
                hue = {
                    red: (green - blue) / span % 6,
                    green: (blue - red) / span + 2,
                    blue: (red - green) / span + 4,
                }[high] * 60
                nearest = min(hues, key=lambda word: abs((hue - hues[word] + 180) % 360 - 180))
                assert nearest == color, (seed, name, hue)
    assert set(checked) == set(COLORS)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_second_tone_shows_and_covers_less_than_half(pattern):
    rng = np.random.default_rng(0)
    u, v = np.meshgrid(np.arange(200, dtype=np.float32), np.arange(200, dtype=np.float32))
    for _ in range(20):
        share = scenes._pattern(rng, pattern, u, v)
        if pattern == "plain":
            assert share is None
        else:
            assert share.min() == 0 and share.max() == 1
            assert 0.2 < share.mean() < 0.47


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_the_area_and_the_reach_it_is_placed_by(shape):
    radius = 60.0
    axis = np.arange(-100, 100, dtype=np.float32) + 0.5
    u, v = scenes._rotated(axis, axis, 0.3)  # turned: no edge along the pixel grid
    inside = scenes._DISTANCE[shape](u, v, radius) < 0
    assert np.count_nonzero(inside) == pytest.approx(scenes._AREA[shape] * radius**2, rel=0.01)
    assert np.hypot(u, v)[inside].max() == pytest.approx(scenes._REACH[shape] * radius, rel=0.03)


def test_the_background_is_textured_even_when_plain():
    for seed in range(40):
        scene = draw_scene(seed)
        background = scene.image[scene.labels == NAMES.index(scene.background)].astype(float)
        assert background.std(axis=0).max() > 1


# Sizes and arguments


@pytest.mark.parametrize("size", [16, 17, 96, (16, 300), (131, 40), (63, 64), (250, 190)])
def test_any_size_is_labeled_throughout(size):
    height, width = (size, size) if isinstance(size, int) else size
    for seed, split in itertools.product(range(6), ("seen", "unseen")):
        scene = draw_scene(seed, split, size)
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
        assert scene.labels.shape == (height, width) and scene.labels.dtype == np.int16
        present = {NAMES[label] for label in np.unique(scene.labels)}
        assert present == set(scene.names) <= set(SPLITS[split])
        assert len(scene.objects) >= 1


def test_a_larger_canvas_holds_more_objects():
    small = np.mean([len(draw_scene(seed).objects) for seed in range(20)])
    large = np.mean([len(draw_scene(seed, size=192).objects) for seed in range(20)])
    assert large > 2 * small


def test_number_and_radius_of_objects_can_be_chosen():
    for seed in range(20):
        scene = draw_scene(seed, num_objects=(2, 2), radius=(10, 14))
        assert len(scene.objects) == 2
        assert all(10 <= item.radius <= 14 for item in scene.objects)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"split": "train"}, "split is 'train'"),
        ({"size": 15}, "at least 16 pixels"),
        ({"size": (96, 0)}, "at least 16 pixels"),
        ({"num_objects": (0, 2)}, "num_objects is"),
        ({"num_objects": (3, 2)}, "num_objects is"),
        ({"radius": (20, 10)}, "radius is"),
        ({"radius": (1, 10)}, "radius is"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_scene(**{"seed": 0, **arguments})


# Contact sheet


def test_a_contact_sheet_shows_each_scene_enlarged():
    scenes = [draw_scene(seed, size=(20, 30)) for seed in range(5)]
    sheet = np.asarray(contact_sheet(scenes, columns=3, scale=2))
    assert sheet.shape == (2 * (40 + 4) + 4, 3 * (60 + 4) + 4, 3)
    np.testing.assert_array_equal(sheet[4 + 44 : 4 + 44 + 40 : 2, 4 + 64 : 4 + 64 + 60 : 2], scenes[4].image)
    assert contact_sheet(scenes, columns=3, captions=True).size[1] > sheet.shape[0]
    with pytest.raises(ValueError, match="at least 1 for each"):
        contact_sheet([], columns=3)
