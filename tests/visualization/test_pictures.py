# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Colors that can be told apart, pictures that can be read, files that hold what they should or do not exist."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from dinov3seg_hf.drawn_world.names import NAMES as DRAWN_NAMES
from dinov3seg_hf.model.image_input import read_label_map
from dinov3seg_hf.visualization import colors as colors_module
from dinov3seg_hf.visualization.colors import MIN_DISTANCE, NAMED_COLORS, NONE_COLOR, color_palette, label_palette
from dinov3seg_hf.visualization.files import (
    check_writable,
    read_note,
    save_image,
    save_json,
    save_mask,
    segments_as_json,
)
from dinov3seg_hf.visualization.legend import MAX_LEGEND_ROWS, percent, with_legend
from dinov3seg_hf.visualization.pictures import MIN_DISPLAY_SIDE, Region, beside, overlay, regions_of

label_maps = npst.arrays(np.int32, npst.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-1, 4))
NAMES = ["red circle", "blue square", "yellow triangle", "green background", "cat"]


def flat_image(height, width, color=(90, 120, 60)):
    return Image.new("RGB", (width, height), color)


# --- colors ---------------------------------------------------------------------------------------------------------


def test_palette_is_the_same_whatever_its_length():
    longest = color_palette(3000)
    for length in (0, 1, 2, 20, 33, 255, 1024, 1025, 2999):
        np.testing.assert_array_equal(color_palette(length), longest[:length])
    assert longest.dtype == np.uint8 and longest.shape == (3000, 3)


def test_a_label_that_mentions_a_color_has_it():
    names = ["sky", "red circle", "Black background", "red square", "greenhouse", "blue-green sea", "grey wall"]
    colors = [tuple(color) for color in label_palette(names).tolist()]
    assert (colors[1], colors[2], colors[6]) == (NAMED_COLORS["red"], NAMED_COLORS["black"], NAMED_COLORS["gray"])
    assert not {colors[0], colors[4], colors[5]} & set(NAMED_COLORS.values())
    assert colors[3][0] > max(colors[3][1:])  # another red
    assert len(set(colors)) == len(names)


@pytest.mark.parametrize(
    "names", [[f"thing {index}" for index in range(40)], DRAWN_NAMES, ["white cat"] + ["dog"] * 900]
)
def test_label_colors_are_distinct_and_far_from_mentioned_colors(names):
    colors = label_palette(names).astype(int)
    assert len(np.unique(colors, axis=0)) == len(names)
    mentioned = [any(word in NAMED_COLORS for word in name.split()) for name in names]
    if not any(mentioned):
        np.testing.assert_array_equal(colors, color_palette(len(names)))
    if mentioned.count(True) == 1:
        (place,) = np.flatnonzero(mentioned)
        distances = np.abs(np.delete(colors, place, axis=0) - colors[place]).sum(axis=1)
        assert distances.min() >= MIN_DISTANCE


@given(st.lists(st.sampled_from(DRAWN_NAMES), unique=True, max_size=30), st.integers(0, 30))
def test_labels_keep_their_colors_and_new_ones_get_others(names, number):
    earlier = dict(zip(names[:number], map(tuple, label_palette(names[:number]).tolist())))
    colors = [tuple(color) for color in label_palette(names, earlier).tolist()]
    assert colors[:number] == list(earlier.values()) and len(set(colors)) == len(names)


def test_the_image_stands_beside_its_overlay():
    image, label_map = flat_image(40, 60), np.zeros((40, 60), int)
    picture = overlay(image, label_map)
    both = beside(image, picture)
    assert both.size == (2 * picture.width, picture.height)
    assert both.crop((picture.width, 0, *both.size)).tobytes() == picture.tobytes()
    assert both.getpixel((5, 5)) == image.getpixel((0, 0))


def test_palette_cannot_be_spoilt_by_its_user():
    color_palette(3)[:] = 0
    assert color_palette(3).any()


@pytest.mark.parametrize("length", [20, 847, 65535])
def test_colors_are_all_different(length):
    assert len(np.unique(color_palette(length), axis=0)) == length


