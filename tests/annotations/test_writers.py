# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What all formats share: nothing half-written, images one by one, options, and errors that say what to do."""

import errno
import json
import os
import re
import sys
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from full_disk import files_of_at_most
from PIL import Image

from dinov3seg_hf import AnnotatedImage, Vocabulary, export_annotations
from dinov3seg_hf.annotations import FORMATS, ExportOptions, open_writer, to_detections, to_fiftyone
from dinov3seg_hf.annotations.writer import WouldOverwriteError
from dinov3seg_hf.model.image_input import read_label_map

from .conftest import NAMES, label_map_of
from places import REPO

# geopackage needs images with a place on earth; see test_geo.py
PHOTO_FORMATS = [name for name in FORMATS if name != "geopackage"]
IN_FOLDERS = ["png", "yolo", "labelme", "cutouts", "scores", "geotiff"]
ONE_FILE = {"coco": "a.json", "coco-panoptic": "a.json", "cvat": "a.xml", "label-studio": "a.json"}


def path_for(folder, name):
    return folder / ONE_FILE.get(name, name)


def content_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PHOTO_FORMATS)
def test_a_generator_is_read_once_and_a_bad_image_leaves_nothing(annotated, tmp_path, name):
    path = path_for(tmp_path, name)
    with open_writer(name, path, NAMES) as writer:
        assert not path.exists()
        writer.add(annotated[0])
        with pytest.raises(ValueError, match="added before"):
            writer.add(annotated[0])
        with pytest.raises(ValueError, match="contains label 9"):
            writer.add(AnnotatedImage("bad.png", np.full((4, 4), 9), np.ones((4, 4)), image=Image.new("RGB", (4, 4))))
        writer.add(annotated[1])
    assert writer.num_images == 2
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".") or "bad" in file.name]
    if name in ("coco", "coco-panoptic"):
        content = content_of(path)
        assert [image["id"] for image in content["images"]] == [1, 2]
        assert {entry["image_id"] for entry in content["annotations"]} == {1, 2}
        assert [category["id"] for category in content["categories"]] == [1, 2, 3, 4]
    if name == "coco":
        assert [entry["id"] for entry in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
        assert all(0.3 < entry["score"] < 0.7 for entry in content["annotations"])


@pytest.mark.parametrize("name", PHOTO_FORMATS)
def test_a_name_that_a_format_cannot_store_costs_its_image_only(tmp_path, name):
    """Names of files on Linux are any bytes, and XML has no control characters. Formats without names take all."""
    names = ["a.png", os.fsdecode(b"M\xfcller.png"), "escape\x1b.png", "b.png"]
    labels, scores = label_map_of(30, 40, 0), np.full((30, 40), 0.5, np.float32)
    failed = []
    with open_writer(name, path_for(tmp_path, name), NAMES) as writer:
        for file_name in names:
            try:
                writer.add(AnnotatedImage(file_name, labels, scores, image=Image.new("RGB", (40, 30))))
            except ValueError as error:
                assert "Rename the image" in str(error)
                failed.append(file_name)
    expected = {"png": [], "yolo": [], "scores": [], "cvat": names[1:3]}
    assert failed == expected.get(name, names[1:2])
    assert writer.num_images == 4 - len(failed)
    if name == "cvat":
        images = ElementTree.parse(path_for(tmp_path, name)).iter("image")
        assert [image.get("name") for image in images] == ["a.png", "b.png"]


def test_masks_become_one_file_as_documented(annotated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_scores = [AnnotatedImage(image.file_name, image.label_map, source=image.source) for image in annotated]
    export_annotations(without_scores, NAMES, "labeled", "png")
    (code,) = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "annotations.md").read_text(), re.DOTALL)
    exec(code, {})
    export_annotations(without_scores, NAMES, "expected.json", "coco", min_area=20)
    assert content_of(tmp_path / "coco.json") == content_of(tmp_path / "expected.json")
    assert len(list(ElementTree.parse("cvat.xml").iter("image"))) == 2


def nested(depth):
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": np.array(["a.png", "b.png"])}, r"The file name is array.*expected a path"),
        ({"label_map": nested(100)}, r"The label map is .*; expected an array"),
        ({"label_map": [[1, 2], [3]]}, r"The label map is .*; expected an array"),
        ({"score_map": nested(100)}, r"The score map of 'a.png' is .*; expected an array"),
    ],
)
def test_images_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AnnotatedImage(**{"file_name": "a.png", "label_map": np.zeros((2, 3), dtype=np.int32)} | change)


