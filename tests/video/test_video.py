# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Videos: upright frames at their times, averages over time, and errors that say what is wrong with a file."""

import math
import signal
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from full_disk import files_of_at_most
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov3seg_hf import OpenVocabularySegmentationPipeline, segment_video
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.file_names import VIDEO_ENDINGS, VIDEO_SUFFIXES
from dinov3seg_hf.kept_errors import FileWithKeptError
from dinov3seg_hf.model.labeling import ScoreMaps
from dinov3seg_hf.video import new_video, open_video
from dinov3seg_hf.video.smoothing import MovingAverage
from dinov3seg_hf.video.writing import FORMATS

from clips import TIME_BASE, read_clip, write_clip

LABELS = ["red circle", "blue square", "yellow triangle"]
repeated = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(number, height=24, width=32, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (number, height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(
        model=tiny_model, processor=tiny_processor, image_processor=tiny_processor.image_processor
    )


@repeated
@given(
    size=st.tuples(st.integers(16, 24), st.integers(16, 24)),
    gaps=st.lists(st.integers(1, 900), max_size=6),
    rotation=st.tuples(st.sampled_from([0, 90, 180, 270]), st.booleans(), st.booleans()),
    every=st.integers(1, 4),
)
def test_every_nth_frame_is_upright_and_at_its_time(tmp_path, size, gaps, rotation, every):
    times = np.cumsum([0, *gaps]).tolist()
    stored = noise(len(times), *size)
    write_clip(tmp_path / "clip.mov", stored, times, rotation)
    with open_video(tmp_path / "clip.mov") as video:
        frames = list(video.frames(every))
        assert video.num_frames == len(stored)
    assert [frame.number for frame in frames] == list(range(0, len(stored), every))
    for frame in frames:
        assert frame.time == pytest.approx(float(times[frame.number] * TIME_BASE), abs=1e-3)
        degrees, left_to_right, upside_down = rotation
        expected = np.rot90(stored[frame.number], degrees // 90)  # against the clock
        expected = expected[:, ::-1] if left_to_right else expected
        expected = expected[::-1] if upside_down else expected
        np.testing.assert_array_equal(frame.pixels, expected)


@repeated
@given(damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), kept=st.floats(0, 1))
def test_damaged_files_end_in_frames_or_in_an_error_that_names_the_file(tmp_path, damage, kept):
    write_clip(tmp_path / "whole.mov", noise(4))
    content = bytearray((tmp_path / "whole.mov").read_bytes())
    for place, value in damage:
        content[int(place * (len(content) - 1))] = value
    (tmp_path / "clip.mov").write_bytes(content[: int(kept * len(content))])
    try:
        with open_video(tmp_path / "clip.mov") as video:
            assert list(video.frames())
    except ValueError as error:
        assert "clip.mov" in str(error)


def test_a_title_that_is_not_utf8_is_no_error(tmp_path):
    with av.open(str(tmp_path / "clip.mov"), "w") as container:
        container.metadata["title"] = "Muenchen"
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 32, 24
        frames = [av.VideoFrame.from_ndarray(pixels) for pixels in noise(2)]
        container.mux([*(packet for frame in frames for packet in stream.encode(frame)), *stream.encode()])
    content = (tmp_path / "clip.mov").read_bytes()
    assert b"Muenchen" in content
    (tmp_path / "clip.mov").write_bytes(content.replace(b"Muenchen", "Münchens".encode("latin-1")))
    with open_video(tmp_path / "clip.mov") as video:
        assert len(list(video.frames())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a name has no colon there")
def test_the_name_of_a_file_is_no_protocol(tmp_path, monkeypatch):
    """FFmpeg would read another file than the one that exists."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "other.mov", noise(2))
    (tmp_path / "concat:other.mov").write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot be read"), open_video("concat:other.mov"):
        pass
    (tmp_path / "concat:other.mov").write_bytes((tmp_path / "other.mov").read_bytes())
    with open_video("concat:other.mov") as video:
        assert video.num_frames == 2


def test_a_playlist_leads_to_no_other_video_whatever_its_ending(tmp_path):
    secret = tmp_path / "secret.ts"
    write_small(secret)
    segment = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    for name, text in (
        ("concat.mp4", "ffconcat version 1.0\nfile secret.ts\n"),
        ("list.m3u8", segment.format("secret.ts")),
        ("absolute.m3u8", segment.format(secret)),
        ("list.mp4", segment.format("secret.ts")),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"has a format that is not read|cannot be read"):
            with open_video(tmp_path / name) as video:
                list(video.frames())


@pytest.mark.parametrize("suffix", [*VIDEO_ENDINGS, ".h264", ".gif", ".ogv", ".mxf", ".nut"])
def test_common_containers_are_read(tmp_path, suffix):
    write_small(tmp_path / f"clip{suffix}")
    with open_video(tmp_path / f"clip{suffix}") as video:
        assert len(list(video.frames())) == 3


def write_small(path):
    codecs = {".flv": "flv", ".h264": "libx264", ".gif": "gif", ".webm": "libvpx", ".ogv": "libtheora"}
    codecs |= dict.fromkeys((".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".mxf"), "mpeg2video")
    try:
        av.Codec(codecs.get(path.suffix, "mpeg4"), "w")
    except ValueError:
        pytest.skip("this FFmpeg lacks the encoder")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codecs.get(path.suffix, "mpeg4"), rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        pictures = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8)
        frames = [av.VideoFrame.from_ndarray(picture) for picture in pictures]
        container.mux([*(packet for frame in frames for packet in stream.encode(frame)), *stream.encode()])


def test_files_that_are_no_videos_are_told_apart(tmp_path, monkeypatch):
    def error_of(path):
        with pytest.raises(ValueError) as caught, open_video(path):
            pass
        return str(caught.value)

    assert "was not found" in error_of(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    assert "cannot be read (Invalid data found" in error_of(tmp_path / "text.mp4")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert "no video stream (its streams: audio)" in error_of(tmp_path / "sound.mkv")
    monkeypatch.setitem(sys.modules, "av", None)
    assert 'pip install "dinov3seg_hf[video]"' in error_of(tmp_path / "sound.mkv")


@repeated
@given(
    seconds=st.floats(0.01, 10),
    gaps=st.lists(st.floats(0.001, 3), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_the_average_is_the_weighted_sum_of_all_frames(seconds, gaps, seed):
    times = np.cumsum([0, *gaps])
    maps = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(times), 2, 3, 4)))
    average = MovingAverage(seconds)
    for one, time in zip(maps, times):
        result = average.update(ScoreMaps(one, "softmax", 0.1), time)
    assert (result.score_function, result.temperature) == ("softmax", 0.1)
    past = np.exp(-np.array(gaps) / seconds)
    weights = np.append(1.0, 1 - past) * np.append(np.cumprod(past[::-1])[::-1], 1.0)
    assert weights.sum() == pytest.approx(1)
    torch.testing.assert_close(result.maps, torch.einsum("t,tchw->chw", torch.from_numpy(weights), maps))


def test_no_time_is_no_average_and_times_must_be_times():
    average = MovingAverage(0)
    for value in (1.0, 2.0):
        assert average.update(ScoreMaps(torch.full((1, 2, 2), value), "none"), value).maps.unique().item() == value
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="smoothing is"):
            MovingAverage(wrong)


@pytest.mark.parametrize("head, inference", [("full", "whole"), ("dinotxt", "local-global"), ("dinotxt", "slide")])
def test_without_smoothing_frames_have_the_labels_of_images(pipe, tmp_path, head, inference):
    frames = noise(5, 60, 90)
    write_clip(tmp_path / "clip.mov", frames)
    options = {"head": head, "inference": inference, "progress": False}
    results = list(segment_video(pipe, tmp_path / "clip.mov", LABELS, every=2, smoothing=0, batch_size=2, **options))
    assert [result.frame.number for result in results] == [0, 2, 4]
    for result in results:
        image = frames[result.frame.number]
        expected = pipe(image, LABELS, head=head, inference=inference, return_label_map=True)["label_map"]
        assert (result.labeled.label_map == expected).mean() > 0.999  # rounding where two labels tie


def test_smoothing_goes_from_one_scene_to_the_next_and_forgets(pipe, tmp_path):
    first, second = noise(2, 60, 90, seed=3)
    write_clip(tmp_path / "clip.mov", [first, *[second] * 5])
    labels = [pipe(image, LABELS, return_label_map=True)["label_map"] for image in (first, second)]
    maps = [r.labeled.label_map for r in segment_video(pipe, tmp_path / "clip.mov", LABELS, smoothing=0.03)]
    agreement = [(one == labels[1]).mean() for one in maps]
    assert (maps[0] == labels[0]).all() and agreement[0] < agreement[1] <= agreement[2] and agreement[-1] > 0.98
    single = [
        result.labeled.label_map
        for result in segment_video(pipe, tmp_path / "clip.mov", LABELS, smoothing=0.03, batch_size=3, progress=False)
    ]
    assert all((one == other).mean() > 0.999 for one, other in zip(maps, single))


def test_options_are_checked_before_the_results_are_read(pipe):
    for wrong in ({"every": 0}, {"smoothing": -1.0}, {"batch_size": 0}, {"threshold": 2.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            segment_video(pipe, "no.mp4", LABELS, **wrong)


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_written_videos_show_their_pictures_at_their_times(tmp_path, suffix):
    assert tuple(FORMATS) == VIDEO_SUFFIXES and set(VIDEO_SUFFIXES) < set(VIDEO_ENDINGS)
    colors = np.array([[200, 30, 30], [30, 60, 200], [240, 220, 40]], np.uint8)
    pictures = [np.tile(color, (31, 45, 1)) for color in colors]  # odd sides
    times = [0.0, 0.12, 0.9]
    with new_video(tmp_path / f"a{suffix}", time_base=TIME_BASE) as writer:
        for picture, time in zip(pictures, times):
            writer.add(picture, time)
    frames, found = read_clip(tmp_path / f"a{suffix}")
    assert found == pytest.approx(times, abs=2e-3)
    for frame, color in zip(frames, colors):
        assert frame.shape == (32, 46, 3) and np.abs(frame.astype(int) - color).max() < 16


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_the_same_pictures_make_the_same_file(tmp_path, suffix):
    """At this size, x264 with its own threads made 17 files in 40 runs."""
    pictures = [np.tile(draw_scene(number).image, (2, 3, 1))[:134, :212] for number in range(6)]
    path, contents = tmp_path / f"clip{suffix}", set()
    for _ in range(12 if suffix == ".mp4" else 2):
        with new_video(path, frame_rate=Fraction(10)) as video:
            for number, picture in enumerate(pictures):
                video.add(picture, number / 10)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_an_interrupted_video_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_video(tmp_path / "a.mp4") as writer:
        writer.add(noise(1)[0], 0.0)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"expected \.mp4"), new_video(tmp_path / "a.gif"):
        pass


@pytest.mark.parametrize("place", ["first", "last"])
def test_an_interrupt_while_ffmpeg_writes_is_not_lost(tmp_path, monkeypatch, place):
    write, writes = FileWithKeptError.write, []

    def make():
        with new_video(tmp_path / "clip.mp4", frame_rate=Fraction(10)) as video:
            for number in range(8):
                video.add(draw_scene(number).image, number / 10)

    def counted(self, data):
        writes.append(len(data))
        if len(writes) == stop:
            signal.raise_signal(signal.SIGINT)
        return write(self, data)

    monkeypatch.setattr(FileWithKeptError, "write", counted)
    stop = 0
    make()
    stop, expected = (1 if place == "first" else len(writes)), (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").unlink()
    writes.clear()
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            make()
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert list(tmp_path.iterdir()) == []
    stop = 0
    make()
    assert (tmp_path / "clip.mp4").read_bytes() == expected


def test_frames_with_too_many_pixels_are_refused(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip.mov", noise(2))
    monkeypatch.setattr("dinov3seg_hf.video.reading.MAX_IMAGE_PIXELS", 24 * 32 - 1)
    with (
        pytest.raises(ValueError, match=r"24 x 32 \(height x width\); expected at most 767 pixels"),
        open_video(tmp_path / "clip.mov"),
    ):
        pass
    monkeypatch.setattr("dinov3seg_hf.video.reading.MAX_IMAGE_PIXELS", 24 * 32)
    with open_video(tmp_path / "clip.mov") as video:
        assert len(list(video.frames())) == 2


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_full_disk_leaves_no_video_and_says_so(tmp_path, suffix, share, capfd):
    def write(name):
        with new_video(tmp_path / f"{name}{suffix}") as video:
            for number, frame in enumerate(noise(12, 64, 64)):
                video.add(frame, number / 10)

    write("whole")
    size = (tmp_path / f"whole{suffix}").stat().st_size
    with (
        files_of_at_most(int(share * size)),
        pytest.raises(ValueError, match=r"cannot be written: File too large"),
    ):
        write("cut")
    assert [path.name for path in tmp_path.iterdir()] == [f"whole{suffix}"]
    assert "Traceback" not in capfd.readouterr().err


def test_pictures_and_times_that_are_none_leave_no_video(tmp_path):
    path, picture = tmp_path / "a.mp4", np.zeros((16, 18, 3), np.uint8)
    for wrong in (picture / 255, picture[..., 0], picture[:8], np.zeros((0, 18, 3), np.uint8), picture.tolist(), None):
        with pytest.raises(ValueError, match=r"A picture is .*; expected uint8"), new_video(path) as video:
            video.add(picture, 0)
            video.add(wrong, 0.1)
    for time in (float("nan"), "0", None, True, 10**25, -(10**25)):
        with pytest.raises(ValueError, match="time of a picture is"), new_video(path) as video:
            video.add(picture, time)
    with pytest.raises(ValueError, match="The path of the video is"), new_video(b"a.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []
    with new_video(path) as video:
        for number in range(3):
            video.add(picture[::-1], number / 10)
    with open_video(path) as video, pytest.raises(ValueError, match="every is 0; expected an integer of at least 1"):
        next(video.frames(0))
