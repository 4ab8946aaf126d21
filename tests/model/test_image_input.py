# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Whatever a person calls an image is read as the same pixels, and what cannot be read is refused with a remedy."""

import base64
import gc
import io
import re
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, features

from dinov3seg_hf.model.image_input import (
    MAX_SCANS,
    MAX_SEGMENTS,
    ImageError,
    flatten_images,
    num_scans,
    open_image,
    read_label_map,
    read_pixels,
    refuse_lossy,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png_header(width, height):
    """A PNG that announces its size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 1000) + b"IDAT"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path)
    return path


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_array_layouts_and_pil_agree(height, width, data):
    pixels = data.draw(st.integers(0, 2**32 - 1).map(np.random.default_rng)).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    reference = read_pixels(Image.fromarray(pixels))
    assert reference.dtype == torch.uint8 and reference.shape == (3, height, width)
    last, first = "channels_last", "channels_first"
    assert torch.equal(read_pixels(pixels, channel_dim=last), reference)
    assert torch.equal(read_pixels(torch.from_numpy(pixels).permute(2, 0, 1), channel_dim=first), reference)
    assert torch.equal(read_pixels(pixels.astype(np.int64), channel_dim=last), reference)
    assert torch.equal(read_pixels((pixels / 255).astype(np.float16), channel_dim=last), reference)
    assert torch.equal(read_pixels(torch.from_numpy(pixels / 255), channel_dim=last), reference)
    assert torch.equal(read_pixels(pixels.astype(np.uint16) * 257, channel_dim=last), reference)
    assert torch.equal(read_pixels(pixels[::-1], channel_dim=last), reference.flip(1))


@pytest.mark.parametrize(
    "shape, channels_last",
    [
        ((1, 1, 3), True),
        ((3, 1, 1), False),
        ((1, 9, 3), True),
        ((3, 9, 1), False),
        ((9, 9, 1), True),
        ((4, 9, 9), False),
    ],
)
def test_the_channel_axis_is_found_in_tiny_images(shape, channels_last):
    array = np.zeros(shape, dtype=np.uint8)
    height, width = shape[:2] if channels_last else shape[1:]
    assert read_pixels(array).shape == (3, height, width)
    assert read_pixels(torch.from_numpy(array)).shape == (3, height, width)


def test_where_both_axes_could_be_channels_numpy_means_the_last_and_torch_the_first():
    array = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    assert torch.equal(read_pixels(array), torch.from_numpy(array).permute(2, 0, 1))
    assert torch.equal(read_pixels(torch.from_numpy(array)), torch.from_numpy(array))
    assert torch.equal(read_pixels(array, channel_dim="channels_first"), torch.from_numpy(array))


def test_paths_urls_and_data_strings_give_the_same_pixels(photo, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/photo.png" else 404)
            self.end_headers()
            if self.path == "/photo.png":
                self.wfile.write(photo.read_bytes())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        encoded = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()
        for source in (photo, str(photo), f"{address}/photo.png", encoded, Image.open(photo)):
            assert np.array_equal(np.asarray(open_image(source)), PIXELS)
        with pytest.raises(ImageError, match=r"could not be downloaded.*404"):
            open_image(f"{address}/other.png")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(ImageError, match="could not be downloaded"):
        open_image(f"{address}/photo.png")


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_color_mode_becomes_rgb(mode):
    image = Image.new("RGB", (4, 3), (255, 255, 255))
    for step in {"La": ["LA", "La"], "PA": ["P", "PA"], "RGBa": ["RGBA", "RGBa"], "LA": ["L", "LA"]}.get(mode, [mode]):
        image = image.convert(step)
    result = open_image(image)
    assert (result.mode, result.size) == ("RGB", (4, 3))
    assert np.asarray(result).min() >= 254


def test_transparency_is_laid_over_white_in_images_and_arrays():
    rgba = np.zeros((2, 3, 4), dtype=np.uint8)
    rgba[..., 0] = 200
    rgba[..., 3] = [0, 128, 255]
    expected = [[255, 255, 255], [227, 127, 127], [200, 0, 0]]
    for source in (Image.fromarray(rgba), rgba, rgba / 255, torch.from_numpy(rgba)):
        assert np.asarray(open_image(source)).tolist() == [expected, expected]
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([0] * 768)
    palette.info["transparency"] = 3
    assert np.asarray(open_image(palette)).tolist() == [[[255, 255, 255]]]


def test_gray_images_and_arrays_get_three_equal_channels():
    gray = PIXELS[..., 0]
    for source in (Image.fromarray(gray), gray, gray[..., None], gray[None], torch.from_numpy(gray), gray / 255):
        assert np.array_equal(np.asarray(open_image(source)), np.repeat(gray[..., None], 3, axis=2))
    assert np.asarray(open_image(gray > 100)).tolist() == np.asarray(open_image((gray > 100) * 255)).tolist()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    expected = [0, 0, 1, 1, 128, 255]
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(values).save(path)
    for source in (path, Image.fromarray(values), values, Image.fromarray(values.astype(np.int32))):
        assert np.asarray(open_image(source))[0, :, 0].tolist() == expected


def test_camera_orientation_is_applied(tmp_path):
    image = Image.fromarray(np.kron(PIXELS[:2, :3] // 2, np.ones((8, 8, 1), dtype=np.uint8)))
    upright = image.transpose(Image.Transpose.ROTATE_270)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "rotated.jpg"
    image.save(path, exif=exif, quality=100, subsampling=0)
    result = open_image(path)
    assert result.size == upright.size
    assert np.abs(np.asarray(result).astype(int) - np.asarray(upright)).max() <= 8


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (3, 2), color) for color in ("red", "blue")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(path))[0, 0].tolist() == [255, 0, 0]


def test_a_single_pixel_is_an_image(tmp_path):
    path = tmp_path / "dot.png"
    Image.new("RGB", (1, 1), (1, 2, 3)).save(path)
    for source in (path, Image.open(path), np.array([[[1, 2, 3]]]), torch.tensor([[[1]], [[2]], [[3]]])):
        assert np.asarray(open_image(source)).tolist() == [[[1, 2, 3]]]


def test_channels_stay_when_no_conversion_is_wanted():
    assert read_pixels(np.zeros((5, 6, 4), dtype=np.uint8), convert_rgb=False).shape == (4, 5, 6)
    assert read_pixels(Image.new("L", (6, 5)), convert_rgb=False).shape == (1, 5, 6)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"no picture at all", "not have a known image format"),
        (png_header(30_000, 20_000), "too large"),
        (
            png_header(13_000, 13_000),
            r"13000 x 13000 pixels \(169 megapixels\); the limit is 120 megapixels.*max_pixels",
        ),
        (png_header(300, 200), "could not be decoded"),
    ],
    ids=["empty", "text", "bomb", "above the limit", "header only"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files_are_refused_by_name(tmp_path, content, words):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as raised:
        open_image(path)
    assert "bad.png" in str(raised.value)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), st.floats(0.01, 0.9), st.booleans())
def test_a_truncated_file_never_ends_in_anything_but_an_image_error(file_format, share, damage):
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(stream, file_format)
    data = bytearray(stream.getvalue())
    if damage:
        middle = int(len(data) * share)
        data[middle : middle + 40] = bytes(40)
    else:
        data = data[: int(len(data) * share)]
    uri = f"data:image/{file_format.lower()};base64,{base64.b64encode(bytes(data)).decode()}"
    try:
        assert open_image(uri).mode == "RGB"
    except ImageError as error:
        assert "The image" in str(error)


@pytest.mark.parametrize(
    "source, words",
    [
        ("/no/such/image.png", "does not exist"),
        ("", "folder|does not exist"),
        (".", "is a folder"),
        ("name\0with null", "could not be decoded|cannot be read"),
        ("data:image/png;base64,%%%", "base64"),
        (b"bytes", "The image of 5 bytes does not have a known image format"),
        (None, "of type NoneType"),
        (17, "of type int"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((6, 6, 5), np.uint8), "1, 3 or 4 channels"),
        (torch.zeros(2, 6, 6), "1, 3 or 4 channels"),
        (np.zeros(7), "shape"),
        (np.zeros((1, 2, 3, 4, 3)), "shape"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (torch.full((3, 4, 4), torch.inf), "NaN or infinite"),
        (torch.full((3, 4, 4), -0.5), "before normalization"),
        (np.full((4, 4, 3), 128.0), "Divide 8-bit values by 255"),
        (np.full((4, 4, 3), -1), "integers from -1"),
        (np.full((4, 4, 3), 1000), "uint16"),
        (np.full((4, 4, 3), 1j), "complex|numbers"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "complex"),
        (np.full((4, 4, 3), "a"), "expected numbers"),
        (Image.fromarray(np.full((2, 2), 70_000, np.int32)), "16-bit"),
        (Image.fromarray(np.full((2, 2), 3.0, np.float32)), r"expected \[0, 1\]"),
    ],
)
def test_what_is_no_image_is_refused_with_a_remedy(source, words):
    with pytest.raises(ImageError, match=words) as raised:
        open_image(source)
    assert isinstance(raised.value, ValueError) and re.search(r"; expected |\. [A-Z].*\.$", str(raised.value))


def test_the_limit_can_be_moved_and_holds_for_every_kind(photo):
    for source in (photo, Image.open(photo), PIXELS, torch.from_numpy(PIXELS)):
        assert open_image(source, max_pixels=35).size == (7, 5)
        with pytest.raises(ImageError, match="5 x 7 pixels"):
            open_image(source, max_pixels=34)


def test_a_file_of_floats_is_read_as_what_it_shows_and_refused_out_of_range(tmp_path):
    """PIL converts floats to 8 bits by cutting them off: from 0 to 1, the image would be black."""
    gray = np.arange(256, dtype=np.uint8).reshape(8, 32)
    Image.fromarray(gray.astype(np.float32) / 255).save(tmp_path / "gray.tif")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "gray.tif")), np.stack([gray] * 3, axis=-1))
    for value, words in ((255.0, "Divide 8-bit values by 255"), (np.nan, "NaN")):
        Image.fromarray(np.full((2, 2), value, np.float32)).save(tmp_path / "gray.tif")
        with pytest.raises(ImageError, match=f"gray.tif.*{words}"):
            open_image(tmp_path / "gray.tif")


def test_floats_a_rounding_error_outside_the_range_are_forgiven():
    assert read_pixels(np.array([[-1e-4, 1 + 1e-4]])).tolist() == [[[0, 255]]] * 3


@pytest.mark.parametrize("kind", ["EPS", "ICO", "ICNS"])
def test_what_runs_programs_or_hides_its_size_is_no_image(kind, monkeypatch):
    """PIL gives PostScript to Ghostscript, and decodes icons before it knows their size, which has no bound."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran a program"))
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, kind)
    for source in (content.getvalue(), io.BytesIO(content.getvalue())):
        with pytest.raises(ImageError, match=r"does not have a known image format\. Save the image as PNG or JPEG"):
            open_image(source)


