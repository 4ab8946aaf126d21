# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images and masks in rows of strangers: checked before they are decoded, bounded, and only files of the data set."""

import io
import zipfile
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from dinov3seg_hf import Vocabulary
from dinov3seg_hf.data.opening import open_dataset
from dinov3seg_hf.data.parquet import encode_png, to_parquet
from dinov3seg_hf.data.rows import RowError
from dinov3seg_hf.data.stored_images import first_rows, is_harmless, is_of_hub, mark_as_of_hub, source_of
from dinov3seg_hf.data.streamed import segmentation_dataset
from dinov3seg_hf.dataset_labeling import ShardedRows
from dinov3seg_hf.model.image_input import MAX_SCANS, ImageError

SIX = Vocabulary([f"class {label}" for label in range(6)])
LABELS = np.random.default_rng(0).integers(0, 6, (40, 40), dtype=np.uint8)
GOOD = {"image": encode_png(np.stack([LABELS * 40] * 3, -1)), "mask": encode_png(LABELS)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(LABELS).convert(mode).save(content, kind, **options)
    return content.getvalue()


def endless() -> bytes:
    """A JPEG whose last scan is repeated."""
    content = encoded("JPEG", "L", progressive=True)
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * MAX_SCANS + content[-2:]


def huge() -> bytes:
    """A PNG that says that it has 169 megapixels."""
    content = bytearray(encode_png(LABELS))
    content[16:24] = (13_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def rows_with(column: str, content: bytes, as_file: Path | None) -> datasets.Dataset:
    values = {name: {"bytes": good, "path": None} for name, good in GOOD.items()}
    values[column] = {"bytes": content, "path": None}
    if as_file is not None:
        as_file.write_bytes(content)
        values[column] = {"bytes": None, "path": str(as_file)}
    features = datasets.Features({name: datasets.Image() for name in values})
    return datasets.Dataset.from_list([values], features=features)


UNKNOWN = "does not have a known image format"
HOSTILE = {
    "lossy WebP": ("mask", lambda: encoded("WEBP", quality=80), "lossy format WEBP.*Export the masks again as PNG"),
    "JPEG": ("mask", lambda: encoded("JPEG", "L"), "lossy format JPEG"),
    "PostScript": ("image", lambda: encoded("EPS"), UNKNOWN),
    "mask in PostScript": ("mask", lambda: encoded("EPS"), UNKNOWN),
    "icon": ("image", lambda: encoded("ICO"), UNKNOWN),
    "mask in an icon": ("mask", lambda: encoded("ICO"), UNKNOWN),
    "scans": ("image", endless, f"scans or more; expected a JPEG with at most {MAX_SCANS}"),
    "size": ("image", huge, r"13000 x 13000 pixels \(169 megapixels\); the limit is 120 megapixels"),
    "size of a mask": ("mask", huge, r"13000 x 13000 pixels \(169 megapixels\); the limit is 120 megapixels"),
    "cut off": ("mask", lambda: encode_png(LABELS)[:60], "could not be decoded"),
    "nothing": ("mask", lambda: b"", "is empty"),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_no_file_may_be_no_row_may_be(kind, as_file, streamed, tmp_path, monkeypatch):
    column, content, message = HOSTILE[kind]
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran a program"))
    rows = rows_with(column, content(), tmp_path / "stored" if as_file else None)
    data = segmentation_dataset(rows.to_iterable_dataset() if streamed else rows, SIX)
    with pytest.raises(RowError, match=f"Row 0: the {column} .*{message}"):
        list(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
@pytest.mark.parametrize("as_file", [False, True])
def test_lossless_masks_have_their_labels_and_stand_upright(kind, options, orientation, as_file, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(kind, "RGB" if kind == "WEBP" else "L", exif=exif, **options)
    data = segmentation_dataset(rows_with("mask", content, tmp_path / "stored" if as_file else None), SIX)
    turned = {
        **{1: LABELS, 2: LABELS[:, ::-1], 3: LABELS[::-1, ::-1], 4: LABELS[::-1], 5: LABELS.T},
        **{6: np.rot90(LABELS, -1), 7: LABELS[::-1, ::-1].T, 8: np.rot90(LABELS)},
    }
    np.testing.assert_array_equal(data[0]["labels"], turned[orientation])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16", "I"])
@pytest.mark.parametrize("coding", ["integers", "ade20k-rgb"])
@pytest.mark.parametrize("raw_ids", [None, {0: 1, 1: 0, 255: 2}])
def test_strips_of_masks_are_the_whole_mask(mode, coding, raw_ids, monkeypatch):
    image = Image.fromarray(LABELS.astype(np.uint16)) if mode == "I;16" else Image.fromarray(LABELS).convert(mode)
    content = io.BytesIO()
    image.save(content, "TIFF" if mode == "I" else "PNG")
    vocabulary = Vocabulary(SIX.names, raw_ids=raw_ids)
    data = segmentation_dataset(rows_with("mask", content.getvalue(), None), vocabulary, mask_coding=coding)
    whole = data[0]["labels"]
    monkeypatch.setattr("dinov3seg_hf.model.image_input.STRIP_PIXELS", 90)
    np.testing.assert_array_equal(data[0]["labels"], whole)
    monkeypatch.undo()
    strange = segmentation_dataset(rows_with("mask", encode_png(LABELS * 9), None), SIX)
    messages = []
    for pixels in (90, 2**20):
        monkeypatch.setattr("dinov3seg_hf.model.image_input.STRIP_PIXELS", pixels)
        with pytest.raises(RowError, match=r"the mask contains 9, 18, 27, 36, 45; expected") as error:
            strange[0]
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_rows_that_hold_pil_images_and_arrays_are_read_as_before():
    for value in (Image.fromarray(LABELS), LABELS, GOOD["mask"], None):
        if value is None:
            with pytest.raises(ValueError, match="the mask is None"):
                source_of(value, "mask")
        else:
            assert source_of(value, "mask") is value


# --- paths ------------------------------------------------------------------------------------------------------------


def test_addresses_are_read_as_the_library_reads_them(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("a/mask.png", GOOD["mask"])
    path = f"zip://a/mask.png::{tmp_path / 'all.zip'}"
    assert source_of({"bytes": None, "path": path}, "mask") == GOOD["mask"]
    monkeypatch.setattr("dinov3seg_hf.data.stored_images.MAX_DOWNLOAD_BYTES", 9)
    with pytest.raises(ImageError, match="exceeds the limit"):
        source_of({"bytes": None, "path": path}, "mask")
    for value in ({"bytes": None, "path": None}, {"bytes": None, "path": ""}):
        with pytest.raises(ImageError, match="neither bytes nor a path"):
            source_of(value, "mask")
    with pytest.raises(ImageError, match=r"'zip://b.png::.*' cannot be read .*Check the address"):
        source_of({"bytes": None, "path": f"zip://b.png::{tmp_path / 'all.zip'}"}, "mask")


def test_rows_from_the_hub_refer_to_what_was_downloaded_alone(tmp_path):
    cache, secret = tmp_path / "cache", tmp_path / "secret.png"
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "1.png").write_bytes(GOOD["image"])
    secret.write_bytes(GOOD["image"])
    (cache / "link.png").symlink_to(secret)
    good = ["hf://datasets/a/b@1/x.png", "https://a.b/x.png", "zip://x.png::hf://datasets/a/b/all.zip", "data:image/p"]
    good += [str(cache / "downloads" / "1.png"), f"zip://x.png::{cache}/downloads/1"]
    bad = [str(secret), "secret.png", "~/secret.png", f"file://{secret}", f"local://{secret}", "s3://mine/x.png"]
    bad += [f"{cache}/downloads/../../secret.png", str(cache / "link.png"), f"zip://x.png::{tmp_path}/all.zip"]
    bad += [f"{secret}::hf://datasets/a/b/x.png", f"file://{secret}::https://a.b", f"simplecache::file://{secret}"]
    bad += ["zip://x.png::", "", "data:x", "file:/x", f"zip://x::file://{secret}::hf://a"]
    assert [path for path in good if not is_harmless(path)] == []
    assert [path for path in bad if is_harmless(path)] == []


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_from_the_hub_cannot_take_files_of_ours(column, streaming, tmp_path, monkeypatch):
    foreign = rows_with(column, GOOD[column], tmp_path / "secret.png")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.parquet").write_bytes(to_parquet(foreign))
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *rest, **options: load(str(tmp_path / "hub"), **options))
    rows = open_dataset("somebody/photos", "train", streaming=streaming)
    assert is_of_hub(rows)
    with pytest.raises(RowError, match=rf"the {column} of a data set from the Hub is '.*secret.png', outside of what"):
        list(segmentation_dataset(rows, SIX))
    with pytest.raises(RowError, match="of a data set from the Hub"):  # as with `--images` and `eval_images`
        list(segmentation_dataset(first_rows(rows, 1), SIX))
    assert not is_of_hub(first_rows(foreign, 1))
    assert ShardedRows(rows, "image").of_hub
    # folders of the user, as `dinov3seg label --no-copy-images` writes them, and data sets of the user's making
    for own in (open_dataset(tmp_path / "hub", "train", streaming=streaming), rows.take(1), foreign):
        (item,) = segmentation_dataset(own, SIX)
        np.testing.assert_array_equal(item["labels"], LABELS)


def test_names_of_files_in_columns_of_text_are_checked_too(tmp_path):
    (tmp_path / "secret.png").write_bytes(GOOD["image"])
    rows = rows_with("image", GOOD["image"], None).add_column("file", [str(tmp_path / "secret.png")])
    assert segmentation_dataset(rows, SIX, image_column="file", mask_column="mask")[0]["labels"].size
    with pytest.raises(RowError, match="outside of what was downloaded"):
        segmentation_dataset(mark_as_of_hub(rows), SIX, image_column="file", mask_column="mask")[0]
