# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images that are more or less than a file: standard input, pages, frames."""

import io
import json
import sys
from dataclasses import replace
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


@pytest.mark.parametrize("ending", ["tif", "webp", "png"])
def test_every_frame_is_an_image_if_asked_for_and_else_told(segment, frames, tmp_path, ending):
    path = tmp_path / f"several.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "webp" else {}))
    code, _, err = segment(path, "--mask", tmp_path / "first.png")
    assert code == 0 and err.count("\n") == 1 and "several pages or frames (3); the first one is segmented" in err
    code, out, err = segment(path, "--all-frames", "--mask", tmp_path / "masks", "--json", tmp_path / "json")
    assert (code, err) == (0, "") and f"{path} (2):" in out
    for number, frame in enumerate(frames, start=1):
        frame.save(tmp_path / "one.png")
        assert segment(tmp_path / "one.png", "--mask", tmp_path / "one_mask.png")[0] == 0
        found = read_label_map(tmp_path / "masks" / f"several_{number}_mask.png").numpy()
        np.testing.assert_array_equal(found, read_label_map(tmp_path / "one_mask.png").numpy())
        assert json.loads((tmp_path / "json" / f"several_{number}.json").read_text())["image"] == f"{path} ({number})"


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