def test_the_name_of_an_image_can_be_a_path():
    assert AnnotatedImage(Path("street/a.png"), np.zeros((2, 3), dtype=np.int32)).file_name == "street/a.png"


@pytest.mark.parametrize("name", PHOTO_FORMATS)
def test_without_images_nothing_is_written(tmp_path, name):
    assert export_annotations([], NAMES, path_for(tmp_path, name), name) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ONE_FILE)
def test_an_error_keeps_the_old_file(annotated, tmp_path, name):
    path = path_for(tmp_path, name)
    path.write_text("old")

    def images():
        yield annotated[0]
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        export_annotations(images(), NAMES, path, name)
    assert path.read_text() == "old"


def test_an_image_that_fails_halfway_is_not_in_the_file(annotated, tmp_path, monkeypatch):
    with open_writer("coco", tmp_path / "coco.json", NAMES) as writer:
        writer.add(annotated[0])
        spool = writer.spool

        def full_disk(name, *records):
            spool(name, *records)
            if name == "annotations":
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(writer, "spool", full_disk)
        with pytest.raises(ValueError, match="No space left on device"):
            writer.add(annotated[1])
        monkeypatch.undo()
        writer.add(annotated[1])
    content = content_of(tmp_path / "coco.json")
    assert [image["id"] for image in content["images"]] == [1, 2]
    ids = [entry["id"] for entry in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def contents_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_no_file_that_was_changed_is_replaced_unless_asked(annotated, tmp_path, name):
    """Any file of an image may have been corrected by a person; then nothing of the image changes."""
    folder = tmp_path / name
    export_annotations(annotated, NAMES, folder, name)
    whole = contents_in(folder)
    export_annotations(annotated, NAMES, folder, name)  # the same again
    assert contents_in(folder) == whole
    shared = {Path("labels.json"), Path("labels.txt"), Path("data.yaml")}
    changed = AnnotatedImage("first.jpg", np.zeros((60, 90), int), np.ones((60, 90)), annotated[0].source)
    for path in sorted(whole.keys() - shared):
        content = whole[path][:-1] + b"?"
        (folder / path).write_bytes(content)
        for images in (annotated, [changed]):
            if images == [changed] and "first" not in str(path):
                continue
            failed = []
            with open_writer(name, folder, NAMES) as writer:
                for image in images:
                    try:
                        writer.add(image)
                    except WouldOverwriteError as error:
                        assert "stay as they are" in str(error) and "overwrite=True" in str(error)
                        failed.append(image.stem)
            assert len(failed) == 1 and contents_in(folder) == whole | {path: content}
        with pytest.raises(ValueError, match="exists with another content"):
            export_annotations(annotated, NAMES, folder, name)
        export_annotations(annotated, NAMES, folder, name, overwrite=True)
        assert contents_in(folder) == whole
    # what a run was interrupted in
    for path in sorted(whole):
        (folder / path).unlink()
        export_annotations(annotated, NAMES, folder, name)
        assert contents_in(folder) == whole
    with pytest.raises(WouldOverwriteError):
        export_annotations([changed], NAMES, folder, name)
    assert contents_in(folder) == whole


def test_cutouts_that_are_replaced_leave_no_old_pictures(annotated, tmp_path):
    counts = []
    for options in ({}, {"min_area": 1000, "overwrite": True}):
        export_annotations(annotated, NAMES, tmp_path / "cut", "cutouts", **options)
        counts.append(len(content_of(tmp_path / "cut" / "first" / "cutouts.json")["cutouts"]))
        assert len(list((tmp_path / "cut" / "first").glob("*.png"))) == counts[-1]
    assert counts[0] > counts[1] > 0
    (tmp_path / "cut" / "first" / "cutouts.json").write_text("[1]")  # of somebody else
    export_annotations(annotated, NAMES, tmp_path / "cut", "cutouts", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_with_the_labels_of_all_images_keep_what_people_added(annotated, tmp_path, overwrite):
    names = ("cat", 'a "quoted" word', "\U0001f600 face", "no: yes")
    options = {"overwrite": overwrite}
    export_annotations(annotated[:1], names, tmp_path / "yolo", "yolo")
    file = tmp_path / "yolo" / "data.yaml"
    edited = file.read_text(encoding="utf-8").replace("val: images", "val: ../other/images")
    file.write_text(edited, encoding="utf-8")
    export_annotations(annotated, names, tmp_path / "yolo", "yolo", **options)
    assert (file.read_text(encoding="utf-8") == edited) == (not overwrite)
    # a data set of somebody else, whose labels have other numbers
    (tmp_path / "yolo" / "labels.json").unlink()
    for text in ("names: [dog, cat]", "names: {0: cat, 2: dog}", "train: images", "[", "names: !!python/name:os.x"):
        file.write_text(text)
        with pytest.raises(ValueError, match="annotations with other labels"):
            open_writer("yolo", tmp_path / "yolo", names, ExportOptions(**options))
        assert file.read_text() == text


def test_masks_with_other_values_are_refused(annotated, tmp_path):
    (tmp_path / "png").mkdir()
    for change in ({"raw_ids": {7: 0, 8: 1}}, {"ignore_label": 7}):
        Vocabulary(["cat", "dog"], **change).save(tmp_path / "png" / "labels.json")
        with pytest.raises(ValueError, match="annotations with other labels"):
            open_writer("png", tmp_path / "png", ["cat", "dog"])


@pytest.mark.parametrize("name", ["coco", "coco-panoptic", "cvat", "label-studio"])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_full_disk_does_not_promise_that_one_file_is_kept(annotated, tmp_path, monkeypatch, name, at_the_end):
    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = path_for(tmp_path, name)
    writer = open_writer(name, path, NAMES)
    writer.add(annotated[0])
    if at_the_end:
        monkeypatch.setattr("dinov3seg_hf.annotations.writer.open_atomically", full_disk)
    else:
        monkeypatch.setattr(writer, "spool", full_disk)
    with pytest.raises(ValueError, match=r"left on device\. Free disk space, and run the same again") as caught:
        writer.close() if at_the_end else writer.add(annotated[1])
    assert "begin again with the first image" in str(caught.value) and "is complete" not in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("name", ONE_FILE)
def test_a_full_disk_and_a_line_that_was_cut_off_cost_one_image(annotated, tmp_path, name):
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    run, sources = {"model": "a"}, {image.file_name: [str(image.source)] for image in annotated}
    export_annotations(annotated, NAMES, path_for(tmp_path / "whole", name), name)
    path = path_for(tmp_path / "parts", name)
    journal = path.with_name(f"{path.name}.journal")
    writer = open_writer(name, path, NAMES)
    assert not writer.resumable and writer.resume(run, sources) == set() and writer.resumable
    writer.add(annotated[0])
    size = journal.stat().st_size
    with files_of_at_most(size + 100), pytest.raises(ValueError, match="cannot be written: File too large"):
        writer.add(annotated[1])
    assert journal.stat().st_size == size
    writer.discard()
    for cut_off in (b'{"images": {"more/second', b"\0" * 50):  # killed; without power
        with open(journal, "ab") as file:
            file.write(cut_off)
        writer = open_writer(name, path, NAMES)
        assert writer.resume(run, sources) == {"first.jpg"} and journal.stat().st_size == size
        writer.discard()
    with open_writer(name, path, NAMES) as writer:
        assert writer.resume(run, sources) == {"first.jpg"}
        with pytest.raises(ValueError, match="added before"):
            writer.add(annotated[0])
        writer.add(annotated[1])
    assert writer.num_images == 2
    assert contents_in(tmp_path / "parts") == contents_in(tmp_path / "whole")


@pytest.mark.parametrize("name", ["coco", "cvat", "yolo", "label-studio"])
def test_memory_does_not_grow_with_the_images(tmp_path, name):
    labels = np.zeros((256, 256), np.int32)
    labels[::32] = 1

    def images(count):
        for number in range(count):
            yield AnnotatedImage(f"{number}.png", labels, source=None)

    options = {"copy_images": False}
    export_annotations(images(2), NAMES, path_for(tmp_path, name), name, **options)  # what is loaded once
    peaks = []
    for count in (4, 16):
        tracemalloc.start()
        export_annotations(images(count), NAMES, path_for(tmp_path, name), name, **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 200_000


# --- options ----------------------------------------------------------------------------------------------------------


def test_small_parts_and_low_scores_are_ignored_in_masks_too(annotated, tmp_path):
    image = annotated[0]
    options = {"min_area": 2, "ignore_below": 0.5}
    export_annotations([image], NAMES, tmp_path / "png", "png", **options)
    export_annotations([image], NAMES, tmp_path / "coco.json", "coco", **options)
    mask = read_label_map(tmp_path / "png" / "masks" / "first.png").numpy()
    kept = mask != 255
    assert (mask[kept] == image.label_map[kept]).all() and (image.score_map[kept] >= 0.5).all()
    annotations = content_of(tmp_path / "coco.json")["annotations"]
    assert sum(entry["area"] for entry in annotations) == kept.sum() and all(e["area"] >= 2 for e in annotations)
    assert mask[-1, -1] == 255  # one pixel alone


def test_tolerance_makes_polygons_shorter(annotated, tmp_path):
    lengths = []
    for tolerance in (0, 1, 4):
        export_annotations(annotated, NAMES, tmp_path / "coco.json", "coco", tolerance=tolerance)
        annotations = content_of(tmp_path / "coco.json")["annotations"]
        lengths.append(sum(len(ring) for entry in annotations for ring in entry["polygons"]))
    assert lengths[0] > lengths[1] > lengths[2]


def test_image_prefix(annotated, tmp_path):
    export_annotations(annotated, NAMES, tmp_path / "coco.json", "coco", image_prefix="train/")
    names = [image["file_name"] for image in content_of(tmp_path / "coco.json")["images"]]
    assert names == ["train/first.jpg", "train/more/second.png"]


# --- images -----------------------------------------------------------------------------------------------------------


def test_a_rotated_image_is_stored_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = AnnotatedImage("a.jpg", np.zeros((6, 4), np.int32), source=tmp_path / "a.jpg")
    for name in ("png", "yolo", "labelme"):
        export_annotations([image], NAMES, tmp_path / name, name)
        (stored,) = [file for file in (tmp_path / name).rglob("a.png") if file.parent.name != "masks"]
        with Image.open(stored) as picture:
            assert picture.size == (4, 6)
    assert content_of(tmp_path / "labelme" / "a.json")["imagePath"] == "a.png"
    # beside the image itself, a second image would be made
    with pytest.raises(ValueError, match="rotated by its EXIF"):
        export_annotations([image], NAMES, tmp_path, "labelme")


def test_images_that_lie_where_they_belong_stay_as_they_are(tmp_path):
    (tmp_path / "images").mkdir()
    source = tmp_path / "images" / "a.png"
    Image.new("RGB", (6, 4)).save(source)
    before = source.stat().st_mtime_ns
    export_annotations([AnnotatedImage("a.png", np.zeros((4, 6), int), source=source)], NAMES, tmp_path, "yolo")
    assert source.stat().st_mtime_ns == before and (tmp_path / "labels" / "a.txt").is_file()


def test_a_file_without_its_ending_becomes_png(tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "photo", "JPEG")
    image = AnnotatedImage("photo.png", np.zeros((4, 6), int), source=tmp_path / "photo")
    export_annotations([image], NAMES, tmp_path / "png", "png")
    with Image.open(tmp_path / "png" / "images" / "photo.png") as stored:
        assert stored.format == "PNG"


def test_pixels_without_a_file_become_png(tmp_path):
    image = AnnotatedImage("a.jpg", np.zeros((4, 6), int), image=Image.new("RGB", (6, 4), "red"))
    export_annotations([image], NAMES, tmp_path / "png", "png")
    assert (tmp_path / "png" / "images" / "a.png").is_file()
    with pytest.raises(ValueError, match="has no pixels"):
        export_annotations([AnnotatedImage("a.jpg", np.zeros((4, 6), int))], NAMES, tmp_path / "yolo", "yolo")


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_name", ["/a.png", "../a.png", "a\\b.png", "a", ""])
def test_file_names_are_relative_and_have_an_ending(file_name):
    with pytest.raises(ValueError, match="expected a relative name with an ending"):
        AnnotatedImage(file_name, np.zeros((2, 2), int))


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"score map of 'a\.png' has the shape"):
        AnnotatedImage("a.png", np.zeros((2, 3), int), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"image of 'a\.png' has the shape"):
        AnnotatedImage("a.png", np.zeros((2, 3), int), image=Image.new("RGB", (2, 3)))
    with pytest.raises(ValueError, match="expected integers"):
        AnnotatedImage("a.png", np.zeros((2, 3)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"min_area": -1}, "min_area is -1"),
        ({"min_area": 1.5}, "min_area is 1.5"),
        ({"tolerance": -1}, "tolerance is -1"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"ignore_below": 2}, "ignore_below is 2"),
        ({"copy_images": "no"}, "copy_images is 'no'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**options)


def test_paths_and_formats_are_checked_first(tmp_path):
    with pytest.raises(ValueError, match=r"format is 'voc'; expected .png., "):
        open_writer("voc", tmp_path / "a", NAMES)
    with pytest.raises(ValueError, match=r"expected \.json"):
        open_writer("coco", tmp_path / "a.txt", NAMES)
    with pytest.raises(ValueError, match="was not found"):
        open_writer("yolo", tmp_path / "missing" / "a", NAMES)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; expected a folder for the PNGs"):
        open_writer("coco-panoptic", tmp_path / "file.json", NAMES)
    with pytest.raises(ValueError, match="is a file; expected a folder, or nothing"):
        open_writer("png", tmp_path / "file", NAMES)
    with pytest.raises(ValueError, match="has no score map"):
        image = AnnotatedImage("a.png", np.zeros((2, 2), int))
        export_annotations([image], NAMES, tmp_path / "a.json", ignore_below=0.5)
    assert os.listdir(tmp_path) == ["file"]


def test_other_labels_are_refused(annotated, tmp_path):
    for name in ("png", "labelme"):
        export_annotations(annotated[:1], NAMES, tmp_path / name, name)
        export_annotations(annotated[1:], NAMES, tmp_path / name, name)
        with pytest.raises(ValueError, match="annotations with other labels"):
            open_writer(name, tmp_path / name, ["cat", "dog"])


def test_labels_keep_their_words_but_not_the_numbers_of_other_annotations(annotated, tmp_path):
    vocabulary = Vocabulary(
        ["cat", "dog", "sofa", "sky"], [["cat"], ["dog", "hound"], ["sofa"], ["sky"]], raw_ids={5: 1}
    )
    export_annotations(annotated, vocabulary, tmp_path / "png", "png")
    stored = Vocabulary.from_file(tmp_path / "png" / "labels.json")
    assert stored.synonyms == vocabulary.synonyms and stored.raw_ids is None


@pytest.mark.parametrize("function, library", [(to_detections, "supervision"), (to_fiftyone, "fiftyone")])
def test_a_missing_library_of_objects_is_named(annotated, monkeypatch, function, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=f"pip install {library}"):
        function(annotated[0], NAMES)


@pytest.mark.parametrize("name, library", [("coco", "pycocotools"), ("yolo", "shapely"), ("parquet", "datasets")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf"The format {name} requires {library}.*\[export\]"):
        open_writer(name, path_for(tmp_path, name), NAMES)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.uint64])
def test_a_label_that_is_too_large_for_int32_does_not_become_another_one(dtype):
    labels = np.array([[0, 2**32 - 1 if dtype == np.uint32 else 2**32 + 1]], dtype)
    with pytest.raises(ValueError, match=r"contains label 4294967.*expected at most 2147483647"):
        AnnotatedImage("a.png", labels)
    if dtype == np.int64:
        assert (AnnotatedImage("a.png", -labels - 5).label_map < 0).all()


def test_pixels_that_are_masked_are_refused():
    for name in ("label_map", "score_map"):
        values = {"label_map": np.zeros((2, 3), int), "score_map": np.zeros((2, 3))}
        values[name] = np.ma.masked_array(values[name], values[name] == 0)
        with pytest.raises(ValueError, match="has masked pixels; expected a value for each pixel"):
            AnnotatedImage("a.png", **values)


def test_scores_are_float32_between_0_and_1_in_any_kind_of_array():
    scores = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    kinds = (scores.tolist(), scores.astype(">f8"), torch.from_numpy(scores).requires_grad_(), scores[::-1][::-1])
    for kind in kinds:
        image = AnnotatedImage("a.png", np.zeros((2, 3), int), kind)
        assert image.score_map.dtype == np.float32
        np.testing.assert_array_equal(image.score_map, scores)
    for wrong in (scores * 100, scores - 1, np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match="expected scores between 0 and 1"):
            AnnotatedImage("a.png", np.zeros((2, 3), int), wrong)
    with pytest.raises(ValueError, match="dtype bool; expected float32"):
        AnnotatedImage("a.png", np.zeros((2, 3), int), scores > 0.5)
