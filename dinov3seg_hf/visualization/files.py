# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes pictures, label maps and segments to files. All writes are atomic."""

import contextlib
import json
import os
import uuid
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ..file_names import IMAGE_SUFFIXES
from ..model.checks import checked_integer, checked_path
from ..model.files import write_atomically
from ..model.vocabulary import IGNORE_8_BIT, IGNORE_16_BIT
from .colors import NONE_COLOR, checked_palette, color_palette
from .pictures import Region, checked_label_map

# The keyword of the note in a PNG file.
NOTE = "dinov3seg_hf"


def check_writable(path: str | os.PathLike, suffixes: Sequence[str] | None = None) -> None:
    """Checks that a file can be written, before the work that creates its content. Leaves no files behind.

    Args:
        path: The file to write.
        suffixes: Allowed suffixes of the file name, in lower case. `None`: all suffixes.

    Raises:
        ValueError: If the suffix is not allowed, `path` is a folder, or the parent folder does not exist or is not
            writable.
    """
    path = Path(checked_path(path, "The path of a file to write"))
    if suffixes is not None and path.suffix.lower() not in suffixes:
        raise ValueError(f"{str(path)!r} ends in {path.suffix!r}; expected {', '.join(suffixes)}. Choose another name.")
    if os.path.isdir(path):
        raise ValueError(f"{str(path)!r} is a folder; expected a file path. Add a file name.")
    if not os.path.isdir(path.parent):
        raise ValueError(f"Folder {str(path.parent)!r} for the file {path.name!r} was not found. Create the folder.")
    probe = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            path.stat()  # raises another error if the name is too long
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)  # another process may have taken it for a leftover
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be written ({error.strerror}). Choose a path in a writable folder."
        ) from error


def save_image(path: str | os.PathLike, image: Image.Image, *, note: str | None = None) -> None:
    """Writes a picture. The suffix, one of `IMAGE_SUFFIXES`, determines the format.

    Args:
        path: The file.
        image: The picture.
        note: A text for `read_note`; only PNG files have it.

    Raises:
        ValueError: If the suffix is not supported, the path cannot be written, or the picture is too large for the
            format.
    """
    check_writable(path, IMAGE_SUFFIXES)
    image_format = {".png": "PNG", ".webp": "WEBP"}.get(Path(path).suffix.lower(), "JPEG")
    options: dict[str, Any] = _with_note(note) if image_format == "PNG" else {"quality": 92}
    buffer = BytesIO()
    try:
        image.save(buffer, image_format, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"A picture of {image.width} x {image.height} pixels (width x height) cannot be saved as {image_format} "
            f"({error}). Use .png."
        ) from error
    write_atomically(path, buffer.getvalue())


def _with_note(note: str | None) -> dict[str, PngInfo]:
    info = PngInfo()
    if note is not None:
        info.add_text(NOTE, note)
    return {"pnginfo": info}


def read_note(path: str | os.PathLike) -> str | None:
    """Returns the note of a PNG file without reading its pixels; `None` if there is none."""
    try:
        with PngImageFile(path) as image:  # of any size, other than `Image.open`
            return image.info.get(NOTE)
    except Exception:  # damaged files raise OSError, SyntaxError, ValueError, struct.error and others
        return None


def save_mask(
    path: str | os.PathLike,
    label_map: np.ndarray,
    num_labels: int,
    *,
    palette: np.ndarray | None = None,
    note: str | None = None,
) -> None:
    """Writes a label map as PNG. The value of a pixel is the number of its label.

    Up to 255 labels, the PNG has 8 bits and a palette, and `255` is none of these. With more labels, the PNG has 16
    bits, and `65535` is none of these.

    Args:
        path: The file; its name must end in `.png`.
        label_map: Integers `(H, W)`; negative values are none of these.
        num_labels: Number of labels of the vocabulary, found or not. Determines the bit depth.
        palette: See `overlay`.
        note: A text for `read_note`.

    Raises:
        ValueError: If the path cannot be written, `label_map` is not a label map, a label is too large, or there are
            more than 65535 labels.
    """
    check_writable(path, (".png",))
    write_atomically(path, mask_as_png(label_map, num_labels, palette=palette, note=note))


def mask_as_png(
    label_map: np.ndarray, num_labels: int, *, palette: np.ndarray | None = None, note: str | None = None
) -> bytes:
    """Returns a label map as the content of a PNG file; see `save_mask`.

    Raises:
        ValueError: If `label_map` is not a label map, a label is too large, there are more than 65535 labels, or the
            palette has fewer colors.
    """
    label_map = checked_label_map(label_map, checked_integer(num_labels, "num_labels", least=0))
    if num_labels > IGNORE_16_BIT:
        raise ValueError(f"Got {num_labels} labels; expected at most {IGNORE_16_BIT}, because a PNG has 16 bits.")
    buffer = BytesIO()
    if num_labels <= IGNORE_8_BIT:
        image = Image.fromarray(_unsigned(label_map, np.uint8, IGNORE_8_BIT))
        colors = np.zeros((256, 3), np.uint8)
        colors[:num_labels] = _first_colors(palette, num_labels)
        colors[IGNORE_8_BIT] = NONE_COLOR
        image.putpalette(colors.tobytes())
    else:
        image = Image.fromarray(_unsigned(label_map, np.uint16, IGNORE_16_BIT))
    image.save(buffer, "PNG", **_with_note(note))
    return buffer.getvalue()


def _first_colors(palette: np.ndarray | None, number: int) -> np.ndarray:
    return color_palette(number) if palette is None else checked_palette(palette, number)[:number]


def _unsigned(label_map: np.ndarray, dtype: type[np.unsignedinteger], none: int) -> np.ndarray:
    values = label_map.astype(dtype)  # not `np.where`, whose result would be as large as the label map
    values[label_map < 0] = none
    return values


def segments_as_json(
    label_map: np.ndarray, regions: Sequence[Region], *, with_masks: bool = True
) -> list[dict[str, Any]]:
    """Returns the regions with their boxes and masks, for JSON.

    Args:
        label_map: Integers `(H, W)`; negative values are none of these.
        regions: The regions from `regions_of`.
        with_masks: Whether to return the masks.

    Returns:
        For each region except "none of these", a dictionary with `label`, `index`, `score`, `area` (fraction of the
        image), `num_pixels`, `box` ([left, top, width, height] in pixels) and `mask` (uncompressed COCO run-length
        encoding: {"size": [H, W], "counts": [...]}, column by column, the first run is background).
    """
    segments: list[dict[str, Any]] = []
    for region in regions:
        if region.index < 0:
            continue
        mask = label_map == region.index
        rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
        segments.append(
            {
                "label": region.label,
                "index": region.index,
                "score": None if region.score is None else round(region.score, 4),
                "area": round(region.area, 6),
                "num_pixels": region.num_pixels,
                "box": [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1],
            }
        )
        if with_masks:
            segments[-1]["mask"] = {"size": list(mask.shape), "counts": _run_lengths(mask)}
    return segments


def _run_lengths(mask: np.ndarray) -> list[int]:
    values = mask.ravel(order="F")
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [values.size]])).tolist()
    return [0, *counts] if values[0] else counts


def save_json(path: str | os.PathLike, content: Any) -> None:
    """Writes JSON in UTF-8, without escapes for non-ASCII characters.

    Raises:
        ValueError: If the path cannot be written or does not end in `.json`.
    """
    check_writable(path, (".json",))
    write_atomically(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Returns the content of a JSON file; see `save_json`."""
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()
