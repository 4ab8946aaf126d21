# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""From anything a person calls an image to 8-bit pixels, or an `ImageError` that says what to do about it.

Knows files, PIL, numpy and torch; knows nothing of resizing, normalization or models. The rules:

- The orientation that a camera notes in EXIF is applied first. Of an animation the first frame counts.
- Transparency is laid over white. Palettes, CMYK and other color spaces become RGB, gray becomes three equal channels.
- 16-bit gray (PIL modes `I` and `I;16`, uint16 arrays) is divided by 257; floats are in [0, 1]; other integers in
  0..255.
- Label maps keep their numbers: no color conversion, no scaling.
"""

import base64
import os
import urllib.request
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps

# Lets a phone's 108 megapixels pass. Decoded pixels take four bytes each, and processing holds a few copies.
MAX_IMAGE_PIXELS = 120_000_000

MAX_DOWNLOAD_BYTES = 256 * 2**20

DOWNLOAD_TIMEOUT_SECONDS = 30

ImageSource = str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor

_CHANNELS = (1, 3, 4)  # gray, RGB, RGBA

_HALF_A_GRAY_LEVEL = 0.5 / 255  # rounding to 8 bits forgives floats this far outside [0, 1]


class ImageError(ValueError):
    """An image that cannot be used: what is wrong with it, and the remedy."""


def open_image(image: ImageSource, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Reads one image of any supported kind.

    Args:
        image: A path, an http(s) URL, a `data:image/...;base64,` string, a PIL image, or an array or tensor `(H, W)`,
            `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels.
        max_pixels: Larger images are refused, files before they are decoded.

    Returns:
        An upright RGB image, fully in memory.

    Raises:
        ImageError: If the image is missing, unreadable, truncated, empty or too large, or if its pixels are of no known
            kind.
    """
    pixels = read_pixels(image, max_pixels)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().contiguous().numpy())


def read_pixels(
    image: ImageSource,
    max_pixels: int = MAX_IMAGE_PIXELS,
    convert_rgb: bool = True,
    channel_dim: Literal["channels_first", "channels_last"] | None = None,
) -> torch.Tensor:
    """Reads one image as a tensor; `open_image` says what may come in and what is refused.

    Args:
        image: As for `open_image`.
        max_pixels: As for `open_image`.
        convert_rgb: `False` leaves the channels of gray and RGBA images as they are.
        channel_dim: Where the channels of an array are. By default the axis of length 3 or 4, else of length 1; if that
            leaves a choice, the last for numpy and the first for torch.

    Returns:
        uint8 `(C, H, W)`, three channels unless `convert_rgb` is off; on the device of the input.
    """
    if isinstance(image, (np.ndarray, torch.Tensor)):
        pixels = _array_pixels(image, max_pixels, channel_dim)
    else:
        pixels = _decode(image, max_pixels, _pil_pixels)
    return _to_rgb(pixels) if convert_rgb else pixels


def read_label_map(label_map: ImageSource, max_pixels: int = MAX_IMAGE_PIXELS) -> torch.Tensor:
    """Reads one map of class labels; palette images give their indices, 16-bit images their values.

    Args:
        label_map: A path, URL or PIL image of one channel, or an integer array or tensor `(H, W)`.
        max_pixels: As for `open_image`.

    Returns:
        int64 `(H, W)`.

    Raises:
        ImageError: If it cannot be read, or is no map of one integer a pixel.
    """
    if not isinstance(label_map, (np.ndarray, torch.Tensor)):
        return _decode(label_map, max_pixels, _pil_labels)
    labels = _as_tensor(label_map)
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex():
        raise ImageError(
            f"Expected a label map of integers with shape (H, W), got {labels.dtype} of shape {tuple(labels.shape)}: "
            "pass one class label for each pixel."
        )
    _check_size(labels.shape[0], labels.shape[1], max_pixels, "The label map")
    return labels.to(torch.int64)


def flatten_images(images: Any, num_dims: int = 3) -> list[Any]:
    """One flat list from an image, a nested list of images, or a batch in one array.

    Args:
        images: Lists and tuples are opened up, whatever their nesting.
        num_dims: Dimensions of a single image; an array with one more is a batch.
    """
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in flatten_images(item, num_dims)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == num_dims + 1:
        return list(images)
    return [images]


def _decode(
    source: str | os.PathLike[str] | Image.Image,
    max_pixels: int,
    convert: Callable[[Image.Image, str], torch.Tensor],
) -> torch.Tensor:
    """Opens `source`, refuses it if it is too large, and gives the upright PIL image to `convert`."""
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            return convert(_upright(source, max_pixels, name), name)
        with _open_file(source, name) as file, Image.open(file) as image:
            return convert(_upright(image, max_pixels, name), name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large to be decoded safely ({error}): shrink it first.") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is in no known image format: save it as PNG or JPEG.") from error
    except Exception as error:
        # PIL reports broken files as OSError, SyntaxError, ValueError, EOFError, struct.error and more
        raise ImageError(f"{name} could not be decoded ({error}): it may be truncated or damaged.") from error


def _open_file(source: str | os.PathLike[str], name: str) -> BinaryIO:
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"Expected an image, got {type(source).__name__}: pass a path, a URL, a PIL image, a numpy array or a "
            "tensor."
        )
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        data = _download(source, name)
    elif isinstance(source, str) and source.startswith("data:image/"):
        try:
            data = base64.b64decode(source.partition(",")[2], validate=True)
        except ValueError as error:
            raise ImageError(f"{name} is no valid base64: encode the whole image file anew.") from error
    else:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name} is a folder: pass the path of one image file, or a list of them.")
        try:
            if path.stat().st_size > 0:
                return path.open("rb")
        except FileNotFoundError as error:
            raise ImageError(f"{name} does not exist: check the path (now in {os.getcwd()!r}).") from error
        except OSError as error:
            raise ImageError(f"{name} cannot be read ({error.strerror}): check its name and permissions.") from error
        data = b""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes): copy or download it again.")
    return BytesIO(data)


