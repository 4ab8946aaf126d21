# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Pictures, label maps and segments as files that appear whole or not at all."""

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

from ..model.files import write_atomically
from ..model.vocabulary import IGNORE_8_BIT, IGNORE_16_BIT
from .colors import NONE_COLOR, color_palette
from .pictures import Region, checked_label_map

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def check_writable(path: str | os.PathLike, suffixes: Sequence[str] | None = None) -> None:
    """Finds out before the work whether a file can be written after it. Leaves no trace.

    Args:
        path: The file that will be written.
        suffixes: What its name may end in, lower case.

    Raises:
        ValueError: Another ending, a folder of that name, a folder that is missing or cannot be written to.
    """
    path = Path(path)
    if suffixes is not None and path.suffix.lower() not in suffixes:
        raise ValueError(f"{str(path)!r} ends in {path.suffix!r}; expected {', '.join(suffixes)}. Rename it.")
    if os.path.isdir(path):
        raise ValueError(f"{str(path)!r} is a folder; expected the name of a file in it.")
    if not os.path.isdir(path.parent):
        raise ValueError(f"{str(path)!r} cannot be written: there is no folder {str(path.parent)!r}. Make it first.")
    probe = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            path.stat()  # a name that is too long fails otherwise
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be written: {error.strerror}. Choose a path in a folder that can be."
        ) from error


def save_image(path: str | os.PathLike, image: Image.Image) -> None:
    """Writes a picture; the name says the format, one of `IMAGE_SUFFIXES`.

    Raises:
        ValueError: Another ending, a path that cannot be written, more pixels than the format holds.
    """
    check_writable(path, IMAGE_SUFFIXES)
    image_format = {".png": "PNG", ".webp": "WEBP"}.get(Path(path).suffix.lower(), "JPEG")
    options = {} if image_format == "PNG" else {"quality": 92}
    buffer = BytesIO()
    try:
        image.save(buffer, image_format, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"A picture of {image.width} x {image.height} cannot be {image_format} ({error}). Use .png."
        ) from error
    write_atomically(path, buffer.getvalue())


def save_mask(
    path: str | os.PathLike, label_map: np.ndarray, num_labels: int, *, palette: np.ndarray | None = None
) -> None:
    """Writes a label map as PNG: the value of a pixel is the number of its label.

    Up to 255 labels: 8 bits with a palette, `255` is none of these. Above: 16 bits, `65535` is none of these.

    Args:
        path: Ends in `.png`.
        label_map: Integers `(H, W)`, negative for none.
        num_labels: How many labels there are, found or not; decides which of the two it is.
        palette: As for `overlay`.

    Raises:
        ValueError: A path that cannot be written, a map that is none, more than 65535 labels.
    """
    check_writable(path, (".png",))
    label_map = checked_label_map(label_map, num_labels)
    if num_labels > IGNORE_16_BIT:
        raise ValueError(f"{num_labels} labels do not fit a PNG of 16 bits; expected at most {IGNORE_16_BIT}.")
    buffer = BytesIO()
    if num_labels <= IGNORE_8_BIT:
        image = Image.fromarray(np.where(label_map < 0, IGNORE_8_BIT, label_map).astype(np.uint8))
        colors = np.zeros((256, 3), np.uint8)
        colors[:num_labels] = color_palette(num_labels) if palette is None else palette[:num_labels]
        colors[IGNORE_8_BIT] = NONE_COLOR
        image.putpalette(colors.tobytes())
    else:
        image = Image.fromarray(np.where(label_map < 0, IGNORE_16_BIT, label_map).astype(np.uint16))
    image.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def segments_as_json(label_map: np.ndarray, regions: Sequence[Region]) -> list[dict[str, Any]]:
    """Regions with their places, for programs.

    Args:
        label_map: Integers `(H, W)`, negative for none.
        regions: As `regions_of` makes them.

    Returns:
        For each region but "none of these" a dict with `label`, `index`, `score`, `area` (share), `num_pixels`, `box`
        ([left, top, width, height] in pixels) and `mask` (COCO's uncompressed run lengths: {"size": [H, W], "counts":
        [...]}, column by column, the first run is of background).
    """
    segments = []
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
                "mask": {"size": list(mask.shape), "counts": _run_lengths(mask)},
            }
        )
    return segments


def _run_lengths(mask: np.ndarray) -> list[int]:
    values = mask.ravel(order="F")
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [values.size]])).tolist()
    return [0, *counts] if values[0] else counts


def save_json(path: str | os.PathLike, content: Any) -> None:
    """Writes JSON (UTF-8, names as they are).

    Raises:
        ValueError: A path that cannot be written, or that does not end in `.json`.
    """
    check_writable(path, (".json",))
    write_atomically(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())
