# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The command `dinov3seg`: what it prints and writes, and how it refuses: one line, code 2, nothing half-written."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from transformers.utils import logging as transformers_logging

import dinov3seg_hf
from dinov3seg_hf import Vocabulary, cli, conversion
from dinov3seg_hf.checkpoint_names import resolve_checkpoint
from dinov3seg_hf.cli import convert as convert_command
from dinov3seg_hf.cli import segment as segment_command
from dinov3seg_hf.cli.segment_files import ignores_case
from dinov3seg_hf.conversion import ConversionReport
from dinov3seg_hf.model.image_input import read_label_map

from places import REPO

LABELS = "red circle, blue square, yellow triangle, green background, cat, dog, grass"


@pytest.fixture(autouse=True)
def restored_logging():
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    yield
    transformers_logging.set_verbosity(verbosity)
    if bars:
        transformers_logging.enable_progress_bar()


@pytest.fixture
def image(tmp_path, sample_image):
    path = tmp_path / "image.png"
    sample_image.save(path)
    return str(path)


@pytest.fixture
def segment(capsys, tiny_checkpoint, image):
    """Runs `dinov3seg segment IMAGE --model ... arguments` -> (exit code, stdout, stderr)."""

    def run(*arguments, images=(image,), labels=LABELS):
        capsys.readouterr()  # what came before
        words = [] if labels is None else ["--labels", labels]
        try:
            code = cli.main(
                [
                    *("segment", *map(str, images), "--model", str(tiny_checkpoint), "--device", "cpu"),
                    *words,
                    *map(str, arguments),
                ]
            )
        except SystemExit as error:  # argparse
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(result, *messages):
    """One line on stderr, exit code 2, nothing on stdout."""
    code, out, err = result
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and err.endswith("\n")
    assert re.match(r"dinov3seg( segment)?: error: ", err)
    for message in messages:
        assert message in err
    return True


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what it does ----------------------------------------------------------------------------------------------------


def test_table_lists_the_labels_found_the_largest_first(segment):
    code, out, err = segment()
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["label", "area", "score"]
    areas = [float(row.split("%")[0].split()[-1]) for row in rows]
    assert rows and areas == sorted(areas, reverse=True) and sum(areas) == pytest.approx(100, abs=0.2)
    assert all(any(row.startswith(label.strip()) for label in LABELS.split(",")) for row in rows)


def test_files_agree_with_each_other(segment, tmp_path, sample_image):
    overlay, mask, data = (tmp_path / name for name in ("overlay.png", "mask.png", "data.json"))
    code, out, _ = segment("--output", overlay, "--mask", mask, "--json", data)
    assert code == 0
    content, labels = json.loads(data.read_text()), read_label_map(mask).numpy()
    assert labels.shape == (content["height"], content["width"]) == (60, 90)
    assert content["head"] == "full" and content["inference"] == "whole"
    assert content["labels"] == [label.strip() for label in LABELS.split(",")]
    for entry in content["segments"]:
        assert (labels == entry["index"]).sum() == entry["num_pixels"]
        assert content["labels"][entry["index"]] == entry["label"] and entry["label"] in out
    with Image.open(overlay) as picture:
        assert picture.width >= 512 and picture.height > 512
    assert files_of(tmp_path) == ["data.json", "image.png", "mask.png", "overlay.png"]


def test_threshold_leaves_none_of_these(segment, tmp_path):
    code, out, _ = segment("--threshold", "1", "--mask", tmp_path / "mask.png", "--json", tmp_path / "data.json")
    assert code == 0 and out.splitlines()[1].split() == ["none", "of", "these", "100.0", "%"]
    assert (read_label_map(tmp_path / "mask.png") == 255).all()
    assert json.loads((tmp_path / "data.json").read_text())["segments"] == []


def test_active_classes_are_auto_or_a_number(segment, tmp_path):
    for value in ("auto", "100"):
        files = ("--mask", tmp_path / f"{value}.png", "--json", tmp_path / f"{value}.json")
        assert segment("--active-classes", value, *files)[0] == 0
        assert str(json.loads((tmp_path / f"{value}.json").read_text())["active_classes"]) == value
    assert segment("--mask", tmp_path / "all.png")[0] == 0
    assert (read_label_map(tmp_path / "all.png") == read_label_map(tmp_path / "100.png")).all()
    for value in ("0", "all", "1.5", "-1"):
        code, _, err = segment("--active-classes", value)
        assert code == 2 and "expected auto or an integer of at least 1" in err