def _download(url: str, name: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "dinov3seg_hf"})  # some hosts refuse Python's own name
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
            data = response.read(MAX_DOWNLOAD_BYTES + 1)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors; a malformed address is a ValueError
        raise ImageError(f"{name} could not be downloaded ({error}): check the address or pass a file.") from error
    if len(data) > MAX_DOWNLOAD_BYTES:
        raise ImageError(f"{name} exceeds {MAX_DOWNLOAD_BYTES // 2**20} MiB: pass a smaller local copy.")
    return data


def _upright(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    width, height = image.size
    _check_size(height, width, max_pixels, name)
    image.load()
    return ImageOps.exif_transpose(image)


def _check_size(height: int, width: int, max_pixels: int, name: str) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name} has no pixels ({height} x {width}): pass an image of at least 1 x 1.")
    if height * width > max_pixels:
        raise ImageError(
            f"{name} is {height} x {width} pixels, {height * width / 1e6:.0f} megapixels, and the limit is "
            f"{max_pixels / 1e6:.0f}: shrink it first, or raise the limit (`max_pixels` of `open_image`, "
            "`max_image_pixels` of the image processor)."
        )


def _pil_pixels(image: Image.Image, name: str) -> torch.Tensor:
    """uint8 (C, H, W) with C of 1, 3 or 4."""
    if image.mode == "F":
        return _to_8_bit(torch.from_numpy(np.array(image)), name)[None]
    if image.mode.startswith("I"):
        values = np.array(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{name} (mode {image.mode}) has values from {values.min()} to {values.max()}, expected 16-bit values "
                "in 0..65535: rescale it first."
            )
        return _to_8_bit(torch.from_numpy(values.astype(np.uint16)), name)[None]
    if image.has_transparency_data:
        # premultiplied modes convert to RGBA only by way of their straight ones
        image = image.convert({"La": "LA"}.get(image.mode, image.mode)).convert("RGBA")
    else:
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _pil_labels(image: Image.Image, name: str) -> torch.Tensor:
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise ImageError(
            f"{name} has mode {image.mode}, but a label map has one channel: decode its colors to labels first."
        )
    return torch.from_numpy(np.array(image).astype(np.int64))


def _array_pixels(image: np.ndarray | torch.Tensor, max_pixels: int, channel_dim: str | None) -> torch.Tensor:
    """uint8 (C, H, W) with C of 1, 3 or 4."""
    pixels = _as_tensor(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim != 3:
        raise ImageError(
            f"Expected an image of shape (H, W), (H, W, C) or (C, H, W), got {tuple(image.shape)}: pass one image, or "
            "a list of them."
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
        raise ImageError(f"Expected 'channels_first' or 'channels_last' as channel dimension, got {channel_dim!r}.")
    axes = [axis for axis in choices if image.shape[axis] in _CHANNELS]
    if not axes:
        raise ImageError(
            f"Expected an image with 1, 3 or 4 channels, got shape {tuple(image.shape)}: pick the channels to show, as "
            "(H, W, 3) or (3, H, W)."
        )
    usual = 2 if isinstance(image, np.ndarray) else 0
    return min(axes, key=lambda axis: (image.shape[axis] == 1, axis != usual))


def _as_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array.detach()
    if array.dtype.kind not in "buif":
        raise ImageError(f"Expected an array of numbers, got dtype {array.dtype}: convert it to uint8 first.")
    # torch knows no longdouble, no foreign byte order and no negative strides, and warns of read-only memory
    dtype = np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))


def _to_8_bit(pixels: torch.Tensor, name: str) -> torch.Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    if pixels.dtype == torch.bool:
        return pixels.to(torch.uint8) * 255
    if pixels.dtype == torch.uint16:
        return ((pixels.to(torch.int32) + 128) // 257).to(torch.uint8)
    if pixels.is_complex():
        raise ImageError(f"{name} holds complex numbers: pass real pixel values.")
    if not pixels.is_floating_point():
        pixels = pixels.to(torch.int64)
        low, high = (bound.item() for bound in pixels.aminmax())
        if low < 0 or high > 255:
            raise ImageError(
                f"{name} has integers from {low} to {high}, expected 0..255: pass 16-bit images as uint16, others "
                "rescaled."
            )
        return pixels.to(torch.uint8)
    pixels = pixels.to(torch.float32)
    if not pixels.isfinite().all():
        raise ImageError(f"{name} holds NaN or infinite values: repair them before segmenting.")
    low, high = (bound.item() for bound in pixels.aminmax())
    if low < -_HALF_A_GRAY_LEVEL or high > 1 + _HALF_A_GRAY_LEVEL:
        raise ImageError(
            f"{name} has floats from {low:.4g} to {high:.4g}, expected [0, 1]: divide 8-bit values by 255 or pass "
            "them as uint8, and pass images before normalization."
        )
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def _to_rgb(pixels: torch.Tensor) -> torch.Tensor:
    if pixels.shape[0] == 1:
        return pixels.expand(3, -1, -1)
    if pixels.shape[0] == 3:
        return pixels
    alpha = pixels[3:].to(torch.float32) / 255
    return (pixels[:3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def _name(source: Any) -> str:
    if isinstance(source, Image.Image):
        file = getattr(source, "filename", "")
        return f"The image {os.fspath(file)!r}" if file else "The PIL image"
    text = str(source)
    return f"The image {text if len(text) <= 200 else text[:100] + '...'!r}"