def progressive_jpeg(more_scans=0, between=b""):
    """A progressive JPEG of a white pixel on black whose last scan, which has a few bytes, is repeated."""
    image, content = Image.new("L", (40, 40)), io.BytesIO()
    image.putpixel((3, 3), 255)
    image.save(content, "JPEG", progressive=True)
    content = content.getvalue()
    return content[:-2] + between + content[content.rindex(b"\xff\xda") : -2] * more_scans + content[-2:]


def test_a_jpeg_with_endless_scans_is_refused(tmp_path):
    """A scan of 22 bytes takes the time of all pixels, and a file of usual size has room for a million of them."""
    number = num_scans(progressive_jpeg())
    assert 1 < number < MAX_SCANS
    content = progressive_jpeg(MAX_SCANS - number)
    assert num_scans(content) == MAX_SCANS and open_image(content).size == (40, 40)
    hidden = (b"", b"\xff\x01", b"\xff\x02\xff\xff", b"\xff\xff", b"\xff\xd3", b"\x00\xda")  # before the scans
    for content in [progressive_jpeg(MAX_SCANS, between) for between in hidden]:
        (tmp_path / "many.jpg").write_bytes(content)
        for source in (content, tmp_path / "many.jpg", Image.open(tmp_path / "many.jpg")):
            with pytest.raises(ImageError, match=f"expected a JPEG with at most {MAX_SCANS}"):
                open_image(source)
    other = b"\xff\xe1" + (2 + 2 * MAX_SCANS).to_bytes(2, "big") + b"\xff\xda" * MAX_SCANS  # as in a photo that moves
    start, end = progressive_jpeg()[:2], progressive_jpeg()[2:]
    assert num_scans(start + other + end + b"\xff\xda" * MAX_SCANS) == number
    assert num_scans(start + b"\xff\xe0\0\2" * MAX_SEGMENTS + end) > MAX_SCANS


