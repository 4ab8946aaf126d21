# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Large images: the same labels as the pipeline's, files that other programs read, runs that go on."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from full_disk import files_of_at_most
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinov3seg_hf import OpenVocabularySegmentationPipeline, segment_large
from dinov3seg_hf.large import parts
from dinov3seg_hf.large.rasters import new_raster, open_source, quiet_gdal
from dinov3seg_hf.large.segmentation import tile_sizes
from dinov3seg_hf.model.checks import SeamWarning
from dinov3seg_hf.model.image_stages import LabeledImage
from dinov3seg_hf.model.pixel_refinement import neighbor_weights
from dinov3seg_hf.model.refined_label_maps import REACH, label_and_score_refined

rasterio = pytest.importorskip("rasterio")

LABELS = ["red circle", "blue square", "yellow triangle", "green background"]


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(
        model=tiny_model, processor=tiny_processor, image_processor=tiny_processor.image_processor
    )


@pytest.fixture
def pixels():
    """uint8 (150, 200, 3): noise, coarse enough that labels differ."""
    coarse = np.random.default_rng(1).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    return coarse.repeat(10, axis=0).repeat(10, axis=1)


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.fixture
def tiff(tmp_path, pixels):
    """A georeferenced file; the left 20 columns have no data."""
    path = tmp_path / "image.tif"
    pixels = np.maximum(pixels, 1)
    pixels[:, :20] = 0
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    options = {"height": 150, "width": 200, "count": 3, "dtype": "uint8", "nodata": 0, "photometric": "rgb"}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=transform, **options) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


@pytest.mark.parametrize("head, inference", [("full", "local-global"), ("dinotxt", "local-global"), ("full", "whole")])
def test_an_image_that_is_one_tile_gets_the_labels_of_the_pipeline(pipe, pixels, tmp_path, head, inference):
    image = pixels[:64, :96]  # the image processor does not resize it
    result = segment_large(
        pipe, image, LABELS, tmp_path / "a.tif", scores=tmp_path / "s.tif", tile=128, overlap=16, head=head,
        inference=inference, progress=False,
    )  # fmt: skip
    whole = pipe(image, LABELS, head=head, inference=inference, return_label_map=True)
    assert result.num_tiles == 1
    assert (read(tmp_path / "a.tif") == whole["label_map"]).mean() > 0.999  # rounding where two labels tie
    assert np.abs(read(tmp_path / "s.tif") / 65535 - whole["score_map"]).max() < 1e-3
    for segment in whole["segments"]:
        assert result.scores[segment["label"]] == pytest.approx(segment["score"], abs=1e-3)


def test_a_periodic_image_has_no_seams(pipe, tmp_path):
    """Tiles that see the same pixels give the same labels, also where two of them meet."""
    period = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = np.tile(period, (5, 5, 1))
    segment_large(pipe, image, LABELS, tmp_path / "a.tif", tile=64, overlap=16, context=False, progress=False)
    labels = read(tmp_path / "a.tif")
    inner = labels[32:128, 32:128]
    assert (inner == np.tile(inner[:32, :32], (3, 3))).all() and len(np.unique(inner)) > 1


@pytest.fixture
def pixelwise(pipe, monkeypatch):
    """Labels follow from the color of a pixel and from the refinement alone: nothing else looks over a border."""

    def segment(images, text, settings):
        pixels = images[0].pixels
        weights, classes = neighbor_weights(pixels), torch.arange(len(pixels))
        labels, scores = label_and_score_refined(pixels.mul(0.5).softmax(dim=0), classes, weights, images[0].size)
        return [LabeledImage(labels.numpy(), scores.numpy())]

    monkeypatch.setattr(pipe, "segment_prepared", segment)
    return segment


