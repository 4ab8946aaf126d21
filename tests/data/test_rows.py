# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
import errno
import io
import json
import struct
import warnings
import zlib

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from dinov3seg_hf import Vocabulary
from dinov3seg_hf.data.augmentation import PairedTransform
from dinov3seg_hf.data.columns import find_columns
from dinov3seg_hf.data.drawn_world import drawn_world
from dinov3seg_hf.data.looks import warn_of_a_single_class
from dinov3seg_hf.data.opening import find_vocabulary, open_dataset
from dinov3seg_hf.data.parquet import encode_png, write_parquet
from dinov3seg_hf.data.presets import drawn_world_vocabulary
from dinov3seg_hf.data.rows import RowError
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.data.streamed import StreamedSegmentationDataset, segmentation_dataset
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.model.checks import MaskWarning

THREE = Vocabulary(["cat", "dog", "grass"])
MANY = Vocabulary([f"class {label}" for label in range(1000)])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` converts is kept for each test alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def draw(size: tuple[int, int] = (12, 16), num_labels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.integers(0, num_labels, size)


def stored(content: bytes) -> dict:
    return {"bytes": content, "path": None}


def png(image: Image.Image) -> dict:
    file = io.BytesIO()
    image.save(file, "PNG")
    return stored(file.getvalue())


def table(images: list, masks: list, mask_feature=None, names: tuple[str, str] = ("image", "mask")) -> datasets.Dataset:
    features = datasets.Features({names[0]: datasets.Image(), names[1]: mask_feature or datasets.Image()})
    return datasets.Dataset.from_dict({names[0]: images, names[1]: masks}, features=features)


def rows_of(num_rows: int = 4, bad: dict[int, tuple] | None = None) -> datasets.Dataset:
    """Rows of three labels; `bad` replaces some."""
    images, masks = [], []
    for index in range(num_rows):
        image, labels = draw(seed=index)
        pair = (stored(encode_png(image)), stored(encode_png(labels.astype(np.uint8))))
        image, mask = (bad or {}).get(index, pair)
        images.append(pair[0] if image is ... else image)
        masks.append(pair[1] if mask is ... else mask)
    return table(images, masks)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_data_set_gives_the_same_rows(tmp_path):
    dataset = rows_of(3)
    write_parquet(dataset, tmp_path / "parquet", "train")
    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "saved")
    dataset.save_to_disk(tmp_path / "one")
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    with open(folder / "metadata.jsonl", "w") as file:
        for index, row in enumerate(dataset):
            row["image"].save(folder / f"{index}.png")
            row["mask"].save(folder / f"{index}_mask.png")
            file.write(json.dumps({"file_name": f"{index}.png", "mask_file_name": f"{index}_mask.png"}) + "\n")

    expected = SegmentationDataset(dataset, THREE)
    for place in ("parquet", "saved", "one", "images"):
        for streaming in (False, True):
            opened = segmentation_dataset(open_dataset(tmp_path / place, "train", streaming=streaming), THREE)
            for item, row in zip(opened, expected, strict=True):
                assert item["index"] == row["index"]
                assert np.array_equal(item["image"], row["image"]) and np.array_equal(item["labels"], row["labels"])


@pytest.mark.parametrize("save", ["parquet", "saved"])
def test_a_part_of_a_split_can_be_named(tmp_path, save):
    dataset = rows_of(4)
    if save == "parquet":
        write_parquet(dataset, tmp_path / save, "train")
    else:
        datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / save)
    part = open_dataset(tmp_path / save, "train[1:3]")
    assert [row["image"].tobytes() for row in part] == [dataset[index]["image"].tobytes() for index in (1, 2)]


def test_what_cannot_be_opened_is_named_with_what_there_is(tmp_path):
    write_parquet(rows_of(1), tmp_path / "parquet", "train")
    datasets.DatasetDict({"train": rows_of(1)}).save_to_disk(tmp_path / "saved")
    for place in ("parquet", "saved"):
        with pytest.raises(ValueError, match=r"'validation'.*train"):
            open_dataset(tmp_path / place, "validation")
    with pytest.raises(ValueError, match="Data set '/nowhere/data' was not found"):
        open_dataset("/nowhere/data", "train")
    with pytest.raises(ValueError, match="'nobody/nothing' cannot be opened"):
        open_dataset("nobody/nothing", "train")


def test_a_file_that_cannot_be_written_is_not_begun(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        write_parquet(rows_of(1), tmp_path, "train")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("image", "mask"), {}),
        (("img", "annotation"), {}),
        (("pixel_values", "label"), {}),
        (("photo", "unusual"), {}),
        (("left", "right"), {"mask_column": "right"}),
        (("left", "mask"), {}),
        (("mask", "label_map"), {"image_column": "mask"}),
    ],
)
def test_columns_are_found_by_kind_and_name(names, options):
    image, labels = draw()
    dataset = table([stored(encode_png(image))], [stored(encode_png(labels.astype(np.uint8)))], names=names)
    assert find_columns(dataset, **options) == names
    assert np.array_equal(SegmentationDataset(dataset, THREE, **options)[0]["labels"], labels)


def test_columns_that_are_missing_or_unclear_are_told_with_those_there_are():
    dataset = table([stored(encode_png(draw()[0]))], [stored(encode_png(draw()[0]))], names=("left", "right"))
    with pytest.raises(ValueError, match=r"mask column is ambiguous.*left \(image\), right \(image\)"):
        find_columns(dataset)
    with pytest.raises(ValueError, match=r"image_column is 'top'; expected.*left \(image\)"):
        find_columns(dataset, image_column="top")
    with pytest.raises(ValueError, match="image_column and mask_column are both"):
        find_columns(dataset, "left", "left")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    no_masks = datasets.Dataset.from_dict({"image": [], "text": []}, features=features)
    with pytest.raises(ValueError, match=r"mask column was not found.*text \(string\)"):
        find_columns(no_masks)
    only_masks = table([], [], datasets.List(datasets.List(datasets.Value("int32")))).remove_columns("image")
    with pytest.raises(ValueError, match="image column was not found"):
        find_columns(only_masks)


# --- masks ------------------------------------------------------------------------------------------------------------


def encodings(labels: np.ndarray) -> dict[str, tuple]:
    """The same label map in every form: mask, feature, options."""
    height, width = labels.shape
    forms = {
        "16-bit png": (stored(encode_png(labels.astype(np.uint16))), None, {}),
        "array": (labels.tolist(), datasets.Array2D((height, width), "int32"), {}),
        "lists": (labels.tolist(), datasets.List(datasets.List(datasets.Value("uint16"))), {}),
        "rgb of ade20k": (
            stored(encode_png(np.stack([labels // 256 * 10, labels % 256, labels % 7], -1).astype(np.uint8))),
            None,
            {"mask_coding": "ade20k-rgb"},
        ),
    }
    if labels.max() <= 255:
        palette = Image.fromarray(labels.astype(np.uint8), mode="P")
        palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        forms["8-bit png"] = (stored(encode_png(labels.astype(np.uint8))), None, {})
        forms["palette png"] = (png(palette), None, {})
        forms["gray as rgb"] = (stored(encode_png(np.stack([labels] * 3, -1).astype(np.uint8))), None, {})
    return forms


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("num_labels", [3, 1000])
def test_every_encoding_of_a_mask_gives_the_same_labels(num_labels):
    image, labels = draw(num_labels=num_labels)
    forms = encodings(labels)
    assert len(forms) == (7 if num_labels == 3 else 4)
    for name, (mask, feature, options) in forms.items():
        dataset = table([stored(encode_png(image))], [mask], feature)
        item = SegmentationDataset(dataset, THREE if num_labels == 3 else MANY, **options)[0]
        assert item["labels"].dtype == np.int64 and np.array_equal(item["labels"], labels), name
        assert np.array_equal(item["image"], image)


def test_raw_ids_become_labels_and_all_else_is_ignored():
    image, labels = draw()
    vocabulary = Vocabulary(THREE.names, raw_ids={7: 0, 300: 1, 5: 1, 0: 2})
    raw = np.array([7, 300, 0])[labels]
    raw[0] = 9999
    raw[1] = 5
    item = SegmentationDataset(
        table([stored(encode_png(image))], [stored(encode_png(raw.astype(np.uint16)))]), vocabulary
    )[0]
    assert (item["labels"][0] == -1).all() and (item["labels"][1] == 1).all()
    assert np.array_equal(item["labels"][2:], labels[2:])


def test_masks_may_hold_labels_where_the_vocabulary_has_raw_ids():
    image, labels = draw()
    dataset = table([stored(encode_png(image))], [stored(encode_png(labels.astype(np.uint8)))])
    vocabulary = Vocabulary(THREE.names, raw_ids={7: 0, 9: 1, 1: 2})
    assert np.array_equal(SegmentationDataset(dataset, vocabulary, mask_values="labels")[0]["labels"], labels)
    with pytest.raises(ValueError, match="the vocabulary does not have raw ids"):
        SegmentationDataset(dataset, THREE, mask_values="raw_ids")


def test_ignored_pixels_are_negative():
    image, labels = draw()
    labels[3:5] = 255
    item = SegmentationDataset(
        table([stored(encode_png(image))], [stored(encode_png(labels.astype(np.uint8)))]), THREE
    )[0]
    assert (item["labels"][3:5] == -1).all() and (item["labels"][5:] >= 0).all()


@given(
    labels=st.lists(st.sampled_from([-3, 0, 1, 2, 3, 11, 255, 2**40]), min_size=4, max_size=4),
    ignore_label=st.sampled_from([255, 11, -3, 3]),
)
def test_a_mask_has_labels_and_ignored_pixels_or_is_refused(labels, ignore_label):
    vocabulary = Vocabulary(THREE.names, ignore_label=ignore_label)
    mask = np.array(labels).reshape(2, 2)
    feature = datasets.List(datasets.List(datasets.Value("int64")))
    data = SegmentationDataset(table([stored(encode_png(draw((2, 2))[0]))], [mask.tolist()], feature), vocabulary)
    if set(labels) <= {0, 1, 2, ignore_label}:
        assert np.array_equal(data[0]["labels"], np.where(mask == ignore_label, -1, mask))
    else:
        with pytest.raises(RowError, match=r"Row 0: the mask contains .*; expected labels from 0 to 2"):
            data[0]


@pytest.mark.parametrize("values", [{0: 0, 255: 1}, {0: 1, 255: 0}, {0: 0, 1: 1}, {0: 0, 1: 1, 255: 2}], ids=str)
def test_masks_of_one_bit_are_black_and_white_unless_one_is_a_raw_id(values):
    image, labels = draw(num_labels=2)
    white = 1 if 1 in values else 255
    vocabulary = Vocabulary(THREE.names, raw_ids=values)
    mask = Image.fromarray((labels * 255).astype(np.uint8)).convert("1")
    item = SegmentationDataset(table([stored(encode_png(image))], [png(mask)]), vocabulary)[0]
    assert np.array_equal(item["labels"], np.where(labels == 1, values[white], values[0]))
    item = SegmentationDataset(table([stored(encode_png(image))], [png(mask)]), THREE)[0]
    assert np.array_equal(item["labels"], labels)


def wide_png(pixels: np.ndarray, color: int) -> bytes:
    """A PNG with 16 bits per channel, which PIL cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("color", "num_channels"), [(2, 3), (4, 2), (6, 4)], ids=["rgb", "gray and alpha", "rgba"])
def test_channels_of_16_bits_are_refused_because_they_would_be_cut_to_8(tmp_path, color, num_channels):
    image, labels = draw()
    content = wide_png(np.stack([labels] * num_channels, -1), color)
    (tmp_path / "mask.png").write_bytes(content)
    for mask in (stored(content), str(tmp_path / "mask.png")):
        with pytest.raises(RowError, match=r"Row 0: the mask .*is a PNG with several channels of 16 bits"):
            SegmentationDataset(table([stored(encode_png(image))], [mask]), THREE)[0]
    gray = stored(wide_png(labels[..., None], 0))
    assert np.array_equal(SegmentationDataset(table([stored(encode_png(image))], [gray]), THREE)[0]["labels"], labels)


# --- a look before the work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("value", "vocabulary", "message"),
    [
        (255, THREE, r"In 2 rows .* no class at all, only ignored pixels \(value 255\)\. Check"),
        (1, Vocabulary(THREE.names, raw_ids={10: 0, 20: 1}), "no class at all.* that are no raw_id of a class"),
        (0, THREE, "no class but 'cat'. Check the mask column"),
        (0, Vocabulary(["cat"]), None),
    ],
)
def test_masks_that_teach_nothing_are_warned_of(streamed, value, vocabulary, message):
    mask = stored(encode_png(np.full((12, 16), value, np.uint8)))
    rows = rows_of(2, {0: (..., mask), 1: (..., mask)})
    data = segmentation_dataset(rows.to_iterable_dataset() if streamed else rows, vocabulary)
    if message is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MaskWarning)
            warn_of_a_single_class(data)
    else:
        with pytest.warns(MaskWarning, match=message):
            warn_of_a_single_class(data)


# --- bad rows ---------------------------------------------------------------------------------------------------------

GOOD_IMAGE = encode_png(draw()[0])
BAD = {
    "value outside": (
        (..., stored(encode_png(np.full((12, 16), 77, np.uint8)))),
        "contains 77; expected labels from 0 to 2, and 255",
    ),
    "another size": (
        (..., stored(encode_png(np.zeros((16, 12), np.uint8)))),
        "mask is 16 x 12 and the image is 12 x 16",
    ),
    "truncated image": ((stored(GOOD_IMAGE[:200]), ...), "image could not be decoded"),
    "no image at all": ((stored(b"nonsense"), ...), "image does not have a known image format"),
    "truncated mask": ((..., stored(encode_png(np.zeros((99, 99), np.uint8))[:60])), "mask could not be decoded"),
    "no mask": ((..., None), "the mask is None"),
    "colored mask": ((..., stored(GOOD_IMAGE)), "mask is a color image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_never_guessed(kind):
    row, reason = BAD[kind]
    data = SegmentationDataset(rows_of(4, {2: row}), THREE)
    assert [data[index]["index"] for index in (0, 1, 3)] == [0, 1, 3]
    with pytest.raises(RowError, match=f"Row 2: .*{reason}"):
        data[2]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_skipped_and_counted_where_asked_for(kind):
    dataset = rows_of(4, {2: BAD[kind][0]})
    data = SegmentationDataset(dataset, THREE, skip_bad=True)
    assert [data[index]["index"] for index in range(4)] == [0, 1, 3, 3]
    assert data.num_skipped == 1
    streamed = StreamedSegmentationDataset(dataset.to_iterable_dataset(), THREE, skip_bad=True)
    assert [item["index"] for item in streamed] == [0, 1, 3]
    assert streamed.num_skipped == 1
    with pytest.raises(RowError, match="Row 2"):
        list(StreamedSegmentationDataset(dataset.to_iterable_dataset(), THREE))


def test_skips_of_workers_are_counted_too():
    data = SegmentationDataset(rows_of(4, {1: (..., None), 2: (..., None)}), THREE, skip_bad=True)
    list(DataLoader(data, num_workers=1, batch_size=None))
    assert data.num_skipped == 2


def test_rows_that_are_all_bad_are_an_error():
    data = SegmentationDataset(rows_of(2, {0: (..., None), 1: (..., None)}), THREE, skip_bad=True)
    with pytest.raises(RowError, match="All 2 rows are unreadable"):
        data[0]


def test_lists_that_are_no_rectangle_are_refused():
    dataset = table([stored(GOOD_IMAGE)], [[[0, 1], [0]]], datasets.List(datasets.List(datasets.Value("int32"))))
    with pytest.raises(RowError, match="Row 0: the mask is not rectangular"):
        SegmentationDataset(dataset, THREE)[0]


def test_a_vocabulary_of_another_size_is_refused_before_any_row_is_read():
    feature = datasets.List(datasets.List(datasets.ClassLabel(names=["a", "b"])))
    dataset = table([stored(GOOD_IMAGE)], [np.zeros((12, 16), int).tolist()], feature)
    with pytest.raises(ValueError, match=r"vocabulary has 3 labels \('cat'.*2 \('a'"):
        SegmentationDataset(dataset, THREE)
    with pytest.raises(ValueError, match="prepared as drawn-world/1"):
        SegmentationDataset(drawn_world(1), THREE)


@given(order=st.permutations(THREE.names), listed=st.sampled_from(["mask", "classes", "objects"]))
def test_a_vocabulary_in_another_order_is_refused_before_any_row_is_read(order, listed):
    names = datasets.ClassLabel(names=list(THREE.names))
    features = {
        "image": datasets.Image(),
        "mask": datasets.List(datasets.List(names)) if listed == "mask" else datasets.Image(),
        "classes": datasets.List(names if listed == "classes" else datasets.Value("int32")),
        "objects": {"label": datasets.List(names if listed == "objects" else datasets.Value("int32"))},
    }
    rows = {"image": [stored(GOOD_IMAGE)], "mask": [None], "classes": [[]], "objects": [{"label": []}]}
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    vocabulary = Vocabulary([f"{name.upper()} " for name in order])
    if tuple(order) == THREE.names:
        SegmentationDataset(dataset, vocabulary)
    else:
        with pytest.raises(ValueError, match=r"another order than the data set: [23] names .*; expected [01], as in"):
            SegmentationDataset(dataset, vocabulary)
    # the masks have other values, so the order is that of the vocabulary
    SegmentationDataset(dataset, Vocabulary(order, raw_ids={7: 0, 8: 1, 9: 2}))
    # a word of the class itself keeps its place
    SegmentationDataset(dataset, Vocabulary(["dog", "cat", "lawn"], [["cat"], ["dog"], ["grass"]]))


def test_a_list_of_other_classes_sets_no_order():
    objects = datasets.List(datasets.ClassLabel(names=["dog", "cat"]))
    features = datasets.Features({**rows_of(1).features, "objects": objects})
    dataset = datasets.Dataset.from_dict({"image": [None], "mask": [None], "objects": [[]]}, features=features)
    SegmentationDataset(dataset, THREE)


def test_nothing_and_the_wrong_kind_are_refused():
    with pytest.raises(ValueError, match="is empty"):
        SegmentationDataset(rows_of(2).select([]), THREE)
    with pytest.raises(ValueError, match="StreamedSegmentationDataset"):
        SegmentationDataset(rows_of(2).to_iterable_dataset(), THREE)
    with pytest.raises(ValueError, match="streaming=True"):
        StreamedSegmentationDataset(rows_of(2), THREE)


def test_a_stream_that_breaks_off_says_where():
    rows = list(rows_of(4).cast_column("image", datasets.Image(decode=False)))

    def broken():
        yield from rows[:3]
        raise OSError("the connection was lost")

    stream = datasets.IterableDataset.from_generator(broken, features=rows_of(4).features)
    data = StreamedSegmentationDataset(stream, THREE, skip_bad=True)
    with pytest.raises(ValueError, match=r"from row 3 on: .*connection was lost"):
        list(data)
    nothing = datasets.IterableDataset.from_generator(broken).map(lambda row: {"image": row["image"] / 0})
    with pytest.raises(ValueError, match="first rows of the stream cannot be read"):
        StreamedSegmentationDataset(nothing, THREE)


def test_a_saved_data_set_streams_in_the_files_that_it_was_saved_in(tmp_path):
    rows_of(8).save_to_disk(tmp_path / "data", num_shards=4)
    data = StreamedSegmentationDataset(open_dataset(tmp_path / "data", "train", streaming=True), THREE)
    assert data.num_shards == 4
    assert [row.name for row in data.stored_rows(2)] == ["0 of shard 2", "1 of shard 2"]
    assert [data.name_of(row.index) for row in data.stored_rows(2)] == ["0 of shard 2", "1 of shard 2"]


# --- chance -----------------------------------------------------------------------------------------------------------


def bytes_of(loader) -> dict[int, bytes]:
    return {
        item["index"]: np.asarray(item["image"]).tobytes() + np.asarray(item["labels"]).tobytes() for item in loader
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_augmentation_depends_on_seed_epoch_and_row_alone(streamed):
    def make(seed: int = 0, epoch: int = 0):
        dataset = rows_of(5)
        data = segmentation_dataset(
            dataset.to_iterable_dataset(num_shards=2) if streamed else dataset,
            THREE,
            transform=PairedTransform(8),
            seed=seed,
        )
        data.set_epoch(epoch)
        return data

    alone = bytes_of(make())
    assert len(alone) == 5
    assert bytes_of(DataLoader(make(), num_workers=2, batch_size=None)) == alone
    for other in (make(seed=1), make(epoch=1)):
        assert all(one != alone[index] for index, one in bytes_of(other).items())


def test_running_workers_hear_of_a_new_epoch():
    data = SegmentationDataset(rows_of(3), THREE, transform=PairedTransform(8))
    loader = DataLoader(data, num_workers=1, batch_size=None, persistent_workers=True)
    first = bytes_of(loader)
    data.set_epoch(1)
    second = bytes_of(loader)
    assert second == bytes_of(data) and all(first[index] != second[index] for index in first)


def test_reading_leaves_torchs_random_numbers_alone():
    data = SegmentationDataset(rows_of(1), THREE, transform=PairedTransform(8))
    before = torch.get_rng_state()
    data[0]
    assert torch.equal(torch.get_rng_state(), before)


# --- fingerprint ------------------------------------------------------------------------------------------------------


def test_fingerprint_is_that_of_the_content(tmp_path):
    dataset = rows_of(3)
    fingerprint = SegmentationDataset(dataset, THREE).fingerprint
    write_parquet(dataset, tmp_path, "train")
    assert SegmentationDataset(open_dataset(tmp_path, "train"), THREE).fingerprint == fingerprint
    changed = draw(seed=1)[1].astype(np.uint8)
    changed[0, 0] += 1
    others = [rows_of(3, {1: (..., stored(encode_png(changed)))}), rows_of(2), dataset.select([1, 0, 2])]
    assert len({fingerprint, *(SegmentationDataset(other, THREE).fingerprint for other in others)}) == 4


# --- class names ------------------------------------------------------------------------------------------------------


def test_class_names_come_from_presets_and_files(tmp_path):
    assert find_vocabulary(None, "ade20k-150") == Vocabulary.from_preset("ade20k-150")
    assert find_vocabulary(None, "drawn-world").names == NAMES
    (tmp_path / "classes.txt").write_text("cat|kitten\ndog\n")
    assert find_vocabulary(rows_of(1), tmp_path / "classes.txt").synonyms == (("cat", "kitten"), ("dog",))
    assert find_vocabulary(None, THREE) is THREE
    with pytest.raises(ValueError, match=r"Unknown class names 'ade20k-15'.*ade20k-150"):
        find_vocabulary(None, "ade20k-15")


def test_class_names_come_from_the_features_and_from_what_was_prepared():
    labels = datasets.List(datasets.List(datasets.ClassLabel(names=["cat", "dog"])))
    assert find_vocabulary(table([], [], labels)).names == ("cat", "dog")
    # two lists, and none can be preferred
    objects = datasets.List(datasets.ClassLabel(names=["door"]))
    with pytest.raises(ValueError, match="class names of the data set were not found"):
        find_vocabulary(without_rows(mask=labels, objects=objects))
    assert find_vocabulary(drawn_world(1)).names == NAMES


def without_rows(**features) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), **features})
    return datasets.Dataset.from_dict({name: [] for name in features}, features=features)


@pytest.mark.parametrize("nested", [False, True])
def test_a_label_of_the_whole_image_does_not_name_what_pixels_show(nested):
    """A kind of scene, as in ADE20K, or a breed of pets with masks of their own."""
    scene = datasets.ClassLabel(names=["bedroom", "street"])
    scene = {"scene": scene} if nested else scene
    with pytest.raises(ValueError, match="class names of the data set were not found"):
        find_vocabulary(without_rows(mask=datasets.Image(), scene=scene))
    labels = datasets.List(datasets.List(datasets.ClassLabel(names=["cat", "dog"])))
    assert find_vocabulary(without_rows(mask=labels, scene=scene)).names == ("cat", "dog")


@pytest.mark.parametrize(
    "header",
    [
        "class_names: [cat, dog]",
        "label_names: [cat, dog]",
        "id2label: {0: cat, 1: dog}",
        "id2label: {'1': dog, '0': cat}",
    ],
)
def test_class_names_come_from_the_card(tmp_path, header):
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n# Pets\n")
    assert find_vocabulary(rows_of(1), card=tmp_path).names == ("cat", "dog")


def test_class_names_come_from_a_file_beside_the_card(tmp_path):
    (tmp_path / "id2label.json").write_text('{"0": "cat", "1": "dog"}')
    assert find_vocabulary(rows_of(1), card=tmp_path).names == ("cat", "dog")
    (tmp_path / "id2label.json").write_text('{"1": "cat", "3": "dog"}')
    with pytest.raises(ValueError, match="expected 0 to 1"):
        find_vocabulary(rows_of(1), card=tmp_path)


def test_missing_class_names_are_told_with_the_remedy(tmp_path):
    for card in (None, tmp_path, "nobody/nothing"):
        with pytest.raises(ValueError, match=r"class names of the data set were not found.*one class per line"):
            find_vocabulary(rows_of(1), card=card)


# --- the drawn world --------------------------------------------------------------------------------------------------


def test_drawn_world_is_the_synthetic_one(tmp_path):
    write_parquet(drawn_world(2, "unseen", first_seed=5, size=(48, 64)), tmp_path, "unseen")
    data = SegmentationDataset(open_dataset(tmp_path, "unseen"), drawn_world_vocabulary())
    assert len(data) == 2 and data.protocol == "drawn-world/1"
    for item, seed in zip(data, (5, 6)):
        scene = draw_scene(seed, "unseen", (48, 64))
        assert np.array_equal(item["image"], scene.image) and np.array_equal(item["labels"], scene.labels)
    with pytest.raises(ValueError, match="at least 1"):
        drawn_world(0)


def test_functions_epochs_and_shares_of_a_stream_are_checked():
    rows = datasets.Dataset.from_dict({"image": [encode_png(np.zeros((4, 4, 3), np.uint8))], "mask": [[[0]]]})
    features = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.List(datasets.List(datasets.Value("int64")))}
    )
    stream = StreamedSegmentationDataset(rows.cast(features).to_iterable_dataset(), Vocabulary(["a"]))
    for first, step in ((0, 0), (1, 1), (-1, 2), (0.0, 1), (0, True)):
        with pytest.raises(ValueError, match=r"first|step"):
            next(stream.rows(first, step))
    for without in (float("inf"), None, "12"):
        with pytest.raises(ValueError, match=r"without is .*; expected numbers of rows"):
            next(stream.rows(without=without))
    for epoch in (-1, 0.5, "1", 2**63):
        with pytest.raises(ValueError, match="epoch is"):
            stream.set_epoch(epoch)
    with pytest.raises(ValueError, match="transform is 3; expected a function"):
        StreamedSegmentationDataset(rows.cast(features).to_iterable_dataset(), Vocabulary(["a"]), transform=3)