def test_first_colors_differ_for_every_eye_and_from_none():
    colors = np.concatenate([color_palette(20), [NONE_COLOR]])
    for eye, least in zip(colors_module._as_seen(colors), (0.09, 0.02, 0.02)):
        apart = np.linalg.norm(eye[:, None] - eye[None], axis=-1) + np.eye(len(eye))
        assert apart.min() > least


# --- regions ---------------------------------------------------------------------------------------------------------


@given(label_maps)
def test_regions_add_up_to_the_image(label_map):
    regions = regions_of(label_map, NAMES)
    assert sum(region.num_pixels for region in regions) == label_map.size
    assert sum(region.area for region in regions) == pytest.approx(1)
    found = [region for region in regions if region.index >= 0]
    assert {region.index for region in found} == set(np.unique(label_map)) - {-1}
    assert [region.num_pixels for region in found] == sorted((region.num_pixels for region in found), reverse=True)
    assert all(region.label == NAMES[region.index] for region in found)
    assert [region.index for region in regions[len(found) :]] == ([-1] if (label_map < 0).any() else [])


def test_label_without_a_name_is_refused():
    with pytest.raises(ValueError, match="contains label 5; expected labels from 0 to 4"):
        regions_of(np.full((2, 2), 5), NAMES)
    for not_a_map in (np.zeros((2, 2)), np.zeros((0, 2), int), np.zeros((1, 2, 2), int)):
        with pytest.raises(ValueError, match="expected integers"):
            regions_of(not_a_map, NAMES)


def test_what_is_there_never_shows_as_nothing():
    assert (
        percent(1e-7) == "<0.1 %" and percent(0) == "0.0 %" and percent(0.12345) == "12.3 %" and percent(1) == "100.0 %"
    )


# --- pictures --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_overlay_and_legend_can_be_drawn_at_any_size(height, width):
    label_map = (np.arange(height)[:, None] + np.arange(width)) % 6 - 1
    picture = overlay(flat_image(height, width), label_map)
    factor = picture.width // width
    assert picture.size == (width * factor, height * factor)
    assert min(picture.size) >= MIN_DISPLAY_SIDE or max(picture.size) > 2048
    assert max(picture.size) <= max(4096, height, width)
    sheet = with_legend(picture, regions_of(label_map, NAMES))
    assert sheet.height > picture.height and sheet.width >= picture.width


def test_large_pictures_keep_their_size():
    assert overlay(flat_image(600, 800), np.zeros((600, 800), int)).size == (800, 600)


def test_alpha_leads_from_the_picture_to_the_colors():
    image, label_map = flat_image(600, 600), np.zeros((600, 600), int)
    label_map[:, 300:] = 3
    inside = (slice(100, 500), slice(100, 200))
    nothing, everything = (np.asarray(overlay(image, label_map, alpha=alpha)) for alpha in (0, 1))
    assert (nothing[inside] == (90, 120, 60)).all()
    assert (everything[inside] == color_palette(1)[0]).all()
    assert (everything[100:500, 400:500] == color_palette(4)[3]).all()
    for alpha in (-0.1, 1.1):
        with pytest.raises(ValueError, match="alpha"):
            overlay(image, label_map, alpha=alpha)


def test_borders_are_drawn_between_regions_only():
    label_map = np.zeros((600, 600), int)
    one = np.asarray(overlay(flat_image(600, 600), label_map))
    assert (one == one[0, 0]).all()
    label_map[:, 300:] = 1
    two = np.asarray(overlay(flat_image(600, 600), label_map))
    assert (two[:, 299:301] == 255).all()


def test_none_of_these_has_no_color():
    picture = np.asarray(overlay(flat_image(600, 600), np.full((600, 600), -1))).astype(int)
    assert np.ptp(picture, axis=-1).max() < 20


def test_overlay_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="same size"):
        overlay(flat_image(4, 6), np.zeros((6, 4), int))
    with pytest.raises(ValueError, match="palette has 2 colors"):
        overlay(flat_image(4, 6), np.full((4, 6), 2), palette=color_palette(2))


