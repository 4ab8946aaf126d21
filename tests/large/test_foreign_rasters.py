# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images of strangers: they can lead GDAL to other files of the machine, and to addresses; here they do not."""

import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from PIL.PngImagePlugin import PngImageFile

from dinov3seg_hf.annotations import AnnotatedImage, export_annotations, vectorize
from dinov3seg_hf.large.rasters import georeference_of, open_source, refuse_rotation

rasterio = pytest.importorskip("rasterio")

SIDE, OPEN, SECRET = 128, 10, 200  # the gray of the image, and of another file, which must not be seen
VRT = '<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{bands}</VRTDataset>'
BAND = """<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>
<SourceFilename relativeToVRT="0">{file}</SourceFilename><SourceBand>{band}</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="128" ySize="128"/><DstRect xOff="0" yOff="0" xSize="{side}" ySize="{side}"/>
</SimpleSource></VRTRasterBand>"""
OVERVIEW = '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{}</MDI></Metadata></PAMDataset>'
NO_DATA = '<PAMRasterBand band="{}"><NoDataValue>{}</NoDataValue></PAMRasterBand>'


def save(path, gray, **options):
    pixels = np.full((SIDE, SIDE, 3), gray, np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    return save(tmp_path / "elsewhere" / "secret.tif", SECRET)


def vrt(file, side=SIDE, flags=""):
    bands = "".join(BAND.format(band=band, file=file, side=side) for band in (1, 2, 3))
    return VRT.format(side=side, bands=flags + bands)


def test_a_raster_that_names_another_file_is_not_read_whatever_its_ending(tmp_path, secret):
    for name in ("x.tif", "x.png", "x.vrt"):
        path = tmp_path / name
        path.write_text(vrt(secret))
        with (
            pytest.raises(ValueError, match=rf"{name}' cannot be read as TIFF, .* Save it as TIFF\."),
            open_source(path),
        ):
            pass
        with pytest.raises(ValueError, match=f"{name}' cannot be read"):
            vectorize([path], tmp_path / "a.gpkg")
        place = "<GeoTransform>5, 1, 0, 5, 0, -1</GeoTransform>"
        path.write_text(vrt(secret, flags=place))
        assert georeference_of(path, (SIDE, SIDE)) == {}


@pytest.mark.parametrize("ending", ["tif", "png", "jpg", "jp2", "webp", "gif"])
def test_files_beside_an_image_lead_to_no_other_file(tmp_path, secret, ending):
    flags = "".join(f'<MDI key="INTERNAL_MASK_FLAGS_{band}">2</MDI>' for band in (1, 2, 3))
    beside = {
        "ovr": vrt(secret, SIDE // 2),
        "OVR": vrt(secret, SIDE // 2),
        "msk": vrt(secret, flags=f"<Metadata>{flags}</Metadata>"),
        "aux.xml": OVERVIEW.format(secret),
    }
    for name, content in beside.items():
        path = save(tmp_path / f"{name}.{ending}", OPEN)
        (tmp_path / f"{name}.{ending}.{name}").write_text(content)
        with open_source(path) as source:
            seen = [source.overview((side, side)) for side in (SIDE // 2, SIDE // 4, 5)]
            pixels, has_data = source.read((3, 4, 20, 30))
        assert all(abs(int(part.max()) - OPEN) < 5 for part in (*seen, pixels)), name
        assert has_data is None, name


def test_a_tag_in_a_tiff_leads_to_no_other_file(tmp_path, secret):
    path = save(tmp_path / "x.tif", OPEN)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(secret))
    with pytest.raises(ValueError, match=r"x.tif' names another file.* Save it again"), open_source(path):
        pass


def test_an_address_or_an_archive_is_no_image(tmp_path, secret, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("all.zip", "w") as archive:
        archive.write(secret, "secret.tif")
    for name in (
        "/vsicurl/http://localhost:9/x.tif",
        "http://localhost:9/x.tif",
        f"/vsizip/{tmp_path}/all.zip/secret.tif",
        f"zip://{tmp_path}/all.zip!secret.tif",
        f"GTIFF_DIR:1:{secret}",
    ):
        with pytest.raises(ValueError, match=r"was not found .* Check the path\."), open_source(name):
            pass
        with pytest.raises(ValueError, match=r"cannot be read: .* Check the path\."):
            vectorize([name], tmp_path / "a.gpkg")
    # a folder of a stranger can have such names
    (tmp_path / "zip:" / "all.zip").mkdir(parents=True)
    for name in ("zip:/all.zip/secret.tif", "GTIFF_DIR:1:x.tif"):
        save(name, OPEN)
        with open_source(name) as source:
            assert source.read((0, 0, 5, 5))[0].max() == OPEN


@pytest.mark.parametrize("ending, none", [("png", 7), ("jp2", 7), ("tif", -9999), ("tif", np.nan)])
def test_a_value_of_no_data_in_a_file_beside_an_image_is_no_data(tmp_path, ending, none):
    path, without = tmp_path / f"x.{ending}", np.zeros((SIDE, SIDE), bool)
    without[:, :33] = True
    pixels = np.where(without, 7, 100 + np.arange(SIDE, dtype=np.uint8))
    if ending == "tif":
        values = np.where(without, none, pixels / 255).astype(np.float32)
        options = {"height": SIDE, "width": SIDE, "count": 3, "dtype": "float32", "photometric": "rgb"}
        with rasterio.open(path, "w", driver="GTiff", **options) as file:
            file.write(np.stack([values] * 3))
    else:
        Image.fromarray(np.stack([pixels] * 3, axis=-1).astype(np.uint8)).save(path)
    bands = "".join(NO_DATA.format(band, none) for band in (1, 2, 3))
    (tmp_path / f"x.{ending}.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    with open_source(path) as source:
        found, has_data = source.read((10, 20, 50, 60))
        overview = source.overview((16, 16))
    np.testing.assert_array_equal(has_data, ~without[10:60, 20:80])
    np.testing.assert_array_equal(found[has_data][:, 0], pixels[10:60, 20:80][has_data])
    assert np.abs(overview[:, 5:, 0].astype(int) - pixels[4::8, 44::8]).max() <= 8


def test_a_damaged_description_beside_an_image_is_no_foreign_error(tmp_path):
    for content in ("<PAMDataset><SRS>http://localhost:9/a</SRS></PAMDataset>", "<PAMDataset", "no"):
        path = save(tmp_path / "x.tif", OPEN)
        (tmp_path / "x.tif.aux.xml").write_text(content)
        with open_source(path) as source:
            assert source.georeference == {} and source.read((0, 0, 5, 5))[0].max() == OPEN


def test_a_format_that_is_not_read_by_tiles_keeps_its_place(tmp_path):
    path = save(tmp_path / "x.bmp", OPEN)
    (tmp_path / "x.bpw").write_text("0.5\n0\n0\n-0.5\n100.25\n199.75\n")
    with pytest.raises(ValueError, match=r"x.bmp' cannot be read as TIFF.* Save it as TIFF\."), open_source(path):
        pass
    labels = np.zeros((SIDE, SIDE), np.int32)
    export_annotations([AnnotatedImage("x.bmp", labels, source=path)], ["a"], tmp_path / "masks", "geotiff")
    with rasterio.open(tmp_path / "masks" / "x.tif") as file:
        assert file.transform == rasterio.Affine(0.5, 0, 100, 0, -0.5, 200)


def test_the_rotation_of_a_huge_png_is_read_without_its_pixels(tmp_path, monkeypatch):
    content = save(tmp_path / "huge.png", OPEN).read_bytes()
    header = b"IHDR" + struct.pack(">II", 10**5, 10**5) + content[24:29]
    (tmp_path / "huge.png").write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    decoded = []
    monkeypatch.setattr(PngImageFile, "load", lambda image: decoded.append(image.size))
    refuse_rotation(tmp_path / "huge.png")
    assert decoded == []
    rotated = Image.Exif()
    rotated[0x0112] = 6
    save(tmp_path / "rotated.png", OPEN, exif=rotated)
    with pytest.raises(ValueError, match="is stored rotated"):
        refuse_rotation(tmp_path / "rotated.png")


def test_the_rotation_of_a_format_that_is_not_read_is_not_looked_up(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", lambda image: opened.append(image))
    save(tmp_path / "image.png", OPEN)
    (tmp_path / "image.tif").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    refuse_rotation(tmp_path / "image.tif")
    assert opened == []
