# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg segment` with videos: the files of their frames, overlay videos, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dinov3seg_hf import cli
from dinov3seg_hf.model.image_input import read_label_map
from dinov3seg_hf.video import writing

from clips import read_clip, write_clip

LABELS = "red circle, blue square, yellow triangle"


@pytest.fixture
def segment(capsys, tiny_checkpoint):
    def run(*arguments):
        capsys.readouterr()
        start = ["segment", "--model", str(tiny_checkpoint), "--device", "cpu", "--labels", LABELS]
        try:
            code = cli.main([*start, *map(str, arguments)])
        except SystemExit as error:  # argparse
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def clip(tmp_path, sample_image):
    """Four frames, not at equal times; the folder has no other file."""
    frames = [np.asarray(sample_image.rotate(90 * number, expand=False)) for number in range(4)]
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mov", frames, times=[0, 30, 150, 180])
    return SimpleNamespace(path=tmp_path / "clips" / "a.mov", frames=frames)


def test_frames_have_the_files_of_images_and_a_video_shows_them(segment, clip, tmp_path):
    targets = ("--mask", tmp_path / "masks", "--json", tmp_path / "json", "--output", tmp_path / "out.mp4")
    annotations = ("--format", "png", "--annotations", tmp_path / "set")
    code, out, err = segment(clip.path.parent, "--every", "2", "--smoothing", "0", *targets, *annotations)
    assert (code, err) == (0, "") and out.startswith("label ")
    for number, time in ((1, 0.0), (3, 0.25)):
        name = f"a_{number:06d}"
        Image.fromarray(clip.frames[number - 1]).save(tmp_path / "frame.png")
        assert segment(tmp_path / "frame.png", "--mask", tmp_path / "frame_mask.png")[0] == 0
        expected = read_label_map(tmp_path / "frame_mask.png").numpy()
        np.testing.assert_array_equal(read_label_map(tmp_path / "masks" / f"{name}_mask.png").numpy(), expected)
        np.testing.assert_array_equal(read_label_map(tmp_path / "set" / "masks" / f"{name}.png").numpy(), expected)
        stored = np.asarray(Image.open(tmp_path / "set" / "images" / f"{name}.png"))
        np.testing.assert_array_equal(stored, clip.frames[number - 1])
        content = json.loads((tmp_path / "json" / f"{name}.json").read_text())
        assert content["time"] == pytest.approx(time, abs=1e-3) and content["image"] == f"{clip.path} ({number})"
    assert len(list((tmp_path / "masks").iterdir())) == 2
    frames, times = read_clip(tmp_path / "out.mp4")
    assert times == pytest.approx([0.0, 0.25], abs=1e-3)
    assert len({frame.shape for frame in frames}) == 1 and frames[0].shape[0] > 512  # enlarged, with a legend

    before = (tmp_path / "out.mp4").stat().st_mtime_ns
    assert segment(clip.path, "--output", tmp_path / "out.mp4", "--skip-existing")[1:] == (
        "",
        "dinov3seg segment: 1 of 1 videos were done before\n",
    )
    assert (tmp_path / "out.mp4").stat().st_mtime_ns == before


def test_a_frame_whose_annotations_were_corrected_does_not_stop_its_video(segment, clip, tmp_path):
    arguments = (clip.path, "--output", tmp_path / "out.mp4", "--format", "yolo", "--annotations", tmp_path / "set")
    assert segment(*arguments)[0] == 0
    labels = [tmp_path / "set" / "labels" / f"a_{number:06d}.txt" for number in (1, 2, 3, 4)]
    labels[1].write_text("corrected")
    labels[3].unlink()
    (tmp_path / "out.mp4").unlink()
    code, _, err = segment(*arguments)
    assert code == 2 and err.count("\n") == 1 and "a_000002.txt' exists with another content" in err
    assert labels[1].read_text() == "corrected" and labels[3].is_file() and (tmp_path / "out.mp4").is_file()
    (tmp_path / "out.mp4").unlink()
    labels[3].unlink()
    assert segment(*arguments, "--skip-existing")[0::2] == (0, "")  # as the message advises
    assert labels[1].read_text() == "corrected" and labels[3].is_file() and (tmp_path / "out.mp4").is_file()


def test_frames_in_one_file_cannot_go_on(segment, clip, tmp_path):
    targets = ("--output", tmp_path / "out.mp4", "--format", "coco", "--annotations", tmp_path / "coco.json")
    code, out, err = segment(clip.path, *targets, "--skip-existing")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "whose files hold all frames" in err
    assert not (tmp_path / "coco.json").exists()


def test_a_damaged_video_does_not_stop_the_others_and_leaves_no_overlay(segment, clip, tmp_path):
    (clip.path.parent / "b.mov").write_bytes(b"no video")
    code, out, err = segment(clip.path.parent, "--every", "4", "--output", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and "b.mov' cannot be read" in err
    assert out.startswith(f"{clip.path}:\nlabel") and [path.name for path in (tmp_path / "out").iterdir()] == [
        "a_overlay.mp4"
    ]


def test_an_error_in_the_middle_leaves_no_half_video(segment, clip, tmp_path, monkeypatch):
    added = writing.VideoWriter.add

    def fail(self, picture, time):
        if time > 0:
            raise KeyboardInterrupt
        added(self, picture, time)

    monkeypatch.setattr(writing.VideoWriter, "add", fail)
    (tmp_path / "out").mkdir()
    assert segment(clip.path, "--output", tmp_path / "out" / "a.mp4")[0] == 130
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["examples/scene.png", "--every", "2"], "--every needs a video"),
        (["{clip}", "examples/scene.png"], "Got videos and 'examples/scene.png'"),
        (["https://example.org/a.mp4"], "is an address; expected a file"),
        (["{clip}", "--all-frames"], "--every chooses the frames"),
        (["{clip}", "--mask", "mask.png"], "expected a folder"),
        (["{clip}", "--output", "out.png"], "expected .mp4"),
        (["{clip}", "--output", "{clip}"], "would overwrite"),
        (["{clip}", "--skip-existing", "--mask", "masks"], "expected --output"),
        (["{clip}", "--tile", "--mask", "mask.tif"], "is a video"),
        (["{clip}", "--every", "0"], "expected an integer of at least 1"),
        (["{clip}", "--smoothing", "-1"], "expected a time in seconds"),
        (["{broken}", "--output", "out.mp4"], "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(segment, clip, tmp_path, arguments, message):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    places = {"clip": clip.path, "broken": tmp_path / "broken.mp4"}
    code, out, err = segment(*(argument.format(**places) for argument in arguments))
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err