def test_legend_leaves_the_picture_alone_and_shows_each_color():
    label_map = np.arange(6 * 90).reshape(6, 90) // 90 - 1
    picture = overlay(flat_image(6, 90), label_map)
    sheet = np.asarray(with_legend(picture, regions_of(label_map, NAMES, dict.fromkeys(NAMES, 0.5))))
    left = (sheet.shape[1] - picture.width) // 2
    np.testing.assert_array_equal(sheet[: picture.height, left : left + picture.width], picture)
    legend = {tuple(color) for color in np.unique(sheet[picture.height :].reshape(-1, 3), axis=0).tolist()}
    assert {tuple(color) for color in color_palette(5).tolist()} | {NONE_COLOR} <= legend


def test_legend_of_many_labels_stays_bounded():
    few, many = (
        with_legend(flat_image(512, 512), [Region(i, f"label {i}", 1, 1 / count, 0.5) for i in range(count)])
        for count in (2, 2000)
    )
    assert few.height < many.height < 512 + (MAX_LEGEND_ROWS + 4) * 2 * 24
    assert many.width == few.width == 512


def test_long_names_are_cut_before_the_numbers():
    def legend(name):
        return np.asarray(with_legend(flat_image(512, 512), [Region(0, name, 1, 1.0, 0.5)]))[512:]

    # beyond the longest name that fits nothing changes, least of all the numbers
    np.testing.assert_array_equal(legend("w" * 200), legend("w" * 2000))
    assert (legend("w" * 200)[:, -8:] == 255).all()


@pytest.mark.parametrize("name", ["красный круг", "赤い丸", "دائرة", "🐱", "e\u0301te\u0301", "κύκλος", "a\u200bb"])
def test_names_in_any_script_are_drawn(name):
    empty, drawn = (np.asarray(with_legend(flat_image(512, 512), [Region(0, text, 1, 1.0)])) for text in (" ", name))
    assert (empty[:, :300] != drawn[:, :300]).any()


def test_legend_without_any_label_says_so():
    for regions in ([], regions_of(np.full((3, 3), -1), NAMES)):
        sheet = np.asarray(with_legend(flat_image(512, 512), regions))
        assert (sheet[512:] < 128).any()


# --- mask files ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(label_map=label_maps, num_labels=st.sampled_from([5, 255, 256, 60_000]))
def test_mask_file_holds_the_label_map(tmp_path_factory, label_map, num_labels):
    path = tmp_path_factory.mktemp("mask") / "mask.png"
    save_mask(path, label_map, num_labels)
    none = 255 if num_labels <= 255 else 65535
    np.testing.assert_array_equal(read_label_map(path), np.where(label_map < 0, none, label_map))
    with Image.open(path) as image:
        assert image.mode == ("P" if num_labels <= 255 else "I;16")
        if num_labels <= 255:
            colors = np.asarray(image.convert("RGB"))
            expected = np.concatenate([color_palette(5), [NONE_COLOR]])[label_map]
            np.testing.assert_array_equal(colors, expected)


def test_mask_at_the_limits_of_its_formats(tmp_path):
    path = tmp_path / "mask.png"
    for num_labels, none in ((255, 255), (256, 65535), (65535, 65535)):
        save_mask(path, np.array([[0, num_labels - 1, -1]]), num_labels)
        assert read_label_map(path).tolist() == [[0, num_labels - 1, none]]
    before = path.read_bytes()
    with pytest.raises(ValueError, match="65536 labels"):
        save_mask(path, np.zeros((1, 1), int), 65536)
    with pytest.raises(ValueError, match="contains label 3; expected labels from 0 to 2"):
        save_mask(path, np.full((1, 1), 3), 3)
    assert path.read_bytes() == before


def test_a_note_of_a_large_picture_is_read(tmp_path, monkeypatch):
    """PIL refuses to open pictures of many pixels, also for their header."""
    save_mask(tmp_path / "mask.png", np.zeros((30, 30), int), 2, note="a note")
    save_image(tmp_path / "picture.png", Image.new("RGB", (30, 30)), note="naïve 猫")
    save_image(tmp_path / "picture.jpg", Image.new("RGB", (30, 30)), note="JPEG has none")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_note(tmp_path / "mask.png") == "a note" and read_note(tmp_path / "picture.png") == "naïve 猫"
    (tmp_path / "damaged.png").write_bytes((tmp_path / "mask.png").read_bytes()[:20])
    for name in ("picture.jpg", "damaged.png", "missing.png"):
        assert read_note(tmp_path / name) is None


# --- JSON ------------------------------------------------------------------------------------------------------------