@pytest.mark.parametrize("tile", [None, 192])
def test_the_refinement_by_pixels_leaves_no_seam(pipe, pixelwise, tmp_path, monkeypatch, tile):
    monkeypatch.setattr(pipe.image_processor, "size", {"height": 64, "width": 64})
    image = np.random.default_rng(3).integers(0, 256, (40, 304, 3), dtype=np.uint8)
    options = {"refine": "pixels", "context": False, "progress": False, "inference": "whole", "head": "dinotxt"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", SeamWarning)
        tiled = segment_large(pipe, image, LABELS[:3], tmp_path / "tiled.tif", tile=tile, **options)
        whole = segment_large(pipe, image, LABELS[:3], tmp_path / "whole.tif", tile=608, **options)
    assert (tiled.num_tiles > 1, whole.num_tiles) == (True, 1)
    assert (read(tmp_path / "tiled.tif") == read(tmp_path / "whole.tif")).all()
    with pytest.warns(SeamWarning, match="overlap is 8, but .* looks 80 pixels .* may have seams"):
        segment_large(pipe, image, LABELS[:3], tmp_path / "seams.tif", tile=64, overlap=8, **options)
    assert (read(tmp_path / "seams.tif") != read(tmp_path / "whole.tif")).any()
    options["refine"] = "none"
    with warnings.catch_warnings():
        warnings.simplefilter("error", SeamWarning)
        segment_large(pipe, image, LABELS[:3], tmp_path / "plain.tif", tile=64, overlap=8, **options)


@given(
    st.integers(48, 2000),
    st.one_of(st.none(), st.integers(16, 3000)),
    st.sampled_from([0.125, 0.3, 0.5, 1.0, 1.7, 4.0]),
)
def test_the_default_overlap_reaches_as_far_as_the_refinement_by_pixels(side, tile, scale):
    processor = SimpleNamespace(size={"longest_edge": side})
    try:
        plain = tile_sizes(processor, tile, None, scale)
        core, overlap, region = tile_sizes(processor, tile, None, scale, REACH)
    except ValueError as error:
        assert tile is not None and "Choose a larger tile or a smaller overlap" in str(error)
        return
    assert overlap * scale >= REACH and core % 16 == 0 and region == core + 2 * overlap
    if plain[1] * scale >= REACH:
        assert (core, overlap, region) == plain
    elif tile is None:
        assert core == plain[0]  # tiles are as many as without the refinement
    else:
        assert region <= tile


@pytest.mark.parametrize(
    ("dtype", "none"), [("float32", np.nan), ("float64", -1e30), ("int16", -9999), ("uint32", 2**31)]
)
def test_values_of_no_data_that_are_no_colors_are_no_data(tmp_path, pixels, dtype, none):
    """Also in tiles and in an overview that have some data."""
    bands, without = pixels.transpose(2, 0, 1), np.zeros((150, 200), bool)
    without[:, :27] = without[40:, 100:] = True
    values = (bands / 255 if dtype.startswith("float") else bands).astype(dtype)
    values[:, without] = none
    options = {"height": 150, "width": 200, "count": 3, "dtype": dtype, "nodata": none, "photometric": "rgb"}
    with rasterio.open(tmp_path / "map.tif", "w", driver="GTiff", **options) as file:
        file.write(values)
    with open_source(tmp_path / "map.tif") as source:
        found, has_data = source.read((10, 20, 120, 170))
        overview = source.overview((15, 20))
    inside = slice(10, 130), slice(20, 190)
    np.testing.assert_array_equal(has_data, ~without[inside])
    np.testing.assert_array_equal(found, np.where(without[..., None], 0, pixels)[inside])
    expected = np.where(without[..., None], 0, pixels)[::10, ::10]
    expected[:, 2] = pixels[::10, 25]  # averages do not count what has no data
    assert np.abs(overview.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float32", 1.5, "floats from 0 to 1.5.*-scale 0 1 0 255"),
        ("float64", np.nan, "NaN"),
        ("int32", 256, "integers from 0 to 256.*-scale 0 255 0 255"),
        ("float32", 1.001, None),
    ],
)
def test_a_value_that_is_no_color_is_refused_before_the_work(tmp_path, pixels, dtype, value, message):
    """An overview averages it away, so that only its tile failed, after hours."""
    bands = pixels.transpose(2, 0, 1)
    values = (bands / bands.max() if dtype.startswith("float") else bands).astype(dtype)
    values[:, 0, 0] = 0
    values[1, 140, 190] = value
    options = {"height": 150, "width": 200, "count": 3, "dtype": dtype, "photometric": "rgb"}
    with rasterio.open(tmp_path / "map.tif", "w", driver="GTiff", **options) as file:
        file.write(values)
    if message is None:
        with open_source(tmp_path / "map.tif") as source:
            assert source.read((0, 0, 150, 200))[0].shape == (150, 200, 3)
        return
    with (
        pytest.raises(ValueError, match=f"map.tif' has values that are no colors.*{message}"),
        open_source(tmp_path / "map.tif"),
    ):
        pass


