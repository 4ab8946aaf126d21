# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Benchmarks on miniature downloads, drawn here in the layout and encoding of the originals."""

import errno
import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from dinov3seg_hf import Vocabulary
from dinov3seg_hf.cli import main
from dinov3seg_hf.data.benchmarks import BENCHMARKS, PUBLISHED, find_benchmark
from dinov3seg_hf.data.opening import find_vocabulary, open_dataset
from dinov3seg_hf.data.preparation import prepare
from dinov3seg_hf.data.rows import RowError
from dinov3seg_hf.data.segmentation import SegmentationDataset

NUM_IMAGES = 5
Labels = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# --- miniature downloads: each writes the files and returns the labels that they mean, -1 for none --------------------


def photo(path: Path, size: tuple[int, int], rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path, quality=90)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def sizes(rng: np.random.Generator) -> list[tuple[int, int]]:
    return [tuple(int(side) for side in rng.integers(20, 40, 2)) for _ in range(NUM_IMAGES)]


def raw_and_labels(preset: str, size: tuple[int, int], other: list[int], rng) -> tuple[np.ndarray, np.ndarray]:
    """Raw values of the preset's TSV and some of no class, and what they mean."""
    raw_ids = Vocabulary.from_preset(preset).raw_ids
    values = np.array([*raw_ids, *other])
    labels = np.array([*raw_ids.values(), *[-1] * len(other)])
    places = rng.integers(0, len(values), size)
    places[0] = len(raw_ids) - 1  # the last class is in every image
    places[1] = len(values) - 1
    return values[places], labels[places]


def coco_stuff(folder: Path, rng: np.random.Generator) -> Labels:
    expected = {}
    for part, split in (("train2017", "train"), ("val2017", "validation")):
        for index, size in enumerate(sizes(rng)):
            name = f"{index + 100 * (split == 'train'):012d}"
            raw, labels = raw_and_labels("coco-stuff-171", size, [11, 255], rng)
            photo(folder / part / f"{name}.jpg", size, rng)
            save(Image.fromarray(raw.astype(np.uint8)), folder / "stuffthingmaps" / part / f"{name}.png")
            expected[f"{split}/{name}"] = labels
    return expected


def ade20k_150(folder: Path, rng: np.random.Generator) -> Labels:
    expected = {}
    for index, size in enumerate(sizes(rng)):
        name = f"ADE_val_{index + 1:08d}"
        raw, labels = raw_and_labels("ade20k-150", size, [0], rng)
        root = folder / "ADEChallengeData2016"
        photo(root / "images" / "validation" / f"{name}.jpg", size, rng)
        save(Image.fromarray(raw.astype(np.uint8)), root / "annotations" / "validation" / f"{name}.png")
        expected[f"validation/{name}"] = labels
    return expected


def ade20k_847(folder: Path, rng: np.random.Generator) -> Labels:
    expected = {}
    for index, size in enumerate(sizes(rng)):
        name = f"ADE_val_{index + 1:08d}"
        raw, labels = raw_and_labels("ade20k-847", size, [0, 3111], rng)
        place = (
            folder / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / f"kind{index % 2}" / f"scene{index % 3}"
        )
        photo(place / f"{name}.jpg", size, rng)
        # the original's encoding: red in steps of ten, blue for instances; int(R / 10) ignores what is below
        red, green = raw // 256 * 10 + rng.integers(0, 6, size), raw % 256
        rgb = np.stack([red, green, rng.integers(0, 256, size)], axis=-1)
        save(Image.fromarray(rgb.astype(np.uint8)), place / f"{name}_seg.png")
        save(Image.fromarray(rgb.astype(np.uint8)), place / f"{name}_parts_1.png")
        expected[f"validation/{name}"] = labels
    return expected


