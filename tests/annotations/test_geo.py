# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""GeoTIFF and GeoPackage: what their own readers, rasterio and pyogrio, read is where the image is."""

import sys

import numpy as np
import pytest
import shapely
from full_disk import files_of_at_most
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from dinov3seg_hf import Vocabulary, export_annotations
from dinov3seg_hf.annotations import AnnotatedImage, ExportOptions, geopackage, open_writer, vectorize

from .conftest import NAMES, label_map_of

rasterio = pytest.importorskip("rasterio")
raw = pytest.importorskip("pyogrio.raw")
from rasterio.features import rasterize  # noqa: E402

label_maps = arrays(
    np.int32, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12), elements=st.integers(-1, 3)
)
# half a meter a pixel; the second one is turned
TRANSFORMS = [
    rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
    rasterio.Affine(0.0008, 0.0006, 7.5, 0.0006, -0.0008, 51.25),
]
repeated = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_map(path, shape, transform=TRANSFORMS[0], crs="EPSG:32632", **options):
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, transform=transform, crs=crs, **options) as file:
        file.write(np.full((3, *shape), 90, np.uint8))
    return path


def read_polygons(path):
    """(polygons, columns by name, reference system) of a GeoPackage."""
    meta, _, geometry, columns = raw.read(path)
    return shapely.from_wkb(geometry), dict(zip(meta["fields"], columns)), rasterio.crs.CRS.from_user_input(meta["crs"])


def painted(polygons, labels, shape, transform):
    shapes = [(polygon, int(label) + 1) for polygon, label in zip(polygons, labels)]
    return rasterize(shapes, shape, transform=transform).astype(int) - 1 if shapes else np.full(shape, -1)


@repeated
@given(labels=label_maps, place=st.sampled_from([(TRANSFORMS[0], "EPSG:32632"), (TRANSFORMS[1], "EPSG:4326")]))
def test_polygons_cover_the_pixels_of_their_labels_where_the_image_is(tmp_path, labels, place):
    transform, crs = place
    source = write_map(tmp_path / "map.tif", labels.shape, *place)
    scores = np.full(labels.shape, 0.25, np.float32)
    image = AnnotatedImage("map.tif", labels, scores, source)
    export_annotations([image], NAMES, tmp_path / "a.gpkg", "geopackage", tolerance=0)
    export_annotations([image], NAMES, tmp_path / "masks", "geotiff", overwrite=True)
    num_polygons = vectorize([tmp_path / "masks" / "map.tif"], tmp_path / "b.gpkg", tolerance=0)
    for name, score in (("a", 0.25), ("b", np.nan)):
        polygons, columns, system = read_polygons(tmp_path / f"{name}.gpkg")
        assert system == rasterio.crs.CRS.from_string(crs) and len(polygons) == num_polygons
        np.testing.assert_array_equal(painted(polygons, columns["index"], labels.shape, transform), labels)
        assert shapely.is_valid(polygons).all()
        assert columns["label"].tolist() == [NAMES[index] for index in columns["index"]]
        assert columns["num_pixels"].sum() == (labels >= 0).sum() and set(columns["image"]) <= {"map.tif"}
        pixel = abs(transform.determinant)
        np.testing.assert_allclose(shapely.area(polygons), columns["num_pixels"] * pixel, rtol=1e-6)
        np.testing.assert_allclose(columns["score"], score)


@repeated
@given(labels=label_maps)
def test_a_geotiff_is_the_label_map_at_the_place_of_the_image(tmp_path, labels):
    source = write_map(tmp_path / "map.tif", labels.shape, TRANSFORMS[1], "EPSG:4326")
    image = AnnotatedImage("map.tif", labels, source=source)
    export_annotations([image], NAMES, tmp_path / "masks", "geotiff", overwrite=True)
    with rasterio.open(tmp_path / "masks" / "map.tif") as file, rasterio.open(source) as image:
        assert file.crs == image.crs and file.transform == image.transform and file.nodata == 255
        np.testing.assert_array_equal(file.read(1), np.where(labels < 0, 255, labels))


def test_control_points_are_kept_and_photos_need_no_place(tmp_path):
    labels = label_map_of(30, 40, 0)
    points = [rasterio.control.GroundControlPoint(y, x, 7 + x, 51 - y) for y, x in ((0, 0), (0, 39), (29, 0))]
    write_map(tmp_path / "map.tif", labels.shape, None, None)
    with rasterio.open(tmp_path / "map.tif", "r+") as file:
        file.gcps = points, "EPSG:4326"
    photo = Image.new("RGB", (40, 30))
    images = [
        AnnotatedImage("map.tif", labels, source=tmp_path / "map.tif"),
        AnnotatedImage("photo.png", labels, image=photo),
    ]
    export_annotations(images, NAMES, tmp_path / "masks", "geotiff")
    with rasterio.open(tmp_path / "masks" / "map.tif") as file:
        found, system = file.gcps
        assert system == "EPSG:4326" and [(p.x, p.y) for p in found] == [(p.x, p.y) for p in points]
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "masks" / "photo.tif") as file:
        assert file.crs is None and (file.read(1) == np.where(labels < 0, 255, labels)).all()
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {"map.tif", "photo.tif", "labels.json"}
    for image in images:
        with pytest.raises(ValueError, match="no transform to a place on earth"):
            export_annotations([image], NAMES, tmp_path / "a.gpkg", "geopackage")
    unknown = AnnotatedImage("b.tif", labels, source=write_map(tmp_path / "b.tif", labels.shape, crs=None))
    with pytest.raises(ValueError, match="no reference system, which a GeoPackage needs"):
        export_annotations([unknown], NAMES, tmp_path / "a.gpkg", "geopackage")
    export_annotations([unknown], NAMES, tmp_path / "masks", "geotiff")
    with rasterio.open(tmp_path / "masks" / "b.tif") as file:
        assert file.transform == TRANSFORMS[0] and file.crs is None
    assert not list(tmp_path.glob("*.gpkg"))


