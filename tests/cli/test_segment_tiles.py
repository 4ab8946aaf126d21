# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg segment --tile`: files, tables, and what is refused before the work."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from dinov3seg_hf import cli
from dinov3seg_hf.model.files import disk_errors_as_value_errors

rasterio = pytest.importorskip("rasterio")

LABELS = "red circle, blue square, yellow triangle, green background"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(2):
        coarse = np.random.default_rng(index).integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(16, axis=0).repeat(16, axis=1)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def segment(capsys, tiny_checkpoint):
    def run(*arguments):
        capsys.readouterr()
        start = ["segment", "--labels", LABELS, "--model", str(tiny_checkpoint), "--device", "cpu"]
        code = cli.main([*start, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_folder_becomes_tiled_label_maps_with_tables(segment, images, tmp_path):
    arguments = (images, "--tile", 64, "--mask", tmp_path / "masks", "--scores", f"{tmp_path}/scores/")
    code, out, err = segment(*arguments)
    assert code == 0 and out.count("score") == 2 and "Segmenting: 100%" in err
    for index in range(2):
        with rasterio.open(tmp_path / "masks" / f"{index}_mask.tif") as file:
            assert file.shape == (96, 144) and file.read(1).max() < 4
        assert (tmp_path / "scores" / f"{index}_scores.tif").is_file()
    (tmp_path / "masks" / "1_mask.tif").unlink()
    code, out, _ = segment(*arguments, "--skip-existing")
    assert code == 0 and out.count("score") == 1 and len(list((tmp_path / "masks").iterdir())) == 2
    (tmp_path / "scores" / "0_scores.tif").unlink()  # as if it was killed between the two files
    code, out, _ = segment(*arguments, "--skip-existing")
    assert code == 0 and out.count("score") == 1 and (tmp_path / "scores" / "0_scores.tif").is_file()
    # argparse takes the last of two: other words would be mixed with those of the first run
    code, out, err = segment(*arguments, "--skip-existing", "--labels", "cat, dog")
    assert (code, out) == (2, "") and "has the labels ['red circle', " in err and "leave out --skip-existing" in err


def test_an_overlap_that_can_leave_seams_is_warned_of_in_one_line(segment, images, tmp_path):
    arguments = (images, "--tile", 64, "--overlap", 8, "--refine", "pixels", "--mask", f"{tmp_path}/masks/")
    code, _, err = segment(*arguments)
    (line,) = [line for line in err.splitlines() if "warning" in line]  # of two images
    assert code == 0 and "overlap is 8" in line and "looks 80 pixels" in line and "tiles may have seams" in line


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tile"], "--tile needs --mask"),
        (["--tile", "--mask", "a.png"], "expected .tif, .tiff"),
        (["--tile", "--mask", "a.tif", "--output", "a.png"], "--output does not work with --tile"),
        (["--tile", "--mask", "a.tif", "--inference", "slide"], "--inference is slide"),
        (["--tile", "--mask", "a.tif", "--scores", "a.tif"], "the same path"),
        (["--tile", "32", "--overlap", "16", "--mask", "a.tif"], "expected at least 16"),
        (["--tile", "96", "--refine", "pixels", "--mask", "a.tif"], "overlap of 80 on each side, as far as refine="),
        (["--scale", "2"], "--scale needs --tile"),
        (["--tile", "--mask", "a.tif", "--batch-size", "8"], "--batch-size does not work with --tile"),
        (["--tile", "--mask", "a.tif", "--min-area", "8"], "--min-area needs --annotations"),
        (["--tile", "--mask", "a.tif", "--format", "coco", "--annotations", "a.json"], "expected geopackage"),
        (["--tile", "--mask", "a.tif", "--format", "geopackage", "--annotations", "a.json"], "expected .gpkg"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_right_is_refused_and_nothing_is_written(
    segment, images, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = segment(images / "0.png", *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_label_maps_do_not_become_images_of_the_next_run(segment, images):
    for arguments in (["--mask", images], ["--mask", images / "masks", "--recursive"], ["--mask", f"{images}/"]):
        code, out, err = segment(images, "--tile", *arguments)
        assert code == 2 and out == "" and "Choose another folder" in err
    assert sorted(path.name for path in images.iterdir()) == ["0.png", "1.png"]


def test_a_full_disk_ends_the_run_and_another_error_does_not(segment, images, tmp_path, monkeypatch):
    def fail_with(number, tried):
        def fail(pipe, image, *arguments, **options):
            tried.append(image)
            with disk_errors_as_value_errors("The file"):
                raise OSError(number, os.strerror(number))

        return fail

    for number, num_tried in ((errno.ENOSPC, 1), (errno.EACCES, 2)):
        tried = []
        monkeypatch.setattr("dinov3seg_hf.large.segmentation.segment_large", fail_with(number, tried))
        assert segment(images, "--tile", "--mask", tmp_path / "masks")[0] == 2 and len(tried) == num_tried


def test_polygons_are_those_of_the_written_label_maps(segment, tmp_path):
    raw, shapely = pytest.importorskip("pyogrio.raw"), pytest.importorskip("shapely")
    transform = rasterio.Affine(2, 0, 500_000, 0, -2, 5_000_000)
    coarse = np.random.default_rng(0).integers(0, 256, (3, 6, 9), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    profile = {"driver": "GTiff", "height": 96, "width": 144, "count": 3, "dtype": "uint8", "photometric": "rgb"}
    with rasterio.open(tmp_path / "map.tif", "w", **profile, crs="EPSG:32632", transform=transform) as file:
        file.write(coarse)
    targets = ("--mask", tmp_path / "labels.tif", "--format", "geopackage", "--annotations", tmp_path / "labels.gpkg")
    arguments = (tmp_path / "map.tif", "--tile", 64, *targets, "--tolerance", 0)
    assert segment(*arguments)[0] == 0
    with rasterio.open(tmp_path / "labels.tif") as file:
        labels = file.read(1)
    for _ in range(2):
        meta, _, polygons, columns = raw.read(tmp_path / "labels.gpkg")
        shapes = list(zip(shapely.from_wkb(polygons), (int(index) + 1 for index in columns[2])))
        painted = rasterio.features.rasterize(shapes, labels.shape, transform=transform)
        np.testing.assert_array_equal(painted.astype(int) - 1, labels)
        assert meta["crs"] == "EPSG:32632"
        (tmp_path / "labels.gpkg").unlink(missing_ok=True)
        assert segment(*arguments, "--skip-existing")[:2] == (0, "")  # from the label map of the first run