def pascal_context_59(folder: Path, rng: np.random.Generator) -> Labels:
    raw_ids = Vocabulary.from_preset("pascal-context-59").raw_ids
    images, annotations, expected = [], [], {}
    for index, size in enumerate([*sizes(rng), (20, 20)]):
        name, phase = f"2008_{index:06d}", "val" if index < NUM_IMAGES else "train"
        photo(folder / "VOCdevkit" / "VOC2010" / "JPEGImages" / f"{name}.jpg", size, rng)
        images.append(
            {"file_name": f"{name}.jpg", "phase": phase, "image_id": 7 * index, "height": size[0], "width": size[1]}
        )
        labels = np.full(size, -1)
        for number in range(6):
            top, left = rng.integers(0, 12, 2)
            mask = np.zeros(size, np.uint8, order="F")
            mask[top : top + 9, left : left + 7] = 1
            category = int(rng.choice([*raw_ids, 1, 458]))  # two that are none of the 59
            encoded = coco_mask.encode(mask)
            counts = encoded["counts"].decode()
            if number == 5:  # uncompressed runs, column by column, beginning with zeros
                flat = mask.flatten(order="F")
                edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
                counts = np.diff(np.concatenate([[0], edges])).tolist()
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": 7 * index,
                    "category_id": category,
                    "segmentation": {"size": list(size), "counts": counts},
                }
            )
            labels[mask > 0] = raw_ids.get(category, -1)  # later ones overwrite
        if phase == "val":
            expected[f"validation/{name}"] = labels
    content = {"images": images, "annos_segmentation": annotations, "categories": []}
    (folder / "trainval_merged.json").write_text(json.dumps(content))
    return expected


def pascal_context_459(folder: Path, rng: np.random.Generator) -> Labels:
    expected, names = {}, []
    (folder / "trainval").mkdir(parents=True)
    for index, size in enumerate([*sizes(rng), (20, 20), (20, 20)]):
        name = f"2008_{index:06d}"
        raw, labels = raw_and_labels("pascal-context-459", size, [0], rng)
        photo(folder / "VOCdevkit" / "VOC2010" / "JPEGImages" / f"{name}.jpg", size, rng)
        if index <= NUM_IMAGES:
            savemat(folder / "trainval" / f"{name}.mat", {"LabelMap": raw.astype(np.uint16)})
        if index != NUM_IMAGES:  # one image of training; the last of the list was never annotated
            names.append(name)
        if index < NUM_IMAGES:
            expected[f"validation/{name}"] = labels
    listed = folder / "VOCdevkit" / "VOC2010" / "ImageSets" / "Main" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(names) + "\n")
    return expected


def _pascal_voc(folder: Path, rng: np.random.Generator, preset: str, other: list[int]) -> Labels:
    root, expected = folder / "VOCdevkit" / "VOC2012", {}
    palette = rng.integers(0, 256, 768).tolist()
    for index, size in enumerate([*sizes(rng), (20, 20)]):
        name = f"2007_{index:06d}"
        raw, labels = raw_and_labels(preset, size, other, rng)
        photo(root / "JPEGImages" / f"{name}.jpg", size, rng)
        image = Image.new("P", size[::-1])
        image.putdata(raw.ravel().tolist())
        image.putpalette(palette)
        save(image, root / "SegmentationClass" / f"{name}.png")
        expected[f"validation/{name}"] = labels
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    names = [key.removeprefix("validation/") for key in expected][:NUM_IMAGES]  # the last is of training
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names) + "\n")
    return {f"validation/{name}": expected[f"validation/{name}"] for name in names}


def pascal_voc_20(folder: Path, rng: np.random.Generator) -> Labels:
    return _pascal_voc(folder, rng, "pascal-voc-20", [0, 255])


def pascal_voc_20b(folder: Path, rng: np.random.Generator) -> Labels:
    return _pascal_voc(folder, rng, "pascal-voc-20b", [255])


MINIATURES: dict[str, Callable[[Path, np.random.Generator], Labels]] = {
    "coco-stuff-171": coco_stuff,
    "ade20k-150": ade20k_150,
    "ade20k-847": ade20k_847,
    "pascal-context-59": pascal_context_59,
    "pascal-context-459": pascal_context_459,
    "pascal-voc-20": pascal_voc_20,
    "pascal-voc-20b": pascal_voc_20b,
}


def prepare_miniature(name: str, folder: Path, **options):
    return prepare(
        BENCHMARKS[name], folder / "source", folder / "output", partial=True, progress=False, num_workers=2, **options
    )


@pytest.fixture
def ade(tmp_path) -> Path:
    """A miniature of A-150, not yet prepared."""
    ade20k_150(tmp_path / "source", np.random.default_rng(0))
    return tmp_path