@given(label_maps)
def test_json_segments_give_the_label_map_back(label_map):
    segments = json.loads(json.dumps(segments_as_json(label_map, regions_of(label_map, NAMES))))
    restored = np.full(label_map.shape, -1)
    for segment in segments:
        counts = segment["mask"]["counts"]
        mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(segment["mask"]["size"], order="F")
        assert mask.sum() == segment["num_pixels"]
        left, top, width, height = segment["box"]
        box = np.zeros_like(mask)
        box[top : top + height, left : left + width] = True
        assert not (mask & ~box).any()
        for side in (mask[top], mask[top + height - 1], mask[:, left], mask[:, left + width - 1]):
            assert side.any()
        restored[mask] = segment["index"]
    np.testing.assert_array_equal(restored, label_map)


def test_json_keeps_names_readable(tmp_path):
    save_json(tmp_path / "segments.json", {"label": "赤い丸"})
    assert "赤い丸" in (tmp_path / "segments.json").read_text(encoding="utf-8")


# --- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_pictures_are_written_in_the_format_of_their_name(tmp_path, suffix):
    save_image(tmp_path / f"picture{suffix}", flat_image(5, 7))
    with Image.open(tmp_path / f"picture{suffix}") as image:
        assert image.size == (7, 5)
        assert image.format == {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_image(path, flat_image(5, 7))
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ValueError, match="No space left"):
        save_image(path, flat_image(9, 9))
    with pytest.raises(ValueError, match="No space left"):
        save_mask(path, np.zeros((3, 3), int), 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_picture_too_large_for_its_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be saved as WEBP"):
        save_image(tmp_path / "long.webp", flat_image(1, 20_000))
    assert not list(tmp_path.iterdir())


def test_writability_is_known_beforehand_and_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "new.png", (".png",))
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder.png").mkdir()
    for path, message in (
        (tmp_path / "missing" / "new.png", "missing' for the file 'new.png' was not found"),
        (tmp_path / "folder.png", "is a folder"),
        (tmp_path / "new.gif", "expected .png"),
        (tmp_path / "new", "expected .png"),
        (tmp_path / ("x" * 300 + ".png"), "cannot be written"),
    ):
        with pytest.raises(ValueError, match=message):
            check_writable(path, (".png",))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="Permission denied"):
        check_writable(tmp_path / "new.png")


@pytest.mark.parametrize(
    "palette",
    [
        np.full((5, 3), 0.5),
        [[255, 0, 300]] * 5,
        [[-1, 0, 0]] * 5,
        np.zeros((5, 4), np.uint8),
        {"a": 1},
        color_palette(1),
    ],
    ids=["floats", "too large", "negative", "RGBA", "mapping", "one color"],
)
def test_a_palette_that_is_none_does_not_become_other_colors(palette, tmp_path):
    label_map = np.arange(4).reshape(2, 2)
    with pytest.raises(ValueError, match=r"palette .*expected"):
        overlay(flat_image(2, 2), label_map, palette=palette)
    with pytest.raises(ValueError, match=r"palette .*expected"):
        save_mask(tmp_path / "mask.png", label_map, 5, palette=palette)
    with pytest.raises(ValueError, match=r"palette .*expected"):
        with_legend(flat_image(2, 2), regions_of(label_map, NAMES), palette=palette)
    assert not list(tmp_path.iterdir())


def test_a_palette_can_be_a_list(tmp_path):
    label_map, colors = np.arange(4).reshape(2, 2), color_palette(5)
    for draw in (
        overlay,
        lambda image, label_map, palette: with_legend(image, regions_of(label_map, NAMES), palette=palette),
    ):
        one, other = (
            draw(flat_image(600, 600).resize((2, 2)), label_map, palette=kind) for kind in (colors, colors.tolist())
        )
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_what_is_no_list_of_names_has_no_regions():
    nested: list = []
    for _ in range(100):  # more than the axes of an array
        nested = [nested]
    for names in ("abcde", [1, 2], None, {"a": 0}, nested, np.array("a"), np.array([["a", "b"]])):
        with pytest.raises(ValueError, match="expected a list of names"):
            regions_of(np.zeros((2, 2), int), names)
    with pytest.raises(ValueError, match="expected a PIL image"):
        overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), int))
