# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads any supported kind of image into 8-bit pixels, or raises an `ImageError` with a remedy.

Handles files, PIL, numpy and torch. Does not resize or normalize, and does not depend on the model. The rules:

- The EXIF orientation is applied first. Only the first frame of an animation is used.
- Transparent images are composited over white. Palettes, CMYK and other color spaces are converted to RGB. Gray becomes
  three equal channels.
- 16-bit gray (PIL modes `I` and `I;16`, uint16 arrays) is divided by 257. Floats must be in [0, 1], other integers in
  0..255.
- Label maps keep their values: no color conversion, no scaling.
"""

import base64
import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from .checks import checked_integer, quoted
from .image_formats import safe_formats

# Allows the 108 megapixels of phone cameras. A decoded pixel takes four bytes, and processing makes a few copies.
MAX_IMAGE_PIXELS = 120_000_000

STRIP_PIXELS = 2**20  # converted at once

MAX_DOWNLOAD_BYTES = 256 * 2**20

DOWNLOAD_TIMEOUT_SECONDS = 30

Decoded = TypeVar("Decoded")

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor

# Scans of a progressive JPEG, as in libtiff; usual files have about 10. A scan of a few bytes takes the time of all
# pixels, so that a file of usual size can occupy a server without end.
MAX_SCANS = 100
MAX_SEGMENTS = 10_000

# A marker that a segment of a JPEG begins with; other ones have no content.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_END_OF_IMAGE, _START_OF_SCAN = b"\xd9", b"\xda"

# Formats that are lossy, or in which it cannot be seen whether a file is; and lossy compressions inside of TIFF.
LOSSY_FORMATS = frozenset({"JPEG", "MPO", "JPEG2000", "AVIF", "HEIF", "DDS", "BLP", "FTEX"})
LOSSY_COMPRESSIONS = frozenset({"jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24"})

_CHANNELS = (1, 3, 4)  # gray, RGB, RGBA

_HALF_A_GRAY_LEVEL = 0.5 / 255  # tolerance for floats outside [0, 1], which rounding to 8 bits corrects


class ImageError(ValueError):
    """Raised if an image cannot be used; the message contains the problem and the remedy."""


def open_image(image: ImageSource, max_pixels: int = MAX_IMAGE_PIXELS, name: str | None = None) -> Image.Image:
    """Reads one image of any supported kind.

    Args:
        image: A path, an http(s) URL, a `data:image/...;base64,` string, the bytes of an image file, an open file, a
            PIL image, or an array or tensor `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels.
        max_pixels: Maximum number of pixels. Larger images raise an error; files are not decoded before this check.
        name: What errors call the image. Default: by its file, or its kind.

    Returns:
        An upright RGB image, fully in memory.

    Raises:
        ImageError: If the image is missing, unreadable, truncated, empty or too large, or if its kind is not supported.
    """
    # the channels come last in a copy, and before PIL makes another one, the original is freed
    pixels = read_pixels(image, max_pixels, name=name).permute(1, 2, 0).cpu().contiguous()
    return Image.fromarray(pixels.numpy())


def read_pixels(
    image: ImageSource,
    max_pixels: int = MAX_IMAGE_PIXELS,
    convert_rgb: bool = True,
    channel_dim: Literal["channels_first", "channels_last"] | None = None,
    name: str | None = None,
) -> torch.Tensor:
    """Reads one image as a tensor; see `open_image` for the supported images and the errors.

    Args:
        image: See `open_image`.
        max_pixels: See `open_image`.
        convert_rgb: Whether to convert gray and RGBA images to three channels.
        channel_dim: The axis of the channels in an array. Default: the axis of length 3 or 4, else the axis of length
            1. If both axes match, the last one for numpy and the first one for torch.
        name: See `open_image`. Errors of arrays name their shape.

    Returns:
        uint8 `(C, H, W)` on the device of the input; C is 3 if `convert_rgb` is set.
    """
    checked_integer(max_pixels, "max_pixels", least=1)
    if isinstance(image, (np.ndarray, torch.Tensor)):
        pixels = _array_pixels(image, max_pixels, channel_dim)
    else:
        pixels = decode_image(image, _pil_pixels, max_pixels, name=name)
    return _to_rgb(pixels) if convert_rgb else pixels


def read_label_map(label_map: ImageSource, max_pixels: int = MAX_IMAGE_PIXELS) -> torch.Tensor:
    """Reads one map of class labels. Palette images give their indices, 16-bit images their values.

    Args:
        label_map: A path, a URL or a PIL image with one channel, or an integer array or tensor `(H, W)`.
        max_pixels: See `open_image`.

    Returns:
        int64 `(H, W)`.

    Raises:
        ImageError: If the map cannot be read, does not contain one integer per pixel, or is stored in a lossy format.
    """
    checked_integer(max_pixels, "max_pixels", least=1)
    if not isinstance(label_map, (np.ndarray, torch.Tensor)):
        return decode_image(label_map, pil_labels, max_pixels, is_mask=True)
    labels = _as_tensor(label_map)
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex():
        raise ImageError(
            f"The label map has dtype {labels.dtype} and shape {tuple(labels.shape)}; expected integers of shape "
            "(H, W). Pass one class label for each pixel."
        )
    _check_size(labels.shape[0], labels.shape[1], max_pixels, "The label map")
    return labels.to(torch.int64)


def flatten_images(images: Any, num_dims: int = 3) -> list[Any]:
    """Flattens an image, a nested list of images or a batch in one array into a list of images.

    Args:
        images: An image, a batch, or lists and tuples of them with any nesting.
        num_dims: Number of dimensions of a single image. An array with one more dimension is a batch.
    """
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in flatten_images(item, num_dims)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == num_dims + 1:
        return list(images)
    return [images]


def decode_image(
    source: str | os.PathLike[str] | bytes | BinaryIO | Image.Image,
    convert: Callable[[Image.Image, str], Decoded],
    max_pixels: int = MAX_IMAGE_PIXELS,
    is_mask: bool = False,
    name: str | None = None,
) -> Decoded:
    """Opens an image, in safe formats only, and checks it before it is decoded; every file of a stranger passes here.

    Args:
        source: See `open_image`; not an array or a tensor.
        convert: Called with the upright PIL image, in its own mode, and its name for errors; returns the result.
        max_pixels: See `open_image`.
        is_mask: Whether lossy formats are refused.
        name: See `open_image`.

    Raises:
        ImageError: See `open_image` and `read_label_map`.
    """
    name = _name(source) if name is None else name
    try:
        if isinstance(source, Image.Image):
            if is_mask:
                refuse_lossy(source, name)
            return convert(_upright(source, max_pixels, name), name)
        with _open_file(source, name) as file, Image.open(file, formats=safe_formats()) as image:
            if is_mask:
                refuse_lossy(image, name)
            return convert(_upright(image, max_pixels, name), name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large to be decoded safely ({error}). Shrink the image first.") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} does not have a known image format. Save the image as PNG or JPEG.") from error
    except Exception as error:
        # PIL reports broken files as OSError, SyntaxError, ValueError, EOFError, struct.error and more
        raise ImageError(
            f"{name} could not be decoded ({error}). The image may be truncated or damaged. Save or download it again."
        ) from error


def refuse_lossy(mask: Image.Image, name: str) -> None:
    """Raises an error if a mask comes from a file in a lossy format, which changes labels, most along edges.

    Raises:
        ImageError: For `LOSSY_FORMATS`, TIFF with `LOSSY_COMPRESSIONS` and lossy WebP. A PIL image that was copied or
            converted does not know its format.
    """
    is_lossy = mask.format in LOSSY_FORMATS
    if mask.format == "TIFF":
        is_lossy = mask.info.get("compression") in LOSSY_COMPRESSIONS
    file = getattr(mask, "fp", None)
    if mask.format == "WEBP" and file is not None and file.seekable():
        place = file.tell()
        file.seek(12)  # after "RIFF", the size and "WEBP"
        kind = file.read(4)
        # "VP8 " is lossy and "VP8L" lossless; the extended format, "VP8X", contains one of them, and never both
        is_lossy = kind == b"VP8 " or (kind == b"VP8X" and b"VP8L" not in file.read(2**16))
        file.seek(place)
    if is_lossy:
        raise ImageError(
            f"{name} is a mask in the lossy format {mask.format}, which changes labels; expected a lossless format. "
            "Export the masks again as PNG. A JPEG that is converted to PNG keeps its wrong labels."
        )


def _open_file(source: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> BinaryIO:
    if isinstance(source, (bytes, bytearray)) or hasattr(source, "read"):
        content = source.read() if hasattr(source, "read") else source
        if not isinstance(content, (bytes, bytearray)):
            raise ImageError(f"{name} gives text; expected bytes. Open the file in binary mode, 'rb'.")
        if not content:
            raise ImageError(f"{name} is empty (0 bytes), or was read to its end. Open it again.")
        return BytesIO(content)  # the file of the caller stays open
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"The image is of type {type(source).__name__}; expected a path, a URL, bytes, an open file, a PIL image, "
            "a numpy array or a tensor."
        )
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        data = _download(source, name)
    elif isinstance(source, str) and source.startswith("data:image/"):
        try:
            data = base64.b64decode(source.partition(",")[2], validate=True)
        except ValueError as error:
            raise ImageError(f"{name} is not valid base64. Encode the whole image file again.") from error
    else:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name} is a folder; expected an image file. Pass one path or a list of paths.")
        try:
            if path.stat().st_size > 0:
                return path.open("rb")
        except FileNotFoundError as error:
            raise ImageError(f"{name} does not exist (current directory: {os.getcwd()!r}). Check the path.") from error
        except OSError as error:
            raise ImageError(
                f"{name} cannot be read ({error.strerror}). Check the path and the permissions."
            ) from error
        data = b""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes). Copy or download the file again.")
    return BytesIO(data)


def _download(url: str, name: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "dinov3seg_hf"})  # some hosts reject Python's default
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
            data = response.read(MAX_DOWNLOAD_BYTES + 1)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors; a malformed URL is a ValueError
        raise ImageError(f"{name} could not be downloaded ({error}). Check the URL, or pass a file.") from error
    if len(data) > MAX_DOWNLOAD_BYTES:
        raise ImageError(
            f"{name} exceeds the limit of {MAX_DOWNLOAD_BYTES // 2**20} MiB for downloads. Pass a smaller local copy."
        )
    return data


def _upright(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    width, height = image.size
    _check_size(height, width, max_pixels, name)
    _check_scans(image, name)
    image.load()
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if is_turned else image  # no copy, as `exif_transpose` makes


def _check_scans(image: Image.Image, name: str) -> None:
    """Raises an error if a JPEG that is not decoded yet has so many scans that it would take hours."""
    file = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or file is None or not getattr(image, "tile", None):
        return
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    if (number := num_scans(content)) > MAX_SCANS:
        raise ImageError(
            f"{name} has {number} scans or more; expected a JPEG with at most {MAX_SCANS}, because each one takes the "
            "time of a whole image. Save the image again."
        )


def num_scans(content: bytes) -> int:
    """Returns the number of scans of the first image in a JPEG file, at least `MAX_SCANS` + 1 if they are too many."""
    number = place = 0
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(content, place)
        if marker is None or marker[1] == _END_OF_IMAGE:
            return number
        number += marker[1] == _START_OF_SCAN
        # the length counts itself; behind the head of a scan, the next marker ends its data
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return max(number, MAX_SCANS + 1)


def _check_size(height: int, width: int, max_pixels: int, name: str) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name} is {height} x {width} and has no pixels; expected at least 1 x 1.")
    if height * width > max_pixels:
        raise ImageError(
            f"{name} is {height} x {width} pixels ({height * width / 1e6:.0f} megapixels); the limit is "
            f"{max_pixels / 1e6:.0f} megapixels. Shrink the image, or raise the limit (`max_pixels` of `open_image`, "
            "`max_image_pixels` of the image processor)."
        )


def _pil_pixels(image: Image.Image, name: str) -> torch.Tensor:
    """Returns the pixels as uint8 `(C, H, W)`; C is 1, 3 or 4."""
    if image.mode == "F":
        return _to_8_bit(torch.from_numpy(np.array(image)), name)[None]
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{name} (mode {image.mode}) has values from {values.min()} to {values.max()}; expected 16-bit values "
                "in 0..65535. Rescale the image first."
            )
        return _to_8_bit(torch.from_numpy(values.astype(np.uint16)), name)[None]
    if image.has_transparency_data:
        # PIL converts premultiplied La to RGBA only via LA
        image = _converted(image.convert("LA") if image.mode == "La" else image, "RGBA")
    else:
        image = _converted(image, "L" if image.mode in ("1", "L") else "RGB")
    pixels = torch.from_numpy(_array_of(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _array_of(image: Image.Image) -> np.ndarray:
    """Returns an image of 8 bits as an array `(H, W)` or `(H, W, C)`. `np.array` would make three copies at once."""
    (width, height), bands = image.size, image.getbands()
    array = np.empty((height, width) if len(bands) == 1 else (height, width, len(bands)), np.uint8)
    for rows, strip in strips_of(image):
        array[rows] = np.asarray(strip)
    return array


def strips_of(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Yields an image in strips of `STRIP_PIXELS`, from the top: the rows of each strip, and its part of the image."""
    width, height = image.size
    for rows in strip_rows(height, width):
        is_whole = rows.stop - rows.start == height
        yield rows, image if is_whole else image.crop((0, rows.start, width, rows.stop))


def strip_rows(height: int, width: int) -> Iterator[slice]:
    """Yields the rows of strips of `STRIP_PIXELS`, which are converted at once."""
    num_rows = max(1, STRIP_PIXELS // max(1, width))
    for top in range(0, height, num_rows):
        yield slice(top, min(height, top + num_rows))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # which would be a copy


def pil_labels(image: Image.Image, name: str) -> torch.Tensor:
    """Returns the labels of a decoded label map as int64 `(H, W)`; see `read_label_map`."""
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise ImageError(
            f"{name} has mode {image.mode}; expected one channel with labels. Decode the colors to labels first."
        )
    labels = np.empty((image.height, image.width), np.int64)
    for rows, strip in strips_of(image):
        labels[rows] = np.asarray(strip)
    return torch.from_numpy(labels)


def _array_pixels(image: np.ndarray | torch.Tensor, max_pixels: int, channel_dim: str | None) -> torch.Tensor:
    """Returns the pixels as uint8 `(C, H, W)`; C is 1, 3 or 4."""
    pixels = _as_tensor(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim != 3:
        raise ImageError(
            f"The image has shape {tuple(image.shape)}; expected (H, W), (H, W, C) or (C, H, W). Pass one image or a "
            "list of images."
        )
    elif _channel_axis(image, channel_dim) == 2:
        pixels = pixels.permute(2, 0, 1)
    _check_size(pixels.shape[1], pixels.shape[2], max_pixels, f"The image of shape {tuple(image.shape)}")
    return _to_8_bit(pixels, f"The image of shape {tuple(image.shape)}")


def _channel_axis(image: np.ndarray | torch.Tensor, channel_dim: str | None) -> int:
    choices = {"channels_first": [0], "channels_last": [2], None: [0, 2]}.get(
        getattr(channel_dim, "value", channel_dim)
    )
    if choices is None:
        raise ImageError(f"The channel dimension is {channel_dim!r}; expected 'channels_first' or 'channels_last'.")
    axes = [axis for axis in choices if image.shape[axis] in _CHANNELS]
    if not axes:
        raise ImageError(
            f"The image has shape {tuple(image.shape)}; expected 1, 3 or 4 channels. Select the channels to show, as "
            "(H, W, 3) or (3, H, W)."
        )
    usual = 2 if isinstance(image, np.ndarray) else 0
    return min(axes, key=lambda axis: (image.shape[axis] == 1, axis != usual))


def _as_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array.detach()
    if np.ma.is_masked(array):
        raise ImageError("The array has masked pixels; expected a value for each pixel. Pass its `filled(...)` values.")
    if array.dtype.kind not in "buif":
        raise ImageError(f"The array has dtype {array.dtype}; expected numbers. Convert the array to uint8 first.")
    # torch does not support longdouble, other byte orders and negative strides, and warns about read-only memory
    dtype = np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))


def _to_8_bit(pixels: torch.Tensor, name: str) -> torch.Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    if pixels.dtype == torch.bool:
        return pixels.to(torch.uint8) * 255
    if pixels.dtype == torch.uint16:
        return _in_strips(pixels, lambda strip: ((strip.to(torch.int32) + 128) // 257).to(torch.uint8))
    if pixels.is_complex():
        raise ImageError(f"{name} contains complex numbers; expected real numbers.")
    if not pixels.is_floating_point():
        pixels = pixels.to(torch.int64)
        low, high = (bound.item() for bound in pixels.aminmax())
        if low < 0 or high > 255:
            raise ImageError(
                f"{name} has integers from {low} to {high}; expected 0 to 255. Pass 16-bit images as uint16; rescale "
                "other images to 0..255."
            )
        return pixels.to(torch.uint8)
    pixels = pixels.to(torch.float32)
    if not pixels.isfinite().all():
        raise ImageError(f"{name} contains NaN or infinite values; expected finite values. Replace these values first.")
    low, high = (bound.item() for bound in pixels.aminmax())
    if low < -_HALF_A_GRAY_LEVEL or high > 1 + _HALF_A_GRAY_LEVEL:
        raise ImageError(
            f"{name} has floats from {low:.4g} to {high:.4g}; expected [0, 1]. Divide 8-bit values by 255, or pass "
            "them as uint8. Pass the image before normalization."
        )
    return _in_strips(pixels, lambda strip: (strip.clamp(0, 1) * 255).round().to(torch.uint8))


def _to_rgb(pixels: torch.Tensor) -> torch.Tensor:
    if pixels.shape[0] == 1:
        return pixels.expand(3, -1, -1)
    if pixels.shape[0] == 3:
        return pixels
    return _in_strips(pixels, _over_white)


def _over_white(pixels: torch.Tensor) -> torch.Tensor:
    alpha = pixels[3:].to(torch.float32) / 255
    return (pixels[:3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def _in_strips(pixels: torch.Tensor, convert: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Converts `(..., H, W)` by strips of rows: a small file can have many pixels, and floats take 16 bytes each."""
    num_rows = max(1, STRIP_PIXELS // max(1, pixels.shape[-1]))
    strips = pixels.split(num_rows, dim=-2)
    if len(strips) == 1:
        return convert(pixels)
    first = convert(strips[0])
    converted = first.new_empty((*first.shape[:-2], *pixels.shape[-2:]))
    for start, strip in zip(range(0, pixels.shape[-2], num_rows), strips):
        converted[..., start : start + num_rows, :] = convert(strip)
    return converted


def _name(source: Any) -> str:
    if isinstance(source, Image.Image):
        file = getattr(source, "filename", "")
        return f"The image {os.fspath(file)!r}" if file else "The PIL image"
    if isinstance(source, (bytes, bytearray)):
        return f"The image of {len(source)} bytes"
    if hasattr(source, "read"):
        return f"The image in the file {getattr(source, 'name', type(source).__name__)!r}"
    if not isinstance(source, (str, os.PathLike)):
        return f"The image {quoted(source)}"
    text = str(source)
    return f"The image {text if len(text) <= 200 else text[:100] + '...'!r}"