def test_a_place_without_a_reference_system_or_in_a_file_beside_the_image_is_kept(pipe, pixels, tmp_path):
    Image.fromarray(pixels[:64, :96]).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.5\n100.25\n199.75\n")
    for name in ("world file", "aux.xml"):
        if name == "aux.xml":
            (tmp_path / "a.png.aux.xml").write_text("<PAMDataset><SRS>EPSG:32632</SRS></PAMDataset>")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        segment_large(pipe, tmp_path / "a.png", LABELS, tmp_path / "labels.tif", progress=False)
        with rasterio.open(tmp_path / "labels.tif") as labels:
            assert labels.transform == rasterio.Affine(0.5, 0, 100, 0, -0.5, 200)
            assert labels.crs == (None if name == "world file" else "EPSG:32632")
        (tmp_path / "labels.tif").unlink()
        assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory: 9 bytes")])
def test_a_tile_that_is_too_large_for_the_memory_is_an_error_with_a_remedy(pipe, pixels, tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(pipe.model, "get_image_features", fail)
    with pytest.raises(MemoryError, match=r"A tile of .* more memory than available on cpu\. Choose smaller tiles"):
        segment_large(pipe, pixels, LABELS, tmp_path / "a.tif", progress=False)


def test_the_file_keeps_the_georeference_and_says_what_its_values_are(pipe, tiff, tmp_path):
    result = segment_large(pipe, tiff, LABELS, tmp_path / "labels.tif", tile=80, overlap=8, progress=False)
    with rasterio.open(tiff) as image, rasterio.open(tmp_path / "labels.tif") as labels:
        assert labels.crs == image.crs and labels.transform == image.transform and labels.shape == image.shape
        assert json.loads(labels.tags()["labels"]) == LABELS and labels.nodata == 255 and labels.profile["tiled"]
        assert labels.colormap(1)[0] != labels.colormap(1)[1]
        values = labels.read(1)
    assert (values[:, :20] == 255).all() and (values[:, 20:] < len(LABELS)).all()  # no data, no label
    assert result.num_none == 150 * 20 and sum(result.num_pixels.values()) == 150 * 180
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tif", "labels.tif"]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_file(pipe, tiff, tmp_path, monkeypatch):
    options = {"tile": 112, "overlap": 16, "inference": "whole", "progress": False}
    segment_large(pipe, tiff, LABELS, tmp_path / "at_once.tif", **options)
    segment, calls = pipe.segment_prepared, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return segment(*args, **kwargs)

    monkeypatch.setattr(pipe, "segment_prepared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment_large(pipe, tiff, LABELS, tmp_path / "labels.tif", **options)
    assert not (tmp_path / "labels.tif").exists()
    with pytest.raises(ValueError, match="run with another labels"):
        segment_large(pipe, tiff, LABELS[:3], tmp_path / "labels.tif", **options)
    with pytest.raises(ValueError, match="run with another settings"):
        segment_large(pipe, tiff, LABELS, tmp_path / "labels.tif", head="dinotxt", **options)
    result = segment_large(pipe, tiff, LABELS, tmp_path / "labels.tif", **options)
    assert result.num_resumed == 3 and len(calls) == 4 + result.num_tiles - 3
    assert (read(tmp_path / "labels.tif") == read(tmp_path / "at_once.tif")).all()
    assert not (tmp_path / "labels.tif.parts").exists()


def test_two_runs_do_not_share_their_parts_and_remove_no_other_files(tmp_path):
    with parts.Parts(tmp_path / "a.tif", {"run": 1}):
        with pytest.raises(ValueError, match="is in use"), parts.Parts(tmp_path / "a.tif", {"run": 1}):
            pytest.fail("two at once")
    with parts.Parts(tmp_path / "a.tif", {"run": 1}) as again:
        again.remove()
    (tmp_path / "b.tif.parts").mkdir()
    (tmp_path / "b.tif.parts" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"but 'mine.txt'\. .* move it"), parts.Parts(tmp_path / "b.tif", {"run": 1}):
        pytest.fail("would be removed")
    assert [path.name for path in tmp_path.rglob("*")] == ["b.tif.parts", "mine.txt"]


def test_a_link_in_the_folder_leads_a_label_map_nowhere(tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / ".a.tif.writing.tif").symlink_to(tmp_path / "other")
    with quiet_gdal(), new_raster(tmp_path / "a.tif", (16, 16), np.uint8, 16, {}, 255) as file:
        file.write(np.zeros((16, 16), np.uint8), 1)
    assert (tmp_path / "other").read_text() == "other" and not (tmp_path / "a.tif").is_symlink()


def test_finished_tiles_of_an_array_are_not_kept_after_an_edit_of_one_pixel(pipe, pixels, tmp_path, monkeypatch):
    options = {"tile": 112, "overlap": 16, "inference": "whole", "progress": False}
    segment, calls = pipe.segment_prepared, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return segment(*args, **kwargs)

    monkeypatch.setattr(pipe, "segment_prepared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment_large(pipe, pixels, LABELS, tmp_path / "a.tif", scale=0.25, **options)
    edited = pixels.copy()
    edited[70, 90, 1] ^= 1  # lost in the overview of a quarter of the size
    with pytest.raises(ValueError, match="run with another image"):
        segment_large(pipe, edited, LABELS, tmp_path / "a.tif", scale=0.25, **options)
    same = np.asfortranarray(pixels)
    assert segment_large(pipe, same, LABELS, tmp_path / "a.tif", scale=0.25, **options).num_resumed == 2


class Sliced:
    """An array that knows how much of it was read at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.most = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        part = self.array[key]
        self.most = max(self.most, part.nbytes)
        return part


@given(
    st.sampled_from(["uint8", ">u2", "float32"]),
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
    st.integers(1, 99),
    st.integers(0, 2**32 - 1),
)
def test_an_array_is_identified_by_all_its_values_in_bounded_memory(dtype, shape, band_bytes, seed):
    generator = np.random.default_rng(seed)
    array = generator.integers(0, 256, shape).astype(dtype)
    edited = array.copy()
    place = tuple(generator.integers(0, shape))
    edited[place] = 1 if edited[place] == 0 else 0
    with pytest.MonkeyPatch.context() as patch:
        whole = [parts.digest(one) for one in (array, edited, np.asfortranarray(array))]
        patch.setattr(parts, "BAND_BYTES", band_bytes)
        sliced = Sliced(array)
        assert parts.digest(sliced) == whole[0] == whole[2] != whole[1]
    assert sliced.most <= max(band_bytes, array[0].nbytes)


def test_regions_of_files_and_arrays_are_the_same(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    gray = pixels[..., 0].astype(np.uint16) * 257
    with open_source(tmp_path / "image.png") as file, open_source(pixels) as array, open_source(gray) as gray_array:
        box = (13, 50, 40, 30)
        assert (file.read(box)[0] == array.read(box)[0]).all() and (array.read(box)[0] == pixels[13:53, 50:80]).all()
        assert (gray_array.read(box)[0] == pixels[13:53, 50:80, :1]).all()
        for size in ((150, 200), (15, 20), (7, 9)):
            assert np.abs(file.overview(size).astype(int) - array.overview(size)).mean() < 3
        assert (array.overview((150, 200)) == pixels).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tile": 20, "overlap": 8}, "expected at least 16"),
        ({"overlap": -1}, "expected at least 16"),
        ({"scale": 0}, "scale is 0"),
        ({"size": {"height": 64, "width": 64}}, "tile and scale"),
        ({"inference": "slide"}, 'inference is "slide"'),
        ({"head": "dinotxt", "background": "auto"}, "different bounds"),
        ({"active_classes": 0}, "integer of at least 1"),
        ({"bands": [1, 2]}, "bands is"),
        ({"scores": "labels.png"}, "expected .tif"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_right_is_refused_and_nothing_is_written(pipe, tiff, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        segment_large(pipe, tiff, LABELS, "labels.tif", progress=False, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["image.tif"]


def test_paths_that_would_lose_data_and_rotated_photos_are_refused(pipe, tiff, pixels, tmp_path):
    before = tiff.read_bytes()
    with pytest.raises(ValueError, match="same path"):
        segment_large(pipe, tiff, LABELS, tiff, progress=False)
    assert tiff.read_bytes() == before
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    with pytest.raises(ValueError, match="stored rotated"):
        segment_large(pipe, tmp_path / "photo.jpg", LABELS, tmp_path / "a.tif", progress=False)
    with pytest.raises(ValueError, match="was not found"):
        segment_large(pipe, tmp_path / "no.tif", LABELS, tmp_path / "a.tif", progress=False)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_full_disk_leaves_no_file_that_looks_complete(tmp_path, share):
    """GDAL writes a part of a file when it closes it, and its error is not seen."""
    values = np.random.default_rng(0).integers(0, 9, (200, 300), dtype=np.uint8)

    def write(name):
        with quiet_gdal(), new_raster(tmp_path / name, values.shape, np.uint8, 64, {}, 255) as file:
            file.write(values, 1)

    write("whole.tif")
    with files_of_at_most(int(share * (tmp_path / "whole.tif").stat().st_size)), pytest.raises(OSError):
        write("cut.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.tif"] and (
        read(tmp_path / "whole.tif") == values
    ).all()