def parts_of(folder: Path) -> list[Path]:
    return sorted((folder / "output" / "data").glob("*.parquet"))


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_original_annotations_become_the_labels_of_the_protocol(name, tmp_path):
    expected = MINIATURES[name](tmp_path / "source", np.random.default_rng(1))
    results = prepare_miniature(name, tmp_path, rows_per_file=2)
    assert {result.split: result.num_rows for result in results} == dict.fromkeys(BENCHMARKS[name].splits, NUM_IMAGES)
    found = {}
    for split in BENCHMARKS[name].splits:
        dataset = open_dataset(tmp_path / "output", split)
        assert set(dataset.column_names) == {"image", "label_map", "name", "protocol"}
        assert set(dataset["protocol"]) == {f"{name}/1"}
        vocabulary = find_vocabulary(dataset)
        assert vocabulary == Vocabulary.from_preset(name)
        for item, stem in zip(SegmentationDataset(dataset, vocabulary), dataset["name"]):
            assert item["image"].shape[:2] == item["labels"].shape
            found[f"{split}/{stem}"] = item["labels"]
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    labels = np.unique(np.concatenate([labels.ravel() for labels in found.values()]))
    assert labels[0] == -1 and labels[-1] < len(vocabulary.scored_names)
    if name != "pascal-context-59":
        assert labels[-1] == len(vocabulary.scored_names) - 1  # 846 of A-847


def test_every_benchmark_has_a_miniature_a_vocabulary_and_the_counts_of_the_protocol():
    assert list(MINIATURES) == list(BENCHMARKS)
    assert set(BENCHMARKS) == set(Vocabulary.presets())
    assert {name: benchmark.splits["validation"] for name, benchmark in BENCHMARKS.items()} == {
        "coco-stuff-171": 5000,
        "ade20k-150": 2000,
        "ade20k-847": 2000,
        "pascal-context-59": 5105,
        "pascal-context-459": 5104,
        "pascal-voc-20": 1449,
        "pascal-voc-20b": 1449,
    }
    assert set(PUBLISHED) < set(BENCHMARKS) and len(PUBLISHED) == 5


def test_images_stay_the_original_files(ade):
    prepare_miniature("ade20k-150", ade)
    (path,) = parts_of(ade)
    rows = pyarrow.parquet.read_table(path).to_pylist()
    for row in rows:
        original = ade / "source" / "ADEChallengeData2016" / "images" / "validation" / f"{row['name']}.jpg"
        assert row["image"]["bytes"] == original.read_bytes()
    assert {Image.open(io.BytesIO(row["label_map"]["bytes"])).mode for row in rows} == {"L"}