def test_maps_of_one_reference_system_share_a_file_and_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(geopackage, "CHUNK", 3)
    labels = label_map_of(30, 40, 0)
    east = rasterio.Affine(0.5, 0, 500_020, 0, -0.5, 5_000_000)
    places = {"a": (TRANSFORMS[0], "EPSG:32632"), "b": (east, "EPSG:32632"), "c": (east, "EPSG:25833")}
    images = [
        AnnotatedImage(f"{name}.tif", labels, source=write_map(tmp_path / f"{name}.tif", labels.shape, *place))
        for name, place in places.items()
    ]
    export_annotations(images[:2], NAMES, tmp_path / "a.gpkg", "geopackage", tolerance=0, min_area=2)
    polygons, columns, _ = read_polygons(tmp_path / "a.gpkg")
    for name in ("a", "b"):
        mine = columns["image"] == f"{name}.tif"
        expected = np.where(labels == 2, -1, labels)
        expected[-6:-2, 2:8] = expected[-6:-2, -12:-3] = 2  # without the single pixel
        np.testing.assert_array_equal(
            painted(polygons[mine], columns["index"][mine], labels.shape, places[name][0]), expected
        )
    before = (tmp_path / "a.gpkg").read_bytes()
    with pytest.raises(ValueError, match=r"'c\.tif' has the reference system EPSG:25833 and 'a\.tif' EPSG:32632"):
        export_annotations(images, NAMES, tmp_path / "a.gpkg", "geopackage")
    assert (tmp_path / "a.gpkg").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_map_without_labels_gives_an_empty_layer_in_its_reference_system(tmp_path):
    source = write_map(tmp_path / "map.tif", (4, 5))
    labels = np.full((4, 5), -1, np.int32)
    export_annotations([AnnotatedImage("map.tif", labels, source=source)], NAMES, tmp_path / "a.gpkg", "geopackage")
    polygons, columns, system = read_polygons(tmp_path / "a.gpkg")
    assert len(polygons) == 0 and list(columns) == list(geopackage.FIELDS) and system == "EPSG:32632"


def test_what_cannot_be_a_map_is_refused(tmp_path, monkeypatch):
    labels = label_map_of(30, 40, 0)
    source = write_map(tmp_path / "map.tif", (60, 80))
    for name, path in (("geotiff", tmp_path / "masks"), ("geopackage", tmp_path / "a.gpkg")):
        with pytest.raises(ValueError, match="is 60 x 80 and its label map 30 x 40"):
            export_annotations([AnnotatedImage("map.tif", labels, source=source)], NAMES, path, name)
    with pytest.raises(ValueError, match="no tag `labels`"):
        vectorize([source], tmp_path / "a.gpkg")
    with pytest.raises(ValueError, match="cannot be read"):
        vectorize([tmp_path / "none.tif"], tmp_path / "a.gpkg")
    with pytest.raises(ValueError, match=r"expected \.gpkg"):
        vectorize([source], tmp_path / "a.json")
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(ValueError, match=r'pip install "dinov3seg_hf\[geo\]"'):
        vectorize([source], tmp_path / "a.gpkg")
    assert not list(tmp_path.glob("*.gpkg"))


def test_an_image_that_was_not_noted_does_not_set_the_reference_system(tmp_path, monkeypatch):
    labels = label_map_of(30, 40, 0)
    failing, image = (
        AnnotatedImage(f"{name}.tif", labels, source=write_map(tmp_path / f"{name}.tif", labels.shape, crs=system))
        for name, system in (("failing", "EPSG:25833"), ("image", "EPSG:32632"))
    )
    with open_writer("geopackage", tmp_path / "a.gpkg", Vocabulary(NAMES)) as writer:
        with files_of_at_most(10), pytest.raises(ValueError, match=r"'failing\.tif' cannot be written"):
            writer.add(failing)
        writer.add(image)
    _, columns, system = read_polygons(tmp_path / "a.gpkg")
    assert system == "EPSG:32632" and set(columns["image"]) == {"image.tif"}


