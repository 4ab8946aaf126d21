# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The demo's engine: the pipeline's very answers, nothing computed twice, nothing stale or another's, all bounded."""

import json
import os
import platform
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from dinov3seg_hf import OpenVocabularySegmentationPipeline, Vocabulary, cli
from dinov3seg_hf.demo.engine import DemoEngine
from dinov3seg_hf.demo.segmentation import level_of
from dinov3seg_hf.demo.view import MAX_ABSENT, view_of
from dinov3seg_hf.model.image_input import open_image
from dinov3seg_hf.serving.limits import Limits
from dinov3seg_hf.serving.memory import Memory
from dinov3seg_hf.visualization.colors import NAMED_COLORS, color_palette

LABELS = "red circle, blue square|blue box, yellow triangle, green background"


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    import copy

    return OpenVocabularySegmentationPipeline(model=copy.deepcopy(tiny_model), processor=tiny_processor, device="cpu")


@pytest.fixture
def engine(pipe):
    return DemoEngine(pipe)


@pytest.fixture
def image(tmp_path, sample_image):
    path = tmp_path / "scene.png"
    sample_image.save(path)
    return path


class Counts:
    """How often the pipeline encoded an image, and which words its model read."""

    def __init__(self, pipe, monkeypatch):
        self.images, self.classes = 0, 0
        encode_image, get_text_features = pipe.encode_image, pipe.model.get_text_features

        def counted_image(*args, **kwargs):
            self.images += 1
            return encode_image(*args, **kwargs)

        def counted_text(input_ids, attention_mask=None):
            self.classes += len(input_ids)
            return get_text_features(input_ids, attention_mask)

        monkeypatch.setattr(pipe, "encode_image", counted_image)
        monkeypatch.setattr(pipe.model, "get_text_features", counted_text)

    def taken(self):
        counts = (self.images, self.classes)
        self.images = self.classes = 0
        return counts


@pytest.fixture
def counts(pipe, monkeypatch):
    return Counts(pipe, monkeypatch)


