# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Label maps as people and programs want them: overlays with a legend, mask files, JSON.

Knows images, label maps and label names; nothing of models. A label map is an integer array `(H, W)` in which a
negative value means "none of these". A color belongs to the number of a label, so that a label looks the same in all
images of a vocabulary, in overlays, legends and mask files. Files appear whole or not at all.
"""

import contextlib
import json
import os
import uuid
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .files import write_whole
from .vocabulary import IGNORE_8_BIT, IGNORE_16_BIT

NONE_NAME = "none of these"
NONE_COLOR = (158, 158, 162)

# A small picture is enlarged to this short side, as far as the long one allows: no legend would fit a 96 px scene.
MIN_DISPLAY_SIDE, MAX_ENLARGED_SIDE = 512, 4096
MAX_LEGEND_ROWS = 24
# Choosing the farthest color takes time for each; beyond these, colors are only different.
MAX_FARTHEST_COLORS = 1024

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_INK, _FAINT_INK, _PAPER = (28, 28, 30), (112, 112, 118), (255, 255, 255)
# Where the default font lacks a name's letters, the first of these that is installed and has them is used.
_MORE_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansArabic-Regular.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "Arial Unicode.ttf", "Hiragino Sans GB.ttc", "msyh.ttc", "seguisym.ttf"),
)

# Linear RGB as seen by eyes without L cones and without M cones (Machado, Oliveira, Fernandes 2009, severity 1).
_PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))


# Colors


def color_palette(num_colors: int) -> np.ndarray:
    """Distinct colors, always the same; a shorter palette is the beginning of a longer one.

    Each color is the farthest from all before it, in Oklab, both for the usual eye and for the worse of the two common
    kinds of color blindness. None is close to gray, white or black, or of glaring saturation.

    Args:
        num_colors: How many, at least 0.

    Returns:
        uint8 `(num_colors, 3)`, sRGB.
    """
    if num_colors <= MAX_FARTHEST_COLORS:
        # powers of two, so that few palettes are ever computed
        return _farthest_colors(1 << max(num_colors - 1, 31).bit_length())[:num_colors].copy()
    colors = np.concatenate([_farthest_colors(MAX_FARTHEST_COLORS), _more_colors()])
    return np.resize(colors, (num_colors, 3))


@lru_cache(maxsize=8)
def _farthest_colors(num_colors: int) -> np.ndarray:
    candidates, seen = _usable_colors(step=15)
    first = int(np.argmin(np.abs(candidates - np.array([0, 120, 225])).sum(axis=1)))  # a blue, clear to every eye
    chosen = [first]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < num_colors:
        usual, *others = np.linalg.norm(seen - seen[:, chosen[-1] : chosen[-1] + 1], axis=2)
        distance = np.minimum(distance, usual + np.minimum(*others))
        chosen.append(int(distance.argmax()))
    return candidates[chosen].astype(np.uint8)


@lru_cache(maxsize=1)
def _more_colors() -> np.ndarray:
    """So many that no eye could tell them apart anyway: just different ones, neighbors unlike."""
    candidates, _ = _usable_colors(step=4)
    farthest = {tuple(color) for color in _farthest_colors(MAX_FARTHEST_COLORS).tolist()}
    candidates = candidates[[tuple(color) not in farthest for color in candidates.tolist()]]
    return np.random.default_rng(0).permutation(candidates).astype(np.uint8)


def _usable_colors(step: int) -> tuple[np.ndarray, np.ndarray]:
    """sRGB `(N, 3)` and how it is seen `(3 eyes, N, 3)`."""
    levels = np.arange(20, 246, step)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = _as_seen(colors)
    lightness, chroma = seen[0, :, 0], np.hypot(seen[0, :, 1], seen[0, :, 2])
    usable = (lightness > 0.42) & (lightness < 0.92) & (chroma > 0.09)
    return colors[usable], seen[:, usable]


def _as_seen(colors: np.ndarray) -> np.ndarray:
    """sRGB (N, 3) -> Oklab (3 eyes, N, 3)."""
    values = colors / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    eyes = (np.eye(3), np.array(_PROTANOPIA), np.array(_DEUTERANOPIA))
    return np.stack([_oklab(np.clip(linear @ eye.T, 0, 1)) for eye in eyes])


def _oklab(linear: np.ndarray) -> np.ndarray:
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(linear @ to_cones.T) @ to_lab.T


# Pictures


@dataclass(frozen=True)
class Region:
    """All pixels of one label in one image.

    Args:
        index: The label's number; negative for "none of these".
        label: Its name.
        num_pixels: How many there are.
        area: Their share of the image, between 0 and 1.
        score: Mean score of the label over them, between 0 and 1; `None` for "none of these".
    """

    index: int
    label: str
    num_pixels: int
    area: float
    score: float | None = None


def regions_of(label_map: np.ndarray, labels: Sequence[str], scores: Mapping[str, float] | None = None) -> list[Region]:
    """The labels that are found in a label map, the largest first, "none of these" last.

    Args:
        label_map: Integers `(H, W)`, negative for none.
        labels: Names of the labels 0, 1, ...
        scores: Name -> score of the labels found, where there are scores.

    Raises:
        ValueError: The map is none, or holds a number that has no name.
    """
    label_map = _checked_map(label_map, len(labels))
    counts = np.bincount(np.maximum(label_map, -1).ravel() + 1, minlength=len(labels) + 1)
    found = sorted(np.flatnonzero(counts[1:]).tolist(), key=lambda index: -counts[index + 1])
    regions = [
        Region(
            index,
            labels[index],
            int(counts[index + 1]),
            counts[index + 1] / label_map.size,
            (scores or {}).get(labels[index]),
        )
        for index in found
    ]
    if counts[0]:
        regions.append(Region(-1, NONE_NAME, int(counts[0]), counts[0] / label_map.size))
    return regions


def overlay(
    image: Image.Image, label_map: np.ndarray, *, alpha: float = 0.5, palette: np.ndarray | None = None
) -> Image.Image:
    """Lays the colors of a label map over its image, every region with an outline; "none of these" is gray.

    Args:
        image: The picture.
        label_map: Integers `(H, W)` of the picture's size.
        alpha: Between 0 (picture) and 1 (colors).
        palette: uint8 `(C, 3)`; `color_palette` unless given.

    Returns:
        RGB; small pictures enlarged by a whole factor to a short side of `MIN_DISPLAY_SIDE`.

    Raises:
        ValueError: Sizes that do not fit, alpha out of range.
    """
    label_map = _checked_map(label_map)
    if image.size != label_map.shape[::-1]:
        raise ValueError(
            f"The label map is {label_map.shape[0]} x {label_map.shape[1]} (height x width), the image "
            f"{image.height} x {image.width}; expected the same size. Ask for the label map at the image's size."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected a number between 0 (picture) and 1 (colors).")
    image = image.convert("RGB")
    factor = min(-(-MIN_DISPLAY_SIDE // min(image.size)), max(1, MAX_ENLARGED_SIDE // max(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
        label_map = label_map.repeat(factor, axis=0).repeat(factor, axis=1)

    largest = max(int(label_map.max()), 0)
    palette = color_palette(largest + 1) if palette is None else np.asarray(palette, np.uint8)
    if largest >= len(palette):
        raise ValueError(
            f"The palette has {len(palette)} colors, but label {largest} was found; give {largest + 1} colors."
        )
    colors = np.concatenate([palette[: largest + 1], [NONE_COLOR]]).astype(np.uint8)[label_map]  # -1 is the last
    flat = Image.fromarray(colors)
    # The picture gives light and texture and little of its own color: blue on orange would be gray, not blue.
    blended = Image.blend(Image.blend(image, image.convert("L").convert("RGB"), min(1.0, 1.6 * alpha)), flat, alpha)

    width = max(1, round(min(image.size) / 260))
    blended.paste(flat, mask=Image.fromarray(_near_borders(label_map, width) & (label_map >= 0)))
    blended.paste(_PAPER, mask=Image.fromarray(_near_borders(label_map, max(1, width // 2))))
    return blended


def _near_borders(label_map: np.ndarray, width: int) -> np.ndarray:
    """Which pixels lie within `width` pixels of another label."""
    near = np.zeros(label_map.shape, dtype=bool)
    for step in sorted({1, (width + 1) // 2, width}):
        for axis in (0, 1):
            before = tuple(slice(None, -step) if a == axis else slice(None) for a in (0, 1))
            after = tuple(slice(step, None) if a == axis else slice(None) for a in (0, 1))
            differs = label_map[before] != label_map[after]
            near[before] |= differs
            near[after] |= differs
    return near


def with_legend(picture: Image.Image, regions: Sequence[Region], *, palette: np.ndarray | None = None) -> Image.Image:
    """Puts a legend under a picture: color, label, share of the area, score.

    Args:
        picture: As `overlay` makes it.
        regions: As `regions_of` makes them, in this order. What exceeds `MAX_LEGEND_ROWS` is summed up in one line.
        palette: As for `overlay`.

    Returns:
        RGB, the picture's pixels unchanged at the top, centered where the legend needs more width.
    """
    if palette is None:
        palette = color_palette(max((region.index for region in regions), default=0) + 1)
    # letters in proportion to the picture, smaller where there are many names
    size = min((picture.width * picture.height) ** 0.5 / 30, picture.width / 20) * (1 if len(regions) <= 12 else 0.75)
    size = int(np.clip(round(size), 16, 72))
    width = max(picture.width, 24 * size)
    pad, row_height = size, round(1.7 * size)
    swatch, area_width, score_width = round(1.05 * size), round(4.1 * size), round(2.9 * size)
    small = ImageFont.load_default(round(0.72 * size))

    shown, hidden = list(regions), []
    names_width = max((_font_for(region.label, size).getlength(region.label) for region in shown), default=0)
    has_scores = any(region.score is not None for region in shown)
    numbers_width = area_width + score_width * has_scores
    longest_name = 18 * size if len(shown) <= 12 else 11 * size  # rather cut names than have a column of many rows
    natural = round(swatch + 0.6 * size + min(names_width, longest_name) + numbers_width)
    gap = 2 * size
    num_columns = max(1, min(len(shown), (width - 2 * pad + gap) // (natural + gap)))
    if len(shown) > MAX_LEGEND_ROWS * num_columns:
        shown, hidden = shown[: MAX_LEGEND_ROWS * num_columns], shown[MAX_LEGEND_ROWS * num_columns :]
    num_rows = -(-len(shown) // num_columns)
    num_columns = -(-len(shown) // num_rows) if shown else 1
    column_width = min((width - 2 * pad + gap) // num_columns - gap, natural + 3 * size)

    top = picture.height + round(0.6 * pad)
    rows_top = top + round(1.2 * size)
    height = rows_top + max(num_rows, 1) * row_height + (row_height if hidden else 0) + round(0.6 * pad)
    sheet = Image.new("RGB", (width, height), _PAPER)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)

    if not any(region.index >= 0 for region in shown):
        draw.text((pad, top), "No label was found.", fill=_FAINT_INK, font=small)
    for column in range(num_columns if shown else 0):
        left = pad + column * (column_width + gap)
        right = left + column_width
        if column * num_rows < len(shown):
            draw.text((right - score_width * has_scores, top), "area", fill=_FAINT_INK, font=small, anchor="ra")
            if has_scores:
                draw.text((right, top), "score", fill=_FAINT_INK, font=small, anchor="ra")
        for row, region in enumerate(shown[column * num_rows : (column + 1) * num_rows]):
            middle = rows_top + row * row_height + row_height // 2
            color = NONE_COLOR if region.index < 0 else tuple(palette[region.index].tolist())
            box = (left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch)
            draw.rounded_rectangle(
                box, radius=max(2, size // 5), fill=color, outline=_darker(color), width=max(1, size // 14)
            )
            font = _font_for(region.label, size)
            start = left + swatch + round(0.6 * size)
            name = _fitted(region.label, font, right - numbers_width - start)
            draw.text((start, middle), name, fill=_INK if region.index >= 0 else _FAINT_INK, font=font, anchor="lm")
            numbers = ImageFont.load_default(size)
            draw.text(
                (right - score_width * has_scores, middle), percent(region.area), fill=_INK, font=numbers, anchor="rm"
            )
            if region.score is not None:
                draw.text((right, middle), f"{region.score:.2f}", fill=_INK, font=numbers, anchor="rm")
    if hidden:
        rest = f"+ {len(hidden)} more, {percent(sum(region.area for region in hidden))} together"
        draw.text(
            (pad, rows_top + num_rows * row_height + row_height // 2), rest, fill=_FAINT_INK, font=small, anchor="lm"
        )
    return sheet


def percent(share: float) -> str:
    """0.1234 -> "12.3 %"; what is there never shows as nothing."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _darker(color: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(round(0.7 * value) for value in color)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    fitting = bisect_right(range(1, len(text)), width, key=lambda length: font.getlength(text[:length] + "…"))
    return text[:fitting].rstrip() + "…"


@lru_cache(maxsize=1024)
def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    default = ImageFont.load_default(size)
    if text.isascii() or _can_draw(default, text):
        return default
    for name in _MORE_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _can_draw(font, text):
            return font
    return default


def _can_draw(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = _drawn(font, "\uffff")  # no letter: what the font shows in the place of letters that it lacks
    return all(letter.isspace() or _drawn(font, letter) != missing for letter in set(text))


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


# Files


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
    write_whole(path, buffer.getvalue())


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
    label_map = _checked_map(label_map, num_labels)
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
    write_whole(path, buffer.getvalue())


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
    write_whole(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())


def _checked_map(label_map: np.ndarray, num_labels: int | None = None) -> np.ndarray:
    label_map = np.asarray(label_map)
    if label_map.ndim != 2 or label_map.size == 0 or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(
            f"The label map is {label_map.dtype} of shape {label_map.shape}; expected integers, (height, width). "
            "Pass the map of one image."
        )
    if num_labels is not None and int(label_map.max()) >= num_labels:
        raise ValueError(
            f"The label map holds {int(label_map.max())}, but there are {num_labels} labels, counted from 0."
        )
    return label_map.astype(np.int32, copy=False)