def test_reading_changes_neither_the_array_nor_the_pil_image():
    array, image = PIXELS.copy(), Image.fromarray(PIXELS).convert("P")
    array.setflags(write=False)
    read_pixels(array)
    read_pixels(image)
    assert np.array_equal(array, PIXELS) and image.mode == "P"


def test_nested_lists_and_batches_become_one_flat_list():
    assert flatten_images([[1], [], [2, (3,)]]) == [1, 2, 3]
    assert len(flatten_images(np.zeros((4, 5, 6, 3)))) == 4
    assert len(flatten_images([torch.zeros(2, 3, 5, 6), torch.zeros(3, 5, 6)])) == 3
    assert len(flatten_images(np.zeros((4, 5, 6)), num_dims=2)) == 4
    assert flatten_images([]) == []


def test_label_maps_keep_their_numbers(tmp_path):
    labels = np.array([[0, 1, 254, 255]])
    palette = Image.fromarray(labels.astype(np.uint8)).convert("P")
    path = tmp_path / "labels.png"
    palette.save(path)
    for source in (path, palette, labels, torch.from_numpy(labels), labels.astype(np.uint8), labels.astype(np.uint16)):
        assert read_label_map(source).tolist() == labels.tolist()
    many = np.array([[0, 846, 65535]], dtype=np.uint16)
    Image.fromarray(many).save(path)
    for source in (path, many, many.astype(np.int32)):
        assert read_label_map(source).tolist() == many.tolist()
    assert read_label_map(np.array([[-1, 3]])).tolist() == [[-1, 3]]