# --- the answers are the pipeline's -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["full", "dinotxt"])
@pytest.mark.parametrize("inference", ["whole", "local-global", "slide"])
def test_maps_and_scores_are_those_of_the_pipeline(engine, pipe, image, inference, head):
    result = engine.segment("a", image, LABELS, inference=inference, head=head)
    for threshold in (0.0, 0.37, 0.5, 1.0):
        expected = pipe(str(image), LABELS, inference=inference, head=head, threshold=threshold, return_label_map=True)
        np.testing.assert_array_equal(result.label_map(threshold), expected["label_map"])
        found = {region.label: region.score for region in result.regions(threshold) if region.index >= 0}
        assert found == pytest.approx({s["label"]: s["score"] for s in expected["segments"]}, abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(height=st.integers(16, 90), width=st.integers(16, 90), hundredths=st.integers(0, 100))
def test_small_images_are_shown_large_and_answered_at_their_own_size(pipe, tmp_path_factory, height, width, hundredths):
    path = tmp_path_factory.mktemp("images") / "image.png"
    noise = np.random.default_rng(height * 100 + width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    result = DemoEngine(pipe).segment("a", path, LABELS)
    expected = pipe(str(path), LABELS, threshold=hundredths / 100, return_label_map=True)["label_map"]
    np.testing.assert_array_equal(result.label_map(hundredths / 100), expected)
    assert result.photo.factor % 2 == 1
    assert result.label_map(shown=True).shape == (height * result.photo.factor, width * result.photo.factor)


def test_large_photo_is_shrunk_and_says_so(engine, tmp_path, sample_image):
    path = tmp_path / "large.jpg"
    sample_image.resize((3000, 2000)).save(path, exif=_turned())
    photo = engine.photo("a", path)
    assert photo.source_size == (3000, 2000)  # EXIF turns it
    assert (photo.image.height, photo.image.width) == (engine.limits.side, round(engine.limits.side * 2 / 3))
    reference = np.asarray(open_image(path).resize(photo.image.size, Image.Resampling.LANCZOS), np.float32)
    assert np.abs(np.asarray(photo.image, np.float32) - reference).mean() < 3


def _turned():
    exif = Image.Exif()
    exif[274] = 6
    return exif


# --- nothing is computed twice, nothing is stale ----------------------------------------------------------------------


def test_another_word_encodes_that_word_and_nothing_else(engine, counts, image):
    first = engine.segment("a", image, "cat, dog")
    assert counts.taken() == (1, 2) and "image" in first.seconds
    more = engine.segment("a", image, "cat, dog, bird")
    assert counts.taken() == (0, 1) and more.num_new_words == 1 and "image" not in more.seconds
    fewer = engine.segment("a", image, "dog, bird")
    assert counts.taken() == (0, 0) and fewer.num_new_words == 0
    again = engine.segment("a", image, "cat, dog")
    assert counts.taken() == (0, 0) and again.key == first.key and "segment" not in again.seconds
    np.testing.assert_array_equal(again.label_map(), first.label_map())


def test_cached_answer_is_the_fresh_one(engine, pipe, image):
    engine.segment("a", image, "cat, dog")
    warm = engine.segment("a", image, "bird, dog, cat|kitten")
    fresh = DemoEngine(pipe).segment("b", image, "bird, dog, cat|kitten")
    np.testing.assert_array_equal(warm.label_map(0.4), fresh.label_map(0.4))
    np.testing.assert_array_equal(warm.scores, fresh.scores)


def test_images_are_known_by_their_bytes(engine, counts, image, tmp_path, sample_image):
    before = engine.segment("a", image, "cat, dog")
    counts.taken()
    other_name = tmp_path / "other.png"
    other_name.write_bytes(image.read_bytes())
    assert engine.segment("a", other_name, "cat, dog").key == before.key
    assert counts.taken() == (0, 0)
    sample_image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image)  # same name, other content
    after = engine.segment("a", image, "cat, dog")
    assert counts.taken() == (1, 0) and after.key != before.key


@pytest.mark.parametrize("change", [{"inference": "local-global"}, {"head": "dinotxt"}])
def test_other_settings_encode_the_image_again(engine, counts, image, change):
    before = engine.segment("a", image, "cat, dog", inference="whole", head="full")
    counts.taken()
    after = engine.segment("a", image, "cat, dog", **{"inference": "whole", "head": "full", **change})
    assert counts.taken()[0] == 1 and after.key != before.key


def test_other_templates_encode_the_words_again(engine, counts, image):
    before = engine.segment("a", image, "cat, dog")
    counts.taken()
    after = engine.segment("a", image, "cat, dog", templates=["{}", "A picture of {}"])
    assert counts.taken() == (0, 2) and after.key != before.key


def test_other_weights_forget_everything(pipe, counts, image):
    engine = DemoEngine(pipe)
    before = engine.segment("a", image, "cat, dog")
    counts.taken()
    weight = pipe.model.text_model.text_projection.weight
    with torch.no_grad():
        weight.mul_(-1)
    try:
        after = engine.segment("a", image, "cat, dog")
        assert counts.taken() == (1, 2) and after.key != before.key
        assert (after.scores != before.scores).any()
    finally:
        with torch.no_grad():
            weight.mul_(-1)


def test_what_was_forgotten_is_computed_again(pipe, image):
    roomy = DemoEngine(pipe).segment("a", image, LABELS)
    cramped = DemoEngine(pipe, Limits(cache_bytes=1000))
    for _ in range(2):
        np.testing.assert_array_equal(cramped.segment("a", image, LABELS).label_map(), roomy.label_map())
    assert cramped.memory.num_bytes <= 1000


def test_what_is_remembered_counts_with_the_photo_that_it_keeps_alive(pipe, image):
    engine = DemoEngine(pipe)
    result = engine.segment("a", image, LABELS)
    photo = result.photo
    pixels = {id(picture): 3 * picture.width * picture.height for picture in (photo.image, photo.shown)}
    assert photo.num_bytes >= sum(pixels.values()) + len(photo.jpeg)
    assert result.num_bytes >= photo.num_bytes + result.shown_labels.nbytes + result.scores.nbytes
    assert engine.memory.num_bytes >= result.num_bytes + photo.num_bytes


FREED = """
import resource, threading, numpy, dinov3seg_command
dinov3seg_command.running = True  # the package comes without torch, whose import takes seconds
{prelude}
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
def work():
    numpy.ones(30 * 2**20, numpy.uint8)  # freed: from now on glibc takes such blocks for small ones
    blocks = []
    for _ in range(10):
        blocks.append(numpy.ones(5 * 2**20, numpy.uint8))
        small.append(bytearray(2000))  # what stays keeps the end of the heap from being cut off
    del blocks
small, before = [], resident()
for _ in range(6):
    started = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in started]
    [thread.join() for thread in started]
print(resident() - before)
"""


@pytest.mark.multiprocess
def test_freed_memory_is_given_back():
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("for glibc only")

    def grown(prelude: str) -> float:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        program = [sys.executable, "-c", FREED.format(prelude=prelude)]
        return float(subprocess.run(program, capture_output=True, text=True, check=True, env=environment).stdout)

    given_back = grown("from dinov3seg_hf.serving.allocator import give_back_freed_memory as f; assert f()")
    assert given_back < 8 and grown("import dinov3seg_hf.serving.allocator") > 4 * 8


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_sessions_share_nothing(engine, counts, image):
    engine.segment("a", image, "cat, dog")
    counts.taken()
    engine.segment("b", image, "cat, dog")
    assert counts.taken() == (1, 2)
    engine.forget("a")
    engine.segment("b", image, "cat, dog")
    assert counts.taken() == (0, 0)
    engine.segment("a", image, "cat, dog")
    assert counts.taken() == (1, 2)


def test_nobody_is_remembered(engine, counts, image):
    for _ in range(2):
        engine.segment(None, image, "cat, dog")
        engine.colors(None, Vocabulary(["cat"]))
        assert counts.taken() == (1, 2)
    assert len(engine.memory) == 0


def test_threads_get_their_own_answers(engine, tmp_path, sample_image):
    jobs, answers = [], {}
    for number in range(6):
        path = tmp_path / f"{number}.png"
        sample_image.rotate(15 * number).save(path)
        jobs.append((f"session {number % 3}", path, f"cat, dog, thing {number}"))
    expected = [engine.segment(None, path, labels).label_map() for _, path, labels in jobs]

    def work(number):
        answers[number] = engine.segment(*jobs[number]).label_map()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        np.testing.assert_array_equal(answers[number], expected[number])


def test_word_keeps_its_color_while_others_come_and_go(engine):
    def colors(*words):
        return dict(zip(words, map(tuple, engine.colors("a", Vocabulary(words)).tolist())))

    first = colors("cat", "dog", "bird")
    assert list(first.values()) == [tuple(color) for color in color_palette(3).tolist()]
    fewer = colors("bird", "Cat")
    assert fewer == {"bird": first["bird"], "Cat": first["cat"]}
    more = colors("bird", "cat", "fox", "owl")
    assert more["bird"] == first["bird"] and len(set(more.values())) == 4
    red = colors("bird", "red fox", "red owl")
    assert red["red fox"] == NAMED_COLORS["red"]
    assert colors("red owl", "red cat")["red owl"] == red["red owl"]


# --- bounds -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 60)), max_size=60))
def test_memory_never_exceeds_its_bound(puts):
    memory, newest = Memory(100), {}
    for session, key, size in puts:
        memory.put(session, key, (session, key, size), size)
        newest[session, key] = size
        assert memory.num_bytes <= 100
        assert memory.get(session, key) == (session, key, size)  # what came last is there
    for (session, key), size in newest.items():
        assert memory.get(session, key) in (None, (session, key, size))  # never an older value, never another's
    memory.forget("a")
    assert all(memory.get("a", key) is None for key in range(10))
    for session in "bc":
        memory.forget(session)
    assert memory.num_bytes == len(memory) == 0


def test_memory_refuses_what_would_push_out_everything():
    memory = Memory(100)
    memory.put("a", "small", 1, 40)
    memory.put("a", "huge", 2, 101)
    assert memory.get("a", "small") == 1 and memory.get("a", "huge") is None
    memory.put("a", "small", 3, 101)  # an older value must not stay in its place
    assert memory.get("a", "small") is None and memory.num_bytes == 0


def _png_of(width, height):
    """A small file that claims to be a large image."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 5_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(30_000, 20_000), (65_000, 65_000), (9_000, 6_000)])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_image_of_too_many_pixels_is_refused_before_it_is_decoded(engine, tmp_path, monkeypatch, size, kind):
    path = tmp_path / "bomb.png"
    if kind == "png":
        path.write_bytes(_png_of(*size))
    else:
        Image.new("L", (16, 16)).save(path, "JPEG")
        content = bytearray(path.read_bytes())
        start = content.index(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">HH", size[1], size[0])
        path.write_bytes(content)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"large|limit") as error:
        engine.segment("a", path, "cat")
    assert str(tmp_path) not in str(error.value) and "max_pixels" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xff\xd8\xff", b"GIF89a", b"%PDF-1.7"]
)
def test_file_that_is_no_image_is_refused(engine, tmp_path, content):
    path = tmp_path / "upload.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"upload.jpg") as error:
        engine.segment("a", path, "cat")
    assert str(tmp_path) not in str(error.value)


def test_truncated_photo_is_refused(engine, tmp_path, sample_image):
    path = tmp_path / "photo.jpg"
    sample_image.resize((400, 300)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        engine.segment("a", path, "cat")


def test_heavy_file_is_refused(pipe, image):
    with pytest.raises(ValueError, match="MiB"):
        DemoEngine(pipe, Limits(file_bytes=100)).segment("a", image, "cat")


def test_missing_file_is_refused_without_naming_the_folder(engine, tmp_path):
    with pytest.raises(ValueError, match="Upload the image again") as error:
        engine.segment("a", tmp_path / "gone.png", "cat")
    assert str(tmp_path) not in str(error.value)


def test_first_frame_of_an_animation_counts(engine, tmp_path, sample_image):
    path, still = tmp_path / "moving.gif", tmp_path / "still.png"
    frames = [sample_image.quantize(64), Image.new("RGB", sample_image.size, (0, 0, 0)).quantize(64)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    with Image.open(path) as animation:
        assert animation.n_frames == 2
        animation.convert("RGB").save(still)
    expected = engine.segment("a", still, LABELS)
    np.testing.assert_array_equal(engine.segment("a", path, LABELS).label_map(), expected.label_map())


@pytest.mark.parametrize(
    ("mode", "name"), [("CMYK", "photo.tif"), ("CMYK", "photo.jpg"), ("LA", "photo.png"), ("I;16", "photo.png")]
)
def test_unusual_colors_are_read(engine, tmp_path, sample_image, mode, name):
    path = tmp_path / name
    if mode == "I;16":
        Image.fromarray(np.asarray(sample_image.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        sample_image.convert(mode).save(path)
    result = engine.segment("a", path, LABELS)
    assert result.label_map().shape == (sample_image.height, sample_image.width)
    assert result.photo.image.mode == "RGB"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "No words"),
        (" , \n, ", "No words"),
        ([], "No words"),
        ("cat, Cat", "same name"),
        (", ".join(f"thing {i}" for i in range(1001)), "1001 labels"),
        ("|".join(f"thing {i}" for i in range(3001)), "3001 words"),
        ("x" * 101, "101 characters"),
        ("a," * 200_000, "has 400000 characters; expected at most 303000"),
        ("cat\x00", "control"),
        ([7], "type int; expected only strings"),
    ],
)
def test_labels_out_of_bounds_are_refused(engine, image, labels, message):
    with pytest.raises(ValueError, match=message):
        engine.segment("a", image, labels)


@pytest.mark.parametrize(
    "options",
    [
        {"templates": [f"{{}} {i}" for i in range(13)]},
        {"templates": ["no place"]},
        {"templates": ["{} " + "x" * 500]},
        {"inference": "fast"},
        {"head": "none"},
        {"inference": "../../etc/passwd"},
    ],
)
def test_settings_out_of_bounds_are_refused(engine, image, options):
    with pytest.raises(ValueError):
        engine.segment("a", image, "cat", **options)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan"), float("inf"), "0.5", None, True])
def test_threshold_out_of_bounds_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        level_of(threshold)


def test_sliding_windows_refuse_labels_that_memory_could_not_hold(engine, image, monkeypatch):
    monkeypatch.setattr("dinov3seg_hf.demo.engine.SLIDE_VALUES", 64 * 96 * 2)
    engine.segment("a", image, "cat, dog", inference="slide")
    with pytest.raises(ValueError, match="expected at most 2 for this image"):
        engine.segment("a", image, "cat, dog, bird", inference="slide")


@pytest.mark.parametrize("preset", Vocabulary.presets())
def test_preset_typed_out_means_the_same(engine, preset):
    page = pytest.importorskip("dinov3seg_hf.demo.page", reason="needs the extra demo", exc_type=ImportError)
    vocabulary = Vocabulary.from_preset(preset)
    typed = engine.vocabulary(page.text_of(vocabulary))
    assert [set(words) for words in typed.synonyms] == [set(words) for words in vocabulary.synonyms]


def test_checkpoint_without_tokenizer_is_refused(tiny_model, tiny_processor):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, image_processor=tiny_processor.image_processor)
    with pytest.raises(ValueError, match="tokenizer"):
        DemoEngine(pipe)


def test_progress_goes_forward(engine, image):
    told = []
    engine.segment("a", image, "cat, dog", progress=lambda fraction, what: told.append((fraction, what)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and 0 <= fractions[0] < fractions[-1] <= 1
    assert len({what for _, what in told}) == len(told) >= 3


# --- what the page is sent --------------------------------------------------------------------------------------------


def unpacked(packed):
    """As `viewer.js` does it."""
    import base64

    dtype = {1: np.uint8, 2: np.dtype("<u2")}[packed["bytes"]]
    return np.cumsum(np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), dtype), dtype=dtype)


@pytest.mark.parametrize("num_labels", [4, 300])
def test_view_holds_every_pixel_and_every_threshold(engine, image, num_labels):
    result = engine.segment("a", image, ", ".join(f"thing {i}" for i in range(num_labels)), head="dinotxt")
    view = json.loads(json.dumps(view_of(result, engine.colors("a", result.vocabulary), {"model": "x"})))
    size, legend = view["size"], view["legend"]
    names = np.array([entry["label"] for entry in legend])
    shown = names[unpacked(view["labels"])].reshape(size)
    np.testing.assert_array_equal(shown, np.array(result.vocabulary.names)[result.label_map(shown=True)])
    levels = unpacked(view["levels"]).reshape(size)
    for threshold in (0.0, 0.05, 0.5):
        level = level_of(threshold)
        np.testing.assert_array_equal(levels < level, result.label_map(threshold, shown=True) < 0)
        found = {e["label"]: sum(e["counts"][level:]) for e in legend if e["counts"] and sum(e["counts"][level:])}
        regions = result.regions(threshold)
        assert found == {region.label: region.num_pixels for region in regions if region.index >= 0}
        for region in regions:
            if region.index >= 0:
                entry = next(entry for entry in legend if entry["label"] == region.label)
                assert sum(entry["sums"][level:]) / region.num_pixels == pytest.approx(region.score, abs=1e-3)
    found_first = [entry["found"] for entry in legend]
    assert found_first == sorted(found_first, reverse=True) and found_first.count(False) <= MAX_ABSENT
    height, width = view["heat"]["size"]
    maps = unpacked(view["heat"]["values"]).reshape(-1, height, width)
    for place, values in zip(view["heat"]["maps"], maps, strict=True):
        np.testing.assert_array_equal(values, result.scores[result.vocabulary.index(legend[place]["label"])])


def test_view_of_a_large_photo_and_many_labels_stays_small(engine, tmp_path):
    picture = Image.new("RGB", (3200, 2400), (90, 140, 90))
    draw = ImageDraw.Draw(picture)
    for i in range(60):
        draw.ellipse((50 * i, 30 * i, 50 * i + 300, 30 * i + 400), fill=(4 * i, 255 - 4 * i, 120))
    path = tmp_path / "photo.jpg"
    picture.save(path)
    labels = ", ".join(f"thing {i}" for i in range(300))
    result = engine.segment("a", path, labels, head="dinotxt")
    assert len(json.dumps(view_of(result, engine.colors("a", result.vocabulary), {}))) < 4 * 2**20


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--port", "65536"],
        ["--max-queue", "0"],
        ["--max-labels", "-1"],
        ["--dtype", "int8"],
        ["--model", "no such"],
    ],
)
def test_command_refuses_in_one_line(capsys, arguments):
    pytest.importorskip("gradio", reason="needs the extra demo")
    try:
        code = cli.main(["demo", *arguments])
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert code == 2 and captured.err.count("\n") == 1 and "error" in captured.err


def test_command_without_gradio_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert cli.main(["demo"]) == 2
    assert 'pip install "dinov3seg_hf[demo]"' in capsys.readouterr().err
