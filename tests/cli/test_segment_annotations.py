# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg segment --format`: annotations beside the other files, and what is refused before a model is loaded."""

import errno
import io
import json
import os
import sys

import numpy as np
import pytest

from dinov3seg_hf import cli
from dinov3seg_hf.annotations import FORMATS
from dinov3seg_hf.cli.inputs import ImageInput, find_images
from dinov3seg_hf.data import SegmentationDataset, find_vocabulary, open_dataset
from dinov3seg_hf.model.image_input import read_label_map

LABELS = "red circle, blue square, yellow triangle, green background, cat, dog, grass"
ENDINGS = {"coco": "a.json", "coco-panoptic": "a.json", "cvat": "a.xml", "label-studio": "a.json"}


@pytest.fixture
def photos(tmp_path, sample_image):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    sample_image.save(folder / "a.png")
    sample_image.resize((50, 70)).save(folder / "b.jpg")
    sample_image.save(folder / "more" / "c.png")
    return folder


@pytest.fixture
def segment(capsys, tiny_checkpoint, photos):
    """Runs `dinov3seg segment PHOTOS --model ... arguments` -> (exit code, stdout, stderr)."""

    def run(*arguments, images=(photos,)):
        capsys.readouterr()
        start = ["segment", *map(str, images), "--model", str(tiny_checkpoint), "--device", "cpu", "--labels", LABELS]
        try:
            code = cli.main([*start, *map(str, arguments)])
        except SystemExit as error:  # argparse
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# geopackage needs images with a place on earth; see test_segment_tiles.py
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "geopackage"])
def test_every_format_beside_the_other_files(segment, tmp_path, name):
    path = tmp_path / ENDINGS.get(name, "folder")
    code, out, err = segment(
        *("--recursive", "--batch-size", 2, "--format", name, "--annotations", path, "--min-area", 2),
        *("--mask", tmp_path / "masks"),
    )
    assert (code, err) == (0, "") and out.count("label") == 3
    assert path.exists() and len(names_in(tmp_path / "masks")) == 3


def test_masks_are_those_of_mask_and_training_reads_them(segment, tmp_path):
    assert segment("--format", "png", "--annotations", tmp_path / "set", "--mask", tmp_path / "masks")[0] == 0
    assert names_in(tmp_path / "set") == ["images/a.png", "images/b.jpg", "labels.json", "masks/a.png", "masks/b.png"]
    for name in ("a", "b"):
        expected = read_label_map(tmp_path / "masks" / f"{name}_mask.png").numpy()
        np.testing.assert_array_equal(read_label_map(tmp_path / "set" / "masks" / f"{name}.png").numpy(), expected)
    rows = open_dataset(tmp_path / "set", "train")
    data = SegmentationDataset(rows, find_vocabulary(rows, card=tmp_path / "set"))
    assert data.vocabulary.names == tuple(LABELS.split(", ")) and data[1]["labels"].shape == (70, 50)


def test_files_are_written_if_nobody_reads_what_is_printed(segment, tmp_path, monkeypatch):
    class Closed(io.StringIO):
        """Standard output of `dinov3seg ... | head -1`."""

        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            return number

    number = os.open(tmp_path / "stdout", os.O_WRONLY | os.O_CREAT)
    try:
        for arguments in (["--format", "cvat", "--annotations", tmp_path / "a.xml"], ["--mask", tmp_path / "masks"]):
            monkeypatch.setattr(sys, "stdout", Closed())
            assert segment(*arguments)[0] == 0
        monkeypatch.undo()
    finally:
        os.close(number)
    assert (tmp_path / "a.xml").read_text().count("<image ") == 2 and len(names_in(tmp_path / "masks")) == 2