@pytest.mark.parametrize(
    "source, words",
    [
        (Image.new("RGB", (2, 2)), "one channel"),
        (np.zeros((2, 2)), "integers"),
        (np.zeros((2, 2, 3), np.uint8), "one class label"),
        (np.zeros((0, 2), np.uint8), "no pixels"),
        ("/no/such/labels.png", "does not exist"),
    ],
)
def test_what_is_no_label_map_is_refused(source, words):
    with pytest.raises(ImageError, match=words):
        read_label_map(source)


@pytest.mark.parametrize(
    ("ending", "options", "lossy"),
    [
        ("jpg", {"quality": 100}, True),
        ("webp", {"quality": 90}, True),
        ("webp", {"quality": 90, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, True),  # the extended format
        ("webp", {"lossless": True}, False),
        ("jp2", {"irreversible": True}, True),
        ("jp2", {"irreversible": False, "quality_mode": "rates", "quality_layers": [20]}, True),  # cut off
        ("avif", {}, True),
        ("tif", {"compression": "jpeg"}, True),
        ("tif", {"compression": "tiff_lzw"}, False),
        ("png", {}, False),
        ("tif", {}, False),
    ],
)
def test_masks_in_lossy_formats_are_refused(tmp_path, ending, options, lossy):
    mask = Image.fromarray(np.random.default_rng(0).integers(0, 5, (20, 30), dtype=np.uint8))
    path = tmp_path / f"mask.{ending}"
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    mask.convert("RGB" if ending == "webp" else "L").save(path, **options)
    with Image.open(path) as opened:
        if lossy:
            with pytest.raises(ImageError, match=r"lossy format .* Export the masks again as PNG"):
                refuse_lossy(opened, "mask")
            with pytest.raises(ImageError, match="lossy format"):
                read_label_map(path)
        else:
            refuse_lossy(opened, "mask")
        np.asarray(opened)  # the file is still where it was


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "I;16"])
def test_strips_give_what_the_whole_image_gives(mode, monkeypatch):
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (37, 23), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (37, 23, 4), dtype=np.uint8)).convert(mode)
    whole = read_pixels(image)
    monkeypatch.setattr("dinov3seg_hf.model.image_input.STRIP_PIXELS", 50)
    assert torch.equal(read_pixels(image), whole)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "I;16"])
def test_only_one_copy_of_the_pixels_waits_while_the_picture_is_made(mode, monkeypatch):
    height, width, waiting = 37, 41, set()
    make = Image.fromarray

    def watched(array):
        tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
        tensors = [one for one in tensors if one.numel() in (height * width, 3 * height * width)]
        waiting.update(one.untyped_storage().data_ptr() for one in tensors)  # views share theirs
        return make(array)

    image = Image.new(mode, (width, height))
    monkeypatch.setattr(Image, "fromarray", watched)
    monkeypatch.setattr("dinov3seg_hf.model.image_input.STRIP_PIXELS", 50)  # in strips, as large images are
    assert open_image(image).size == (width, height)
    assert len(waiting) == 1


def test_pixels_that_are_masked_are_refused():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for read in (read_pixels, read_label_map):
        with pytest.raises(ImageError, match=r"masked pixels; expected a value for each pixel. Pass its `filled"):
            read(np.ma.masked_array(array, array > 5))
        assert torch.equal(read(np.ma.masked_array(array, array > 99)), read(array))
