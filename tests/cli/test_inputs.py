# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images that are more or less than a file: standard input, pages, frames."""

import io
import json
import sys
import zlib
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dinov3seg_hf import cli
from dinov3seg_hf.cli.inputs import find_images
from dinov3seg_hf.model.image_input import read_label_map

LABELS = "red circle, blue square, yellow triangle"


@pytest.fixture
def segment(capsys, tiny_checkpoint):
    def run(*arguments):
        capsys.readouterr()
        start = ["segment", "--model", str(tiny_checkpoint), "--device", "cpu", "--labels", LABELS]
        code = cli.main([*start, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def frames(sample_image):
    return [sample_image, sample_image.rotate(180), sample_image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]


def test_an_image_on_standard_input_is_segmented_like_its_file(segment, sample_image, tmp_path, monkeypatch):
    sample_image.save(tmp_path / "a.png")
    assert segment(tmp_path / "a.png", "--mask", tmp_path / "file.png")[0] == 0
    content = io.BytesIO((tmp_path / "a.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
    options = ("--mask", tmp_path / "stdin.png", "--format", "png", "--annotations", tmp_path / "set")
    assert segment("-", *options)[0] == 0
    assert (tmp_path / "stdin.png").read_bytes() == (tmp_path / "file.png").read_bytes()
    assert (tmp_path / "set" / "images" / "stdin.png").is_file()
    code, out, err = segment("-", "--mask", tmp_path / "again.png")  # nothing is left to read
    assert (code, out) == (2, "") and "empty" in err and not (tmp_path / "again.png").exists()


def test_every_frame_is_an_image_if_asked_for_and_else_told(segment, frames, tmp_path):
    files, singles = tmp_path / "files", tmp_path / "singles"
    files.mkdir()
    singles.mkdir()
    for ending, options in {"png": {}, "tif": {}, "webp": {"lossless": True}}.items():
        frames[0].save(files / f"{ending}.{ending}", save_all=True, append_images=frames[1:], **options)
    for number, frame in enumerate(frames, start=1):
        frame.save(singles / f"{number}.png")
    assert segment(singles, "--mask", tmp_path / "expected")[0] == 0
    code, out, err = segment(files, "--all-frames", "--mask", tmp_path / "masks", "--json", tmp_path / "json")
    assert (code, err) == (0, "") and f"{files / 'tif.tif'} (2):" in out
    for ending, number in product(("png", "tif", "webp"), (1, 2, 3)):
        found = read_label_map(tmp_path / "masks" / f"{ending}_{number}_mask.png").numpy()
        np.testing.assert_array_equal(found, read_label_map(tmp_path / "expected" / f"{number}_mask.png").numpy())
        image = json.loads((tmp_path / "json" / f"{ending}_{number}.json").read_text())["image"]
        assert image == f"{files / ending}.{ending} ({number})"

    code, _, err = segment(files, "--mask", tmp_path / "first")
    told = f"{files / 'png.png'} and 2 more files have several pages or frames (3); the first one is segmented"
    assert code == 0 and err.count("\n") == 1 and told in err
    for ending in ("png", "tif", "webp"):
        found = read_label_map(tmp_path / "first" / f"{ending}_mask.png").numpy()
        np.testing.assert_array_equal(found, read_label_map(tmp_path / "expected" / "1_mask.png").numpy())


def test_pages_on_standard_input_are_told_of_or_segmented(segment, frames, tmp_path, monkeypatch):
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])

    def from_stdin(*options):
        content = io.BytesIO((tmp_path / "pages.tif").read_bytes())
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
        return segment("-", *options)

    code, _, err = from_stdin("--mask", tmp_path / "first.png")
    assert code == 0 and "standard input has several pages or frames (3); the first one is segmented" in err
    code, _, err = from_stdin("--all-frames", "--mask", tmp_path / "masks")
    assert (code, err) == (0, "")
    assert segment(tmp_path / "pages.tif", "--all-frames", "--mask", tmp_path / "expected")[0] == 0
    for number in (1, 2, 3):
        found, expected = tmp_path / "masks" / f"stdin_{number}_mask.png", tmp_path / "expected"
        assert found.read_bytes() == (expected / f"pages_{number}_mask.png").read_bytes()
    assert found.read_bytes() != (tmp_path / "first.png").read_bytes()


def test_all_frames_of_an_address_are_refused(segment):
    code, _, err = segment("https://example.org/moving.gif", "--all-frames")
    assert code == 2 and "expected files. Download it first" in err


def test_an_animation_in_a_folder_is_an_image(frames, tmp_path):
    frames[0].save(tmp_path / "moving.GIF", save_all=True, append_images=frames[1:])
    assert [image.frame for image in find_images([str(tmp_path)], all_frames=True)] == [0, 1, 2]


def test_annotations_of_frames_have_pictures_of_their_own(segment, frames, tmp_path):
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    code, _, _ = segment(tmp_path / "pages.tif", "--all-frames", "--format", "png", "--annotations", tmp_path / "set")
    assert code == 0
    for number, frame in enumerate(frames, start=1):
        stored = Image.open(tmp_path / "set" / "images" / f"pages_{number}.png")
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(frame))


def test_a_damaged_page_does_not_stop_the_others(segment, frames, tmp_path):
    frames[0].save(tmp_path / "cut.tif", save_all=True, append_images=frames[1:])
    inputs = find_images([str(tmp_path / "cut.tif")], all_frames=True)
    assert [image.frame for image in inputs] == [0, 1, 2] and inputs[2].file_name == "cut_3.png"
    with pytest.raises(ValueError, match="could not be decoded"):
        replace(inputs[2], frame=7).open(10**6)


def test_a_damaged_frame_of_a_png_is_an_error_of_this_frame(segment, frames, tmp_path):
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    damaged = bytearray(file.getvalue())
    start = damaged.rindex(b"fcTL")  # of the last frame
    damaged[start + 4] ^= 1  # its number
    damaged[start + 30 : start + 34] = zlib.crc32(damaged[start : start + 30]).to_bytes(4, "big")
    (tmp_path / "moving.png").write_bytes(damaged)
    inputs = find_images([str(tmp_path / "moving.png")], all_frames=True)
    assert len(inputs) == 3 and inputs[1].open(10**6).size == frames[1].size
    with pytest.raises(ValueError, match=r"moving.png \(3\)' could not be decoded"):
        inputs[2].open(10**6)


def test_tiles_refuse_all_frames_instead_of_segmenting_one(segment, frames, tmp_path):
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    code, _, err = segment(tmp_path / "pages.tif", "--all-frames", "--tile", "--mask", tmp_path / "mask.tif")
    assert code == 2 and "--all-frames does not work with --tile" in err and not (tmp_path / "mask.tif").exists()