def test_an_interrupted_run_goes_on_in_the_reference_system_of_its_first_image(tmp_path, monkeypatch):
    """GDAL cannot cut a file off after an image: polygons wait in the journal."""
    monkeypatch.setattr(geopackage, "CHUNK", 3)
    labels = label_map_of(30, 40, 0)
    scores = np.full(labels.shape, 1 / 3, np.float32)
    images = []
    for number, system in enumerate(["EPSG:32632", "EPSG:32632", "EPSG:25833", "EPSG:32632"]):
        transform = rasterio.Affine(0.3, 0.1, 500_000 + number / 3, 0, -0.3, 5_000_000)
        source = write_map(tmp_path / f"{number}.tif", labels.shape, transform, system)
        images.append(AnnotatedImage(source.name, labels if number else np.full_like(labels, -1), scores, source))
    images, other = images[:2] + images[3:], images[2]
    export_annotations(images, NAMES, tmp_path / "whole.gpkg", "geopackage", min_area=2)

    def writer():
        return open_writer("geopackage", tmp_path / "a.gpkg", Vocabulary(NAMES), ExportOptions(min_area=2))

    sources = {image.file_name: image.file_name for image in images}
    with pytest.raises(KeyboardInterrupt), writer() as parts:
        assert parts.resume({}, sources) == frozenset()
        for image in images[:2]:
            parts.add(image)
        raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} > {"a.gpkg.journal"} and not (tmp_path / "a.gpkg").exists()
    for share in (0.3, 0.9):
        with pytest.raises(ValueError, match=r"cannot be written: .* Free disk space"), writer() as parts:
            assert parts.resume({}, sources) >= {"0.tif", "1.tif"}
            with pytest.raises(ValueError, match=r"'2\.tif' .* EPSG:25833 and '0\.tif' EPSG:32632"):
                parts.add(other)
            if share == 0.9:
                parts.add(images[2])
            with files_of_at_most(int(share * (tmp_path / "whole.gpkg").stat().st_size)):
                parts.close()
    for name in (".a.gpkg.new.gpkg", ".a.gpkg.new.gpkg-journal"):
        (tmp_path / name).write_bytes(b"of a process that was killed while it wrote the file")
    with writer() as parts:
        assert parts.resume({}, sources) == sources.keys()
    assert not [path.name for path in tmp_path.iterdir() if path.suffix not in (".tif", ".gpkg")]
    (polygons, columns, system), (expected, expected_columns, expected_system) = (
        read_polygons(tmp_path / name) for name in ("a.gpkg", "whole.gpkg")
    )
    assert system == expected_system and (shapely.to_wkb(polygons) == shapely.to_wkb(expected)).all()
    for name, values in expected_columns.items():
        np.testing.assert_array_equal(columns[name], values)
    assert set(columns["image"]) == {"1.tif", "3.tif"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_full_disk_leaves_no_geopackage_and_says_what_to_do(tmp_path, share):
    labels = label_map_of(30, 40, 0)
    image = AnnotatedImage("map.tif", labels, source=write_map(tmp_path / "map.tif", labels.shape))
    export_annotations([image], NAMES, tmp_path / "whole.gpkg", "geopackage")
    size = (tmp_path / "whole.gpkg").stat().st_size
    # the journal of the polygons is a file of its own, which reaches the limit of the operating system first
    remedy = r"cannot be written: .* (Free disk space|on a disk that allows larger files)"
    with files_of_at_most(int(share * size)), pytest.raises(ValueError, match=remedy):
        export_annotations([image], NAMES, tmp_path / "a.gpkg", "geopackage")
    assert {path.name for path in tmp_path.iterdir()} == {"map.tif", "whole.gpkg"}


def test_polygons_of_one_path_and_of_no_path(tmp_path):
    labels = label_map_of(12, 14, 0)
    source = write_map(tmp_path / "map.tif", labels.shape)
    export_annotations([AnnotatedImage("map.tif", labels, source=source)], NAMES, tmp_path / "masks", "geotiff")
    path, target = tmp_path / "masks" / "map.tif", tmp_path / "a.gpkg"
    number = vectorize([path], target)
    for same in (path, str(path), iter([path])):
        assert vectorize(same, target) == number
    for nothing, message in (
        ([], "Got no label maps"),
        (None, "of type NoneType"),
        ([b"a.tif"], "A label map is b'a.tif'"),
    ):
        with pytest.raises(ValueError, match=message):
            vectorize(nothing, tmp_path / "b.gpkg")
    with pytest.raises(ValueError, match="The path of the GeoPackage is None"):
        vectorize([path], None)
    for tags, message in (
        ({"labels": "["}, "The tags of"),
        ({"none": "no"}, "The tags of"),
        ({"labels": '["a"]'}, "contains"),
    ):
        with rasterio.open(path, "r+") as file:
            before = file.tags()
            file.update_tags(**tags)
        with pytest.raises(ValueError, match=f"{message}.*Segment the image again"):
            vectorize([path], tmp_path / "b.gpkg")
        with rasterio.open(path, "r+") as file:
            file.update_tags(**before)
    assert not (tmp_path / "b.gpkg").exists()