def test_background_leaves_pixels_that_show_none(segment, tmp_path):
    labels, words = {}, "cat, dog, sky, grass"
    for background in ("never", "auto"):
        files = ("--mask", tmp_path / f"{background}.png", "--json", tmp_path / f"{background}.json")
        assert segment("--head", "dinotxt", "--background", background, *files, labels=words)[0] == 0
        labels[background] = read_label_map(tmp_path / f"{background}.png")
        assert json.loads((tmp_path / f"{background}.json").read_text())["background"] == background
    left = labels["auto"] != 255
    assert (labels["never"] != 255).all() and not left.all()
    assert (labels["auto"][left] == labels["never"][left]).all()
    code, _, err = segment("--head", "dinotxt", "--background", "auto", labels="cat, dog")
    assert code == 2 and "expected at least 3 for the zero-shot head" in err


def test_more_than_255_labels_make_a_mask_of_16_bits(segment, tmp_path):
    labels = ", ".join(f"thing {i}" for i in range(300))
    code, _, err = segment("--mask", tmp_path / "mask.png", "--head", "dinotxt", labels=labels)
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "I;16" and np.asarray(mask).max() < 300


def test_words_come_from_a_file_or_a_preset(segment, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat|kitten\ngreen background\n", encoding="utf-8")
    code, out, _ = segment("--labels-file", path, labels=None)
    assert code == 0 and {row.split("  ")[0] for row in out.splitlines()[1:]} <= {"cat", "green background"}
    code, out, _ = segment("--preset", "pascal-voc-20", "--templates", "none", labels=None)
    assert code == 0
    names = Vocabulary.from_preset("pascal-voc-20").names
    assert all(row.split("  ")[0] in names for row in out.splitlines()[1:])


@pytest.mark.parametrize("options", [["--inference", "slide"], ["--head", "dinotxt"], ["--dtype", "bfloat16"]])
def test_model_options_reach_the_model(segment, tmp_path, options):
    code, _, err = segment(*options, "--json", tmp_path / "data.json")
    assert (code, err) == (0, "")
    content = json.loads((tmp_path / "data.json").read_text())
    assert options[0] == "--dtype" or content[options[0][2:]] == options[1]


def test_several_images_fill_a_folder(segment, tmp_path, image, sample_image):
    other = tmp_path / "other.jpg"
    sample_image.resize((50, 70)).save(other)
    folder = tmp_path / "results"
    code, out, _ = segment(
        *("--output", folder, "--mask", folder, "--json", folder, "--labels", "cat, 赤い丸"),
        images=(image, other),
        labels=None,
    )
    assert code == 0 and f"{image}:" in out and f"{other}:" in out
    endings = ("_mask.png", "_overlay.png", ".json")
    assert files_of(folder) == sorted(f"{stem}{ending}" for stem in ("image", "other") for ending in endings)
    assert read_label_map(folder / "other_mask.png").shape == (70, 50)


@pytest.fixture
def photos(tmp_path, sample_image):
    """A folder with images of two sizes, one of them in a subfolder, and what is no image."""
    folder = tmp_path / "photos"
    (folder / "more" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name, size in (
        ("a.png", (90, 60)),
        ("b.JPG", (50, 70)),
        ("more/deep/c.png", (90, 60)),
        (".hidden/d.png", (9, 9)),
    ):
        sample_image.resize(size).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_its_images_and_with_recursive_those_of_its_subfolders(segment, photos, tmp_path):
    code, out, _ = segment("--mask", tmp_path / "flat", images=[photos])
    assert code == 0 and files_of(tmp_path / "flat") == ["a_mask.png", "b_mask.png"]
    code, _, _ = segment("--mask", tmp_path / "all", "--recursive", images=[photos])
    written = sorted(path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*.png"))
    assert code == 0 and written == ["a_mask.png", "b_mask.png", "more/deep/c_mask.png"]
    assert out.index("a.png:") < out.index("b.JPG:")


def test_patterns_that_the_shell_left_are_replaced_and_nothing_is_done_twice(segment, photos, tmp_path):
    code, out, _ = segment("--mask", tmp_path / "masks", images=[photos / "*.png", photos / "a.png", photos / "**/c.*"])
    assert code == 0 and out.count("a.png:") == 1
    assert files_of(tmp_path / "masks") == ["a_mask.png", "c_mask.png"]
    assert refused(segment(images=[photos / "*.gif"]), "matches no file")


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_change_nothing_not_even_with_a_bad_image_in_them(segment, photos, tmp_path, batch_size):
    (photos / "bad.png").write_bytes(b"no image")
    results = []
    for size in (1, batch_size):
        folder = tmp_path / f"masks-{size}"
        code, _, err = segment("--mask", folder, "--recursive", "--batch-size", size, images=[photos])
        assert code == 2 and "bad.png" in err
        results.append({path.name: read_label_map(path).numpy() for path in folder.rglob("*.png")})
    assert results[0].keys() == results[1].keys() and len(results[0]) == 3
    for name, labels in results[0].items():
        assert (labels == results[1][name]).mean() > 0.999


def test_a_run_goes_on_where_it_stopped(segment, photos, tmp_path, monkeypatch):
    folder = tmp_path / "masks"
    assert segment("--mask", folder, images=[photos / "a.png", photos / "b.JPG"])[0] == 0
    (folder / "b_mask.png").unlink()
    before = (folder / "a_mask.png").stat().st_mtime_ns
    code, out, err = segment("--mask", folder, "--skip-existing", images=[photos])
    assert code == 0 and "1 of 2 images were done before" in err
    assert "b.JPG:" in out and "a.png:" not in out and (folder / "a_mask.png").stat().st_mtime_ns == before
    monkeypatch.setattr(
        "dinov3seg_hf.cli.segment_images.load_pipeline", lambda *args: pytest.fail("the model was loaded")
    )
    assert segment("--mask", folder, "--skip-existing", images=[photos])[0] == 0
    assert refused(segment("--skip-existing", images=[photos]), "--skip-existing needs files to look for")


def test_a_run_does_not_go_on_with_other_words_or_options(segment, photos, tiny_checkpoint, tmp_path):
    files = ("--mask", f"{tmp_path}/out/", "--json", f"{tmp_path}/out/")
    assert segment(*files, images=[photos / "a.png"])[0] == 0
    before = files_of(tmp_path / "out")
    again = (*files, "--skip-existing")
    refused(segment(*again, images=[photos], labels="cat, dog"), "a.json' exists, and notes labels ['red circle', ")
    options = segment(*again, "--active-classes", 2, images=[photos])
    refused(options, "a.json' exists, and notes active_classes None; expected 2")
    assert files_of(tmp_path / "out") == before
    # argparse takes the last of two: the same folder, with a slash at the end
    assert segment(*again, "--model", f"{tiny_checkpoint}/", images=[photos])[0] == 0


def test_masks_and_overlays_note_what_they_were_made_with(segment, photos, tiny_checkpoint, tmp_path, monkeypatch):
    """They were kept, whatever they were made with, so a folder had the labels of two vocabularies."""
    masks, overlays = ("--mask", f"{tmp_path}/out/"), ("--output", f"{tmp_path}/out/")
    assert segment(*masks, *overlays, images=[photos / "a.png"])[0] == 0
    before = files_of(tmp_path / "out")
    for files in (masks, overlays):
        for change, what in (
            (["--templates", "a drawing of {}"], "words"),
            (["--threshold", 0.5], "threshold"),
            (["--head", "dinotxt"], "head"),
            (["--model", dinov3seg_hf.TINY], "model"),
        ):
            result = segment(*files, "--skip-existing", *change, images=[photos])
            refused(result, f"exists, and was made with another {what}; ", "or leave out --skip-existing")
        refused(segment(*files, "--skip-existing", images=[photos], labels="cat, dog"), "made with another words")
    assert files_of(tmp_path / "out") == before
    with Image.open(tmp_path / "out" / "a_mask.png") as mask:
        assert str(tiny_checkpoint) not in str(mask.info) and len(mask.info["dinov3seg_hf"]) < 200
        mask.save(tmp_path / "out" / "a_mask.png")  # of an earlier version, or of a person
    assert segment(*masks, "--skip-existing", "--threshold", 0.5, images=[photos])[0] == 0
    # others are written anew
    assert segment(*masks, images=[photos])[0] == 0
    same = ("--model", f"{tiny_checkpoint}/", "--background", "never", "--refine", "none")
    assert segment(*masks, "--skip-existing", *same, images=[photos])[0] == 0


def test_each_json_file_is_looked_at_before_a_run_goes_on(segment, photos, tmp_path):
    """Only the first one was, so the others could be of other words."""
    folder = f"{tmp_path}/out/"
    assert segment("--json", folder, images=[photos / "a.png"])[0] == 0
    assert segment("--json", folder, "--threshold", 0.5, images=[photos / "b.JPG"])[0] == 0
    refused(segment("--json", folder, "--skip-existing", images=[photos]), "b.json' exists, and notes threshold 0.5")


def test_pictures_do_not_become_images_of_the_next_run(segment, photos):
    before = files_of(photos)
    assert refused(segment("--output", photos, images=[photos]), "Choose another folder")
    assert refused(segment("--output", photos / "out", "--recursive", images=[photos]), "Choose another folder")
    assert files_of(photos) == before


def test_one_bad_image_does_not_keep_the_others_from_being_done(segment, tmp_path, image, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    good = tmp_path / "good.png"
    good.write_bytes((tmp_path / "image.png").read_bytes())
    code, out, err = segment("--mask", tmp_path / "masks", images=(image, bad, good))
    assert code == 2
    assert err.count("\n") == 1 and "bad.png" in err
    assert f"{image}:" in out and f"{good}:" in out and f"{bad}:" not in out
    assert files_of(tmp_path / "masks") == ["good_mask.png", "image_mask.png"]


def test_embedded_checkpoint_is_the_default():
    options = segment_command.make_parser("segment").parse_args(["a.png", "--labels", "cat"])
    assert resolve_checkpoint(options.model) == dinov3seg_hf.TINY


def test_the_example_needs_no_files_and_no_words(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["segment", "--example", "--mask", "mask.png"]) == 0
    assert "red plain triangle" in capsys.readouterr().out
    assert read_label_map(tmp_path / "mask.png").unique().tolist() == [0, 1, 2, 3, 4, 5]  # there is no blue circle
    for arguments, message in [
        (["a.png", "--example"], "Got --example and images"),
        (["--labels", "cat"], "no images"),
    ]:
        assert cli.main(["segment", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.multiprocess
def test_command_in_a_process_of_its_own_says_nothing_but_the_table(tiny_checkpoint, image, tmp_path):
    command = [
        sys.executable,
        "-m",
        "dinov3seg_hf",
        "segment",
        image,
        "--labels",
        "cat, 赤い丸",
        "--model",
        str(tiny_checkpoint),
    ]
    done = subprocess.run(
        [*command, "--output", "out.png"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.path.dirname(os.path.dirname(dinov3seg_hf.__file__)),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[0].split() == [b"label", b"area", b"score"]
    assert files_of(tmp_path) == ["image.png", "out.png"]


# --- how it says no --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "Got no labels"),
        (" ", "Got no labels"),
        ("cat,,dog", "no visible characters"),
        ("cat, dog, CAT", "same name"),
        ("cat, " + "x" * 400, "at most 77"),
        (None, "--labels --labels-file --preset"),
    ],
)
def test_bad_labels(segment, tmp_path, labels, message):
    assert refused(segment("--output", tmp_path / "out.png", labels=labels), message)
    assert files_of(tmp_path) == ["image.png"]


def huge_png(height, width):
    """A header that promises so much, and nothing more."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_bad_images(segment, tmp_path, image):
    png = (tmp_path / "image.png").read_bytes()
    bad = {
        "empty.png": b"",
        "cut.png": png[: len(png) // 2],
        "text.png": b"hello",
        "huge.png": huge_png(30_000, 20_000),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    before = files_of(tmp_path)
    for name in bad:
        assert refused(segment("--output", tmp_path / "out.png", images=[tmp_path / name]), name)
    assert refused(segment(images=[tmp_path / "nowhere.png"]), "nowhere.png' was not found")
    (tmp_path / "nothing").mkdir()
    assert refused(segment(images=[tmp_path / "nothing"]), "contains no images")
    (tmp_path / "nothing").rmdir()
    assert files_of(tmp_path) == before


def test_image_of_one_pixel_is_segmented(segment, tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "pixel.png")
    code, out, _ = segment(
        "--output", tmp_path / "out.png", "--mask", tmp_path / "m.png", images=[tmp_path / "pixel.png"]
    )
    assert code == 0 and "100.0 %" in out
    assert read_label_map(tmp_path / "m.png").shape == (1, 1)


def test_paths_that_cannot_be_written_are_found_before_the_work(segment, tmp_path, image, monkeypatch):
    monkeypatch.setattr(
        "dinov3seg_hf.cli.segment_images.load_pipeline", lambda *args: pytest.fail("the model was loaded")
    )
    (tmp_path / "folder").mkdir()
    before = files_of(tmp_path)
    other = tmp_path / "folder" / "image.png"
    other.write_bytes((tmp_path / "image.png").read_bytes())
    for arguments, message in (
        (["--output", tmp_path / "missing" / "out.png"], "missing' for the file 'out.png' was not found"),
        (["--mask", tmp_path / "mask.jpg"], "expected .png"),
        (["--json", tmp_path / "data.txt"], "expected .json"),
        (["--output", image], "would overwrite the image"),
        (["--output", tmp_path / "x.png", "--mask", tmp_path / "x.png"], "written twice"),
    ):
        assert refused(segment(*arguments), message)
    for arguments, message in (
        (["--output", tmp_path / "out.png"], "is the name of a file"),
        (["--output", tmp_path / "missing" / "out"], "missing' for the file 'out' was not found"),
        (["--output", tmp_path / "out"], "written twice"),
    ):
        assert refused(segment(*arguments, images=[image, other]), message)
    assert files_of(tmp_path) == before


def test_files_that_are_read_or_hold_all_images_are_not_overwritten(segment, tmp_path, image):
    words, both, folder = tmp_path / "words.json", tmp_path / "both.json", tmp_path / "out"
    words.write_text('["cat", "red circle"]')
    labels = tmp_path / "labels.png"
    labels.write_bytes((tmp_path / "image.png").read_bytes())
    for arguments in (["--json", words], ["--format", "coco", "--annotations", words]):
        result = segment("--labels-file", words, *arguments, labels=None)
        assert refused(result, "would overwrite the file of class names")
    for arguments in (
        ["--json", both, "--format", "coco", "--annotations", both],
        ["--json", f"{folder}/", "--format", "png", "--annotations", folder],
    ):
        assert refused(segment(*arguments, images=[labels]), "written twice, for the annotations of all images")
    assert words.read_text() == '["cat", "red circle"]' and not both.exists() and not folder.exists()


def test_names_that_differ_in_case_are_one_file_where_the_disk_says_so(segment, tmp_path, image, monkeypatch):
    (tmp_path / "case").mkdir()
    assert ignores_case(tmp_path / "case" / "of" / "none") == (tmp_path / "CASE").exists()
    assert files_of(tmp_path / "case") == []
    images = [tmp_path / "case" / name for name in ("A.png", "a.jpg")]
    for path in images:
        path.write_bytes((tmp_path / "image.png").read_bytes())
    monkeypatch.setattr("dinov3seg_hf.cli.segment_files.ignores_case", lambda folder: True)
    for arguments in (["--mask", tmp_path / "masks"], ["--format", "png", "--annotations", tmp_path / "set"]):
        assert refused(segment(*arguments, images=images), "written twice, for")


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_names_of_files_are_no_commands_to_the_terminal_and_need_not_be_text(segment, tmp_path, image):
    names = ["\x1b]0;owned\x07\n.png", os.fsdecode(b"M\xfcller.png"), "plain.png"]
    images = [tmp_path / name for name in names]
    for path in images:
        path.write_bytes((tmp_path / "image.png").read_bytes())
    code, out, err = segment("--json", tmp_path / "json", images=images)
    assert code == 2 and "\\x1b]0;owned\\x07\\n.png:" in out and "plain.png:" in out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err)
    assert "is not UTF-8, and JSON stores names as text" in err and err.count("\n") == 1
    assert len(files_of(tmp_path / "json")) == 2


def test_full_disk_leaves_nothing_half_written(segment, tmp_path, monkeypatch):
    (tmp_path / "out.png").write_bytes(b"old")
    before = files_of(tmp_path)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert refused(segment("--output", tmp_path / "out.png"), "No space left on device")
    assert files_of(tmp_path) == before and (tmp_path / "out.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "1.5"], "between 0 and 1"),
        (["--threshold", "much"], "between 0 and 1"),
        (["--alpha", "-1"], "between 0 and 1"),
        (["--inference", "windows"], "invalid choice"),
        (["--templates", "no braces"], "no braces"),
        (["--model", "nowhere"], "Checkpoint folder 'nowhere' was not found"),
        (["--model", "some-owner/some-model"], "cannot be loaded"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_bad_options(segment, arguments, message):
    assert refused(segment(*arguments), message)


def test_folder_that_holds_no_checkpoint(segment, tmp_path):
    (tmp_path / "model").mkdir()
    assert refused(segment("--model", tmp_path / "model"), "config.json was not found in the folder")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    assert refused(segment("--model", tmp_path / "model"), "cannot be loaded")
    (tmp_path / "model" / "config.json").write_text("{")
    assert refused(segment("--model", tmp_path / "model"), "cannot be loaded")


def test_checkpoint_that_lacks_weights_is_not_filled_up_with_random_numbers(
    segment, tiny_model, tiny_processor, tmp_path
):
    weights = tiny_model.state_dict()
    del weights["decoder.classifier.weight"]
    tiny_model.save_pretrained(tmp_path / "model", state_dict=weights)
    tiny_processor.save_pretrained(tmp_path / "model")
    assert refused(segment("--model", tmp_path / "model"), "lack 1 of the model's tensors", "decoder.classifier.weight")


def test_checkpoint_without_a_tokenizer_cannot_read_words(segment, tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.image_processor.save_pretrained(tmp_path / "model")
    assert refused(segment("--model", tmp_path / "model"), "has no tokenizer")


def test_interruption_is_no_traceback(segment, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("dinov3seg_hf.cli.segment_images.load_pipeline", interrupt)
    code, out, err = segment()
    assert code == 130 and out == "" and err.count("\n") == 1


def test_commands_say_what_they_need(capsys):
    for arguments in ([], ["nothing"], ["segment"], ["convert", "--backbone", "x"]):
        with pytest.raises(SystemExit) as exit_info:
            cli.main(arguments)
        assert exit_info.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_words_that_the_checkpoint_cannot_know_are_one_line(capsys):
    scene = str(REPO / "examples" / "scene.png")
    assert cli.main(["segment", scene, "--labels", "red plain triangle, shipyard"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dinov3seg segment: warning: This checkpoint knows 18 words only") and "'shipyard'" in line
    assert cli.main(["segment", scene, "--labels", "red plain triangle, black plain background"]) == 0
    assert capsys.readouterr().err == ""


def test_convert_reports_missing_files(capsys, tmp_path):
    code = cli.main(
        [
            "convert",
            "--backbone",
            str(tmp_path / "a.pth"),
            "--dinotxt",
            str(tmp_path / "b.pth"),
            "--output",
            str(tmp_path / "out"),
        ]
    )
    assert code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("dinov3seg convert: error: ") and "a.pth was not found" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tokenizer", "line"),
    [
        ("none", "The folder cannot segment by words.* with --tokenizer open_clip --overwrite"),
        ("open_clip", "Try it: dinov3seg segment PHOTO.jpg --model 'my out' "),
    ],
)
def test_convert_ends_with_what_to_do_next(monkeypatch, capsys, tokenizer, line):
    report = ConversionReport("my out", {"tokenizer": tokenizer})
    monkeypatch.setattr(conversion, "convert", lambda *_, **__: report)
    arguments = ["--backbone", "b.pth", "--dinotxt", "d.pth", "--output", "my out", "--tokenizer", tokenizer]
    options = convert_command.make_parser("dinov3seg convert").parse_args(arguments)
    assert convert_command.run(options) == 0
    assert re.match(line, capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_ten_thousand_labels(segment, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {i}" for i in range(10_000)))
    code, _, err = segment(
        "--labels-file", tmp_path / "labels.txt", "--mask", tmp_path / "mask.png", "--head", "dinotxt", labels=None
    )
    assert (code, err) == (0, "")
    assert read_label_map(tmp_path / "mask.png").max() < 10_000