def test_one_bad_image_does_not_keep_the_others_out_of_the_file(segment, photos, tmp_path):
    (photos / "bad.png").write_bytes(b"no image")
    code, _, err = segment("--format", "coco", "--annotations", tmp_path / "coco.json", "--batch-size", 3)
    assert code == 2 and err.count("\n") == 1 and "bad.png" in err
    content = json.loads((tmp_path / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.jpg"]
    assert all(0 <= entry["score"] <= 1 for entry in content["annotations"]) and content["annotations"]


def test_images_keep_their_names_in_annotations(tmp_path, sample_image):
    for name, expected in (("a.JPG", "a.JPG"), ("b.c.png", "b.c.png"), ("photo", "photo.png"), ("d.gif", "d.gif")):
        sample_image.save(tmp_path / name, "PNG")
        (image,) = find_images([str(tmp_path / name)])
        assert image.file_name == expected
    addresses = ["https://example.org/x/e.webp?size=2", "https://example.org/show.php", "https://example.org/"]
    assert [image.file_name for image in find_images(addresses)] == ["e.webp", "show.png", "image.png"]


def test_pixels_below_a_score_are_ignored(segment, tmp_path):
    code, _, _ = segment("--format", "png", "--annotations", tmp_path / "set", "--ignore-below", 1)
    assert code == 0 and (read_label_map(tmp_path / "set" / "masks" / "a.png") == 255).all()


def test_a_run_goes_on_where_it_stopped(segment, photos, tmp_path, monkeypatch):
    arguments = ("--format", "yolo", "--annotations", tmp_path / "yolo", "--skip-existing")
    assert segment(*arguments)[0] == 0
    (tmp_path / "yolo" / "labels" / "b.txt").unlink()
    code, out, err = segment(*arguments)
    assert code == 0 and "1 of 2 images were done before" in err and "b.jpg:" in out and "a.png:" not in out
    # with a second kind of file, images that lack it are done again
    code, out, _ = segment(*arguments, "--mask", tmp_path / "masks")
    assert code == 0 and "a.png:" in out
    monkeypatch.setattr(
        "dinov3seg_hf.cli.segment_images.load_pipeline", lambda *args: pytest.fail("the model was loaded")
    )
    assert segment(*arguments)[0] == 0


@pytest.mark.parametrize("batch_size", [1, 2])
def test_annotations_that_a_person_corrected_stay(segment, photos, tmp_path, batch_size, monkeypatch):
    """LabelMe is for correction by hand; the same command again lost the corrections."""
    folder = tmp_path / "labelme"
    arguments = ("--format", "labelme", "--annotations", folder, "--batch-size", batch_size)
    assert segment(*arguments)[0] == 0
    first = (folder / "a.json").read_bytes()
    code, out, err = segment(*arguments)  # the same again
    assert code == 0 and "2 of 2 images have annotations already" in err and "--overwrite" in err and "a.png:" in out
    corrected = json.dumps({"shapes": [], "imagePath": "a.png"})
    (folder / "a.json").write_text(corrected)
    (folder / "b.json").unlink()
    code, out, err = segment(*arguments)
    assert code == 2 and "1 of 2 images have annotations already" in err and "a.json' exists with another" in err
    assert "Keep them with --skip-existing, replace them with --overwrite" in err and "b.jpg:" in out
    assert (folder / "a.json").read_text() == corrected and (folder / "b.json").is_file()
    # an image that lacks another kind of file is done again, without its annotations
    code, _, err = segment(*arguments, "--skip-existing", "--mask", tmp_path / "masks")
    assert (code, err) == (0, "") and len(names_in(tmp_path / "masks")) == 2
    assert (folder / "a.json").read_text() == corrected
    # the only image is the error of the run
    code, _, err = segment(*arguments, images=[photos / "a.png"])
    assert code == 2 and err.count("error: ") == 1 and (folder / "a.json").read_text() == corrected
    code, _, err = segment(*arguments, "--overwrite")
    assert (code, err) == (0, "") and (folder / "a.json").read_bytes() == first
    monkeypatch.setattr(
        "dinov3seg_hf.cli.segment_images.load_pipeline", lambda *args: pytest.fail("the model was loaded")
    )
    code, _, err = segment(*arguments, "--overwrite", "--skip-existing")
    assert code == 2 and "expected one of them" in err
    code, _, err = segment("--mask", tmp_path / "masks", "--overwrite")
    assert code == 2 and "--overwrite needs --annotations" in err


def test_labels_beside_images_that_already_lie_in_a_data_set(segment, tmp_path, photos):
    (tmp_path / "set").mkdir()
    photos.rename(tmp_path / "set" / "images")
    before = (tmp_path / "set" / "images" / "a.png").stat().st_mtime_ns
    arguments = ("--format", "yolo", "--annotations", tmp_path / "set")
    assert segment(*arguments, images=[tmp_path / "set" / "images"])[0] == 0
    assert (tmp_path / "set" / "images" / "a.png").stat().st_mtime_ns == before
    assert {"data.yaml", "labels/a.txt", "labels/b.txt"} <= set(names_in(tmp_path / "set"))


def test_what_cannot_be_right_is_refused_before_the_work(segment, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dinov3seg_hf.cli.segment_images.load_pipeline", lambda *args: pytest.fail("the model was loaded")
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes((photos / "a.png").read_bytes())
    before = names_in(tmp_path)
    target = tmp_path / "new"
    for arguments, message in (
        (["--format", "coco"], "Got --format without --annotations"),
        (["--annotations", target], "Got --annotations without --format"),
        (["--format", "voc", "--annotations", target], "invalid choice"),
        (["--format", "coco", "--annotations", target], "expected .json"),
        (["--format", "cvat", "--annotations", tmp_path / "a.json"], "expected .xml"),
        (["--format", "coco", "--annotations", tmp_path / "no" / "a.json"], "was not found"),
        (["--format", "yolo", "--annotations", photos], "Choose another folder"),
        (["--format", "png", "--annotations", photos / "set", "--recursive"], "Choose another folder"),
        (["--format", "png", "--annotations", target, "--min-area", "-1"], "at least 1"),
        (["--mask", target, "--min-area", "5"], "--min-area needs --annotations"),
        (["--mask", target, "--no-copy-images"], "--no-copy-images needs --annotations"),
        (["--format", "png", "--annotations", target, "--tolerance", "nan"], "at least 0"),
    ):
        code, out, err = segment(*arguments)
        assert code == 2 and out == "" and err.count("\n") == 1 and message in err, arguments
    code, _, err = segment(
        "--format", "coco", "--annotations", tmp_path / "a.json", images=[photos, tmp_path / "other"]
    )
    assert code == 2 and "have the same name in annotations" in err
    assert names_in(tmp_path) == before


# --- interrupted runs -------------------------------------------------------------------------------------------------

KEPT_ENDINGS = {**ENDINGS, "parquet": "set"}


class Killed(BaseException):
    """A process that ends without a word: nothing may be written after it."""


def contents_in(folder):
    return {name: (folder / name).read_bytes() for name in names_in(folder)}


@pytest.fixture
def five_photos(photos):
    for name in ("d.png", "e.png", "f.png"):
        (photos / name).write_bytes((photos / "a.png").read_bytes())
    return photos


def stops_after(monkeypatch, num_images, error):
    """Lets the writer of annotations fail in the middle of an image."""
    from dinov3seg_hf.annotations.image import Cleaned

    count = iter(range(100))
    whole = Cleaned.__init__

    def stop(self, *args):
        if next(count) == num_images:
            raise error
        whole(self, *args)

    monkeypatch.setattr(Cleaned, "__init__", stop)


@pytest.mark.parametrize("name", KEPT_ENDINGS)
def test_an_interrupted_run_of_one_file_goes_on(segment, five_photos, tmp_path, monkeypatch, name):
    """Ctrl+C, a killed process and a full disk lost the records of all images, which are hours of work."""
    monkeypatch.setattr("dinov3seg_hf.annotations.parquet.ROWS_PER_FILE", 2)
    again = ("--skip-existing",) if name in ("cvat", "parquet") else ()
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()

    def arguments(folder):
        path = tmp_path / folder / KEPT_ENDINGS[name]
        return "--format", name, "--annotations", path, "--min-area", 2, "--mask", tmp_path / folder / "masks"

    assert segment(*arguments("whole"))[0] == 0
    with monkeypatch.context() as patch:
        stops_after(patch, 3, KeyboardInterrupt())
        code, _, err = segment(*arguments("parts"))
        assert code == 130 and "go on" in err
        stops_after(patch, 1, Killed())
        with pytest.raises(Killed):
            segment(*arguments("parts"), *again)
    with monkeypatch.context() as patch:
        if name != "parquet":  # which has been written up to its last file
            patch.setattr("dinov3seg_hf.annotations.writer.open_atomically", disk_is_full)
            code, _, err = segment(*arguments("parts"), *again)
            assert code == 2 and "what was written before is complete" in err
    with monkeypatch.context() as patch:
        if name != "parquet":
            patch.setattr(
                "dinov3seg_hf.cli.segment_images.load_pipeline", lambda *args: pytest.fail("the model was loaded")
            )
        code, _, err = segment(*arguments("parts"), *again)
    assert code == 0 and f"{5 if name != 'parquet' else 2} of 5 images were done before" in err
    assert contents_in(tmp_path / "parts") == contents_in(tmp_path / "whole")


def disk_is_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", KEPT_ENDINGS)
def test_only_the_same_run_goes_on(segment, five_photos, tmp_path, monkeypatch, name, tiny_checkpoint):
    monkeypatch.setattr("dinov3seg_hf.annotations.parquet.ROWS_PER_FILE", 2)
    path = tmp_path / KEPT_ENDINGS[name]
    arguments = ("--format", name, "--annotations", path)
    with monkeypatch.context() as patch:
        stops_after(patch, 3, KeyboardInterrupt())
        assert segment(*arguments)[0] == 130
    before = contents_in(tmp_path)
    for change, what in (
        (["--labels", "cat, dog"], "labels"),
        (["--templates", "a drawing of {}"], "labels"),
        (["--threshold", "0.5"], "threshold"),
        (["--min-area", "5"], "min_area"),
        (["--mask", tmp_path / "masks"], "mask"),
    ):
        code, out, err = segment(*arguments, *change)
        assert (code, out) == (2, "") and "interrupted run with another" in err and what in err
        assert "begin again with --overwrite, or remove the file" in err
        assert contents_in(tmp_path) == before
    (other := tmp_path / "other").mkdir()
    (other / "z.png").write_bytes((five_photos / "a.png").read_bytes())
    code, _, err = segment(*arguments, images=[other])
    assert code == 2 and ("another folder of images" in err or "not in this run" in err)
    assert {**before, "other/z.png": before["photos/a.png"]} == contents_in(tmp_path)


def test_an_image_that_changed_is_done_again(segment, five_photos, tmp_path, monkeypatch, sample_image):
    arguments = ("--format", "coco", "--annotations", tmp_path / "coco.json")
    with monkeypatch.context() as patch:
        stops_after(patch, 3, KeyboardInterrupt())
        assert segment(*arguments)[0] == 130
    sample_image.resize((30, 20)).save(five_photos / "a.png")
    code, out, err = segment(*arguments)
    assert code == 0 and "2 of 5 images were done before" in err and "a.png:" in out and "b.jpg:" not in out
    content = json.loads((tmp_path / "coco.json").read_text())
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in content["images"]}
    assert sizes["a.png"] == (30, 20) and len(sizes) == 5
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4, 5]
    # nothing is left to go on with
    code, _, err = segment(*arguments, "--skip-existing")
    assert code == 2 and "is complete" in err and not (tmp_path / "coco.json.journal").exists()


def test_a_folder_of_files_needs_no_identity_of_images(segment, photos, tmp_path, monkeypatch):
    """On a network disk, that of 100,000 images takes minutes."""
    monkeypatch.setattr(ImageInput, "identity", property(lambda image: pytest.fail("was looked up")))
    arguments = ("--format", "png", "--annotations", tmp_path / "set")
    assert segment(*arguments)[0] == 0 and segment(*arguments, "--skip-existing")[0] == 0


def test_overwrite_begins_again(segment, five_photos, tmp_path, monkeypatch):
    arguments = ("--format", "coco", "--annotations", tmp_path / "coco.json")
    with monkeypatch.context() as patch:
        stops_after(patch, 3, KeyboardInterrupt())
        assert segment(*arguments)[0] == 130
    code, out, err = segment(*arguments, "--threshold", "0.5", "--overwrite")
    assert (code, err) == (0, "") and out.count("label") == 5
    assert not (tmp_path / "coco.json.journal").exists()


def test_two_runs_do_not_write_one_file(segment, photos, tmp_path, monkeypatch):
    from dinov3seg_hf.annotations import open_writer

    writer = open_writer("coco", tmp_path / "coco.json", ["cat", "dog"])
    writer.resume({}, {})
    with writer:
        code, _, err = segment("--format", "coco", "--annotations", tmp_path / "coco.json")
        assert code == 2 and "another process writes these annotations" in err
    assert not (tmp_path / "coco.json.journal").exists()
    for content in ("my diary\n", "my diary", "{}\n"):
        (tmp_path / "coco.json.journal").write_text(content)
        code, _, err = segment("--format", "coco", "--annotations", tmp_path / "coco.json")
        assert code == 2 and "is no journal" in err and (tmp_path / "coco.json.journal").read_text() == content
