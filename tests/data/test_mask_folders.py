# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Folders of images beside masks: every layout gives the same rows, and a broken pair is named."""

import numpy as np
import pytest
from PIL import Image

from dinov3seg_hf.data.mask_folders import find_mask_folders
from dinov3seg_hf.data.opening import find_vocabulary, open_dataset
from dinov3seg_hf.data.rows import RowError
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.data.streamed import segmentation_dataset

LAYOUTS = [
    ("{split}/images", "{split}/masks"),
    ("{split}/images", "{split}/annotations"),
    ("images/{split}", "masks/{split}"),
    ("images/{split}", "labels/{split}"),
]


def write_pairs(root, images, masks, number, split="train", ending=".jpg", seed=0):
    """Writes pairs; returns the masks in the order of the names."""
    rng = np.random.default_rng(seed)
    images, masks = root / images.format(split=split), root / masks.format(split=split)
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    written = []
    for index in range(number):
        mask = rng.integers(0, 3, (6, 9), dtype=np.uint8)
        Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).save(images / f"frame_{index}{ending}")
        Image.fromarray(mask).save(masks / f"frame_{index}.png")
        written.append(mask)
    return written


@pytest.mark.parametrize(("images", "masks"), LAYOUTS)
@pytest.mark.parametrize("streaming", [False, True])
def test_every_layout_is_read_in_the_order_of_the_names(tmp_path, images, masks, streaming):
    expected = {
        split: write_pairs(tmp_path, images, masks, number, split, seed=number)
        for split, number in (("train", 4), ("val", 2))
    }
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    for split, labels in expected.items():
        rows = list(open_dataset(tmp_path, split, streaming=streaming))
        assert all(np.array_equal(np.asarray(row["mask"]), mask) for row, mask in zip(rows, labels, strict=True))
        assert all(row["image"].size == (9, 6) for row in rows)
    data = SegmentationDataset(open_dataset(tmp_path, "train"), find_vocabulary(None, card=tmp_path))
    assert data.vocabulary.names == ("sky", "road", "car") and data.columns == ("image", "mask")


def test_a_folder_without_splits_is_the_split_train_and_can_be_cut(tmp_path):
    expected = write_pairs(tmp_path, "images", "masks", 5)
    rows = open_dataset(tmp_path, "train[3:]")
    assert [np.asarray(row["mask"]).tolist() for row in rows] == [mask.tolist() for mask in expected[3:]]
    with pytest.raises(ValueError, match=r"'validation' .* cannot be opened: the data set has the splits train"):
        open_dataset(tmp_path, "validation")


def test_a_data_set_opened_twice_is_the_same_data_until_a_mask_changes(tmp_path):
    masks = write_pairs(tmp_path, "images", "masks", 2)
    (tmp_path / "labels.txt").write_text("sky\nroad\ncar\n")

    def fingerprint():
        return SegmentationDataset(open_dataset(tmp_path, "train"), find_vocabulary(None, card=tmp_path)).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    Image.fromarray((masks[0] + 1) % 3).save(tmp_path / "masks" / "frame_0.png")
    assert fingerprint() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "masks/frame_1.png").unlink(), "1 images in .* have no mask in .*frame_1.jpg"),
        (lambda root: (root / "images/frame_1.jpg").unlink(), "1 masks in .* have no image in .*frame_1.png"),
        (
            lambda root: (root / "masks/frame_1.png").rename(root / "masks/frame_1.jpg"),
            "frame_1.jpg, which has only frame_1.jpg; expected the same name with .png",
        ),
        (
            lambda root: Image.new("RGB", (9, 6)).save(root / "images/frame_1.png"),
            "contains both frame_1.jpg and frame_1.png",
        ),
    ],
)
def test_a_broken_pair_is_named(tmp_path, change, message):
    write_pairs(tmp_path, "images", "masks", 3)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize("folders", [(), ("images",), ("masks",), ("pictures", "masks"), ("images", "masks")])
def test_other_folders_are_left_to_datasets(tmp_path, folders):
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert find_mask_folders(tmp_path) == {}


@pytest.mark.parametrize(
    ("images", "masks"), [("{split}/images", "{split}/{name}"), ("images/{split}", "{name}/{split}")]
)
@pytest.mark.parametrize("ending", [".txt", ".json", ".png"])
def test_masks_win_over_files_of_other_tools_in_the_other_folders(tmp_path, images, masks, ending):
    """As in folders that were exported for YOLO (labels/*.txt), with JSON, or with colored pictures of the masks."""
    expected = write_pairs(tmp_path, images, masks.replace("{name}", "masks"), 3)
    for name in ("annotations", "labels"):
        folder = tmp_path / masks.format(split="train", name=name)
        folder.mkdir(parents=True)
        for index in range(3):
            if ending == ".png":
                Image.new("RGB", (9, 6), (200, 0, 0)).save(folder / f"frame_{index}.png")
            else:
                (folder / f"frame_{index}{ending}").write_text("0 0.5 0.5 0.1 0.1")
    rows = list(open_dataset(tmp_path, "train"))
    assert [np.asarray(row["mask"]).tolist() for row in rows] == [mask.tolist() for mask in expected]


def test_masks_are_found_in_the_folder_that_holds_them(tmp_path):
    expected = write_pairs(tmp_path, "images", "annotations", 3)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "notes.txt").write_text("moved to annotations")
    rows = list(open_dataset(tmp_path, "train"))
    assert [np.asarray(row["mask"]).tolist() for row in rows] == [mask.tolist() for mask in expected]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_pair_is_named_by_its_file(tmp_path, streaming):
    write_pairs(tmp_path, "images", "masks", 4)
    Image.new("L", (9, 5)).save(tmp_path / "masks" / "frame_1.png")
    (tmp_path / "images" / "frame_2.jpg").write_bytes(b"no picture")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    rows = open_dataset(tmp_path, "train", streaming=streaming)
    data = segmentation_dataset(rows, find_vocabulary(None, card=tmp_path), skip_bad=True)
    found = [str(row) for _, row in data.rows() if isinstance(row, RowError)] if streaming else []
    for index in () if streaming else (1, 2):
        with pytest.raises(RowError) as error:
            data.read(index)
        found.append(str(error.value))
    assert found[0].startswith("Row 1: the mask is 5 x 9")
    assert found[1].startswith("Row 2: the image does not have a known image format")
    for index, message in zip((1, 2), found, strict=True):
        assert message.endswith(f"The image is {str(tmp_path / 'images' / f'frame_{index}.jpg')!r}.")