def test_large_images_of_a847_are_shrunk_with_their_labels(tmp_path):
    place = tmp_path / "source" / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "scene"
    raw = np.where(np.arange(1500) < 750, 2978, 2855)[None].repeat(1024, axis=0)  # wall, tree
    for name, size in (("large", (1024, 1500)), ("small", (512, 700))):
        photo(place / f"{name}.jpg", size, np.random.default_rng(0))
        here = raw[: size[0], : size[1]]
        rgb = np.stack([here // 256 * 10, here % 256, np.zeros_like(here)], -1)
        save(Image.fromarray(rgb.astype(np.uint8)), place / f"{name}_seg.png")
    prepare_miniature("ade20k-847", tmp_path)
    large, small = SegmentationDataset(
        open_dataset(tmp_path / "output", "validation"), Vocabulary.from_preset("ade20k-847")
    )
    assert large["image"].shape == (512, 750, 3) and small["image"].shape == (512, 700, 3)
    assert (large["labels"][:, :375] == 0).all() and (large["labels"][:, 375:] == 3).all()
    assert np.array_equal(small["image"], np.asarray(Image.open(place / "small.jpg")))


def test_the_card_names_the_classes_and_counts(ade):
    prepare_miniature("ade20k-150", ade)
    text = (ade / "output" / "README.md").read_text()
    assert "- validation: 5 of 2,000 images" in text and "Protocol ade20k-150/1" in text
    names = find_vocabulary(None, card=ade / "output").names
    assert names == Vocabulary.from_preset("ade20k-150").scored_names


# --- broken off, and started again ------------------------------------------------------------------------------------


def test_a_run_that_was_broken_off_goes_on_and_ends_the_same(ade, monkeypatch):
    prepare_miniature("ade20k-150", ade, rows_per_file=2)
    whole = {path.name: path.read_bytes() for path in parts_of(ade)}
    assert len(whole) == 3
    for path in parts_of(ade)[1:]:
        path.unlink()
    first = parts_of(ade)[0].stat().st_mtime_ns

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="No space left"):
        patch.setattr("os.fsync", full)
        prepare_miniature("ade20k-150", ade, rows_per_file=2)
    assert {path.name for path in (ade / "output" / "data").iterdir()} == {
        parts_of(ade)[0].name
    }  # nothing half-written

    (result,) = prepare_miniature("ade20k-150", ade, rows_per_file=2)
    assert (result.num_old_files, result.num_new_files, result.num_rows) == (1, 2, NUM_IMAGES)
    assert parts_of(ade)[0].stat().st_mtime_ns == first
    assert {path.name: path.read_bytes() for path in parts_of(ade)} == whole


def test_an_output_with_something_else_in_it_is_refused(ade, tmp_path_factory):
    prepare_miniature("ade20k-150", ade, rows_per_file=2)
    before = {path.name: path.read_bytes() for path in parts_of(ade)}
    other = tmp_path_factory.mktemp("other")
    pascal_voc_20(other / "source", np.random.default_rng(0))
    for options in ({"rows_per_file": 3}, {"benchmark": BENCHMARKS["pascal-voc-20"], "source": other / "source"}):
        arguments = {"benchmark": BENCHMARKS["ade20k-150"], "source": ade / "source", "rows_per_file": 2, **options}
        with pytest.raises(ValueError, match="from another data set"):
            prepare(output=ade / "output", partial=True, progress=False, **arguments)
    assert {path.name: path.read_bytes() for path in parts_of(ade)} == before


def test_splits_of_two_data_sets_do_not_become_one(tmp_path):
    coco_stuff(tmp_path / "source", np.random.default_rng(0))
    prepare_miniature("coco-stuff-171", tmp_path, splits=["train"])
    before = [path.name for path in parts_of(tmp_path)]
    pascal_voc_20(tmp_path / "voc", np.random.default_rng(0))
    with pytest.raises(ValueError, match="the split 'train' from another data set, coco-stuff-171/1"):
        prepare(BENCHMARKS["pascal-voc-20"], tmp_path / "voc", tmp_path / "output", partial=True, progress=False)
    assert [path.name for path in parts_of(tmp_path)] == before


def test_splits_may_be_prepared_one_after_the_other(tmp_path):
    coco_stuff(tmp_path / "source", np.random.default_rng(0))
    prepare_miniature("coco-stuff-171", tmp_path, splits=["validation"])
    assert [path.name for path in parts_of(tmp_path)] == ["validation-00000-of-00001.parquet"]
    prepare_miniature("coco-stuff-171", tmp_path, splits=["train"])
    text = (tmp_path / "output" / "README.md").read_text()
    assert "- train: 5 of 118,287 images" in text and "- validation: 5 of 5,000 images" in text
    with pytest.raises(ValueError, match="Unknown split 'test' of COCO-Stuff; expected one of train, validation"):
        prepare_miniature("coco-stuff-171", tmp_path, splits=["test"])


# --- what is wrong with a download ------------------------------------------------------------------------------------


def test_counts_are_checked_before_anything_is_written(ade):
    with pytest.raises(ValueError, match=r"5 annotated images .* expected 2,000.*--partial"):
        prepare(BENCHMARKS["ade20k-150"], ade / "source", ade / "output")
    assert not (ade / "output").exists()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_download_that_is_not_there_is_told_with_its_layout(name, tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(ValueError, match=r"Files of the .* download: |expected 2,000"):
        prepare_miniature(name, tmp_path)
    with pytest.raises(ValueError, match=r"Folder '.*nowhere' was not found"):
        prepare(BENCHMARKS[name], tmp_path / "nowhere", tmp_path / "output")


def test_images_and_annotations_have_to_match(ade):
    root = ade / "source" / "ADEChallengeData2016"
    next((root / "annotations" / "validation").glob("*.png")).unlink()
    with pytest.raises(ValueError, match=r"1 of 5 images do not have an annotation .* such as 'ADE_val_"):
        prepare_miniature("ade20k-150", ade)


BROKEN = {
    "truncated image": (lambda image, mask: image.write_bytes(image.read_bytes()[:300]), "truncated or damaged"),
    "unknown value": (
        lambda image, mask: Image.new("L", Image.open(mask).size, 200).save(mask),
        "contains 200; expected only values of A-150",
    ),
    "another size": (lambda image, mask: Image.new("L", (3, 4)).save(mask), "the annotation is 4 x 3"),
    "colored annotation": (lambda image, mask: Image.new("RGB", (3, 4)).save(mask), "has mode RGB"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_read_is_named_or_skipped_and_counted(ade, kind):
    root, name = ade / "source" / "ADEChallengeData2016", "ADE_val_00000003"
    break_it, reason = BROKEN[kind]
    break_it(root / "images" / "validation" / f"{name}.jpg", root / "annotations" / "validation" / f"{name}.png")
    with pytest.raises(RowError, match=rf"{name} .*{reason}"):
        prepare_miniature("ade20k-150", ade)
    assert not parts_of(ade)
    (result,) = prepare_miniature("ade20k-150", ade, skip_bad=True)
    assert result.num_rows == NUM_IMAGES - 1 and len(result.skipped) == 1 and name in result.skipped[0]
    assert name not in open_dataset(ade / "output", "validation")["name"]


def test_benchmarks_are_found_by_name_and_title():
    assert find_benchmark("a-847") is find_benchmark("ade20k-847") is BENCHMARKS["ade20k-847"]
    with pytest.raises(ValueError, match=r"Unknown benchmark 'A-151'.*A-150 \(ade20k-150\)"):
        find_benchmark("A-151")


# --- the command ------------------------------------------------------------------------------------------------------


def script(*arguments: object) -> int:
    return main(["prepare", *map(str, arguments)])


def test_command_prepares_and_says_what_it_did(ade, capsys):
    arguments = ("A-150", "--source", ade / "source", "--output", ade / "output")
    assert script(*arguments) == 2
    assert "5 annotated images" in capsys.readouterr().err
    assert script(*arguments, "--partial") == 0
    captured = capsys.readouterr()
    assert captured.out == "validation: 5 images, 1 files written\n"
    assert "A-150, validation: 100%" in captured.err
    assert script(*arguments, "--partial") == 0
    assert "1 existing files kept" in capsys.readouterr().out


def test_command_draws_its_own_world(tmp_path, capsys):
    assert script("drawn-world", "--output", tmp_path, "--scenes", 2, "--size", 48) == 0
    assert capsys.readouterr().out.startswith("seen: 2 images in ")
    assert len(open_dataset(tmp_path, "unseen")) == 2


def test_command_lists_what_downloads_hold(capsys):
    assert script("--list") == 0
    out = capsys.readouterr().out
    assert "COCO-Stuff (coco-stuff-171): train 118,287, validation 5,000 images" in out
    assert all(benchmark.layout in out for benchmark in BENCHMARKS.values())


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../../secret"])
def test_lists_of_a_download_name_no_file_outside_of_it(name, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    root = tmp_path / "source"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / "VOC2012" / folder).mkdir(parents=True)
    (root / "VOC2012/ImageSets/Segmentation/val.txt").write_text(f"{name}\n")
    with pytest.raises(ValueError, match="expected a file inside of"):
        find_benchmark("PAS-20").find(root, "validation")
    images = root / "JPEGImages"
    images.mkdir()
    record = {"file_name": f"{name}.jpg", "image_id": 1, "phase": "val", "height": 1, "width": 1}
    (root / "trainval_merged.json").write_text(json.dumps({"images": [record], "annos_segmentation": []}))
    with pytest.raises(ValueError, match="expected a file inside of"):
        find_benchmark("PC-59").find(root, "validation")


def test_annotations_that_are_nested_without_end_are_refused(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "trainval_merged.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        find_benchmark("PC-59").find(tmp_path, "validation")
