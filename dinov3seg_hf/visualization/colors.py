# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The colors of pictures: a palette that is also distinct for color-blind people, and the colors of text and paper."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..model.checks import quoted

NONE_COLOR = (158, 158, 162)

# The choice of each farthest color takes time. Further colors are different, but not the farthest.
MAX_FARTHEST_COLORS = 1024

# The colors that names mention, in sRGB.
NAMED_COLORS = {
    "red": (220, 38, 38),
    "orange": (245, 140, 20),
    "yellow": (240, 215, 30),
    "green": (40, 160, 70),
    "blue": (40, 100, 220),
    "purple": (140, 70, 190),
    "pink": (240, 130, 180),
    "brown": (130, 84, 46),
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
    "grey": (128, 128, 128),
    "black": (30, 30, 30),
}
# Labels that mention the same color get shades of it: mixtures with white or black, by turns, in these shares.
SHADES = (0.0, 0.25, 0.4, 0.55)
# Smallest distance (sum over the channels) between a color that a name mentions and the color of another label.
MIN_DISTANCE = 90

INK, FAINT_INK, PAPER = (28, 28, 30), (112, 112, 118), (255, 255, 255)

# Linear RGB as perceived without L cones and without M cones (Machado, Oliveira, Fernandes 2009, severity 1).
_PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))

_DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))


def color_palette(num_colors: int) -> np.ndarray:
    """Returns distinct colors. The colors are always the same; a shorter palette is the beginning of a longer palette.

    Each color is the color farthest from all previous colors. The distance is the sum of two distances in Oklab: for
    normal color vision, and for the worse of protanopia and deuteranopia. Colors close to gray, white or black and
    fully saturated colors are excluded.

    Args:
        num_colors: Number of colors, at least 0.

    Returns:
        uint8 `(num_colors, 3)`, sRGB.
    """
    if num_colors <= MAX_FARTHEST_COLORS:
        # powers of two, so that only a few palettes are computed
        return _farthest_colors(1 << max(num_colors - 1, 31).bit_length())[:num_colors].copy()
    colors = np.concatenate([_farthest_colors(MAX_FARTHEST_COLORS), _more_colors()])
    return np.resize(colors, (num_colors, 3))


def checked_palette(palette: Any, num_colors: int = 0) -> np.ndarray:
    """Returns a palette as uint8 `(C, 3)`.

    Raises:
        ValueError: If it is no list of colors, each with three integers from 0 to 255, or has less than `num_colors`.
    """
    try:
        colors = np.asarray(palette)
    except (ValueError, TypeError, RuntimeError, RecursionError):
        colors = np.zeros(())
    if (
        colors.ndim != 2
        or colors.shape[1] != 3
        or colors.dtype.kind not in "iu"
        or np.any((colors < 0) | (colors > 255))
    ):
        raise ValueError(
            f"The palette is {quoted(palette)}; expected colors of three integers from 0 to 255, of shape (C, 3). Pass "
            "colors of sRGB."
        )
    if len(colors) < num_colors:
        raise ValueError(
            f"The palette has {len(colors)} colors; expected at least {num_colors}. Pass a longer palette."
        )
    return colors.astype(np.uint8)


def label_palette(names: Sequence[str], kept: Mapping[str, tuple[int, ...]] | None = None) -> np.ndarray:
    """Returns a color for each label: the color that its name mentions, if it mentions exactly one ("red circle").

    Labels that mention the same color get shades of it, as far as there are shades. All others get colors of
    `color_palette`, without those that look like a mentioned color.

    Args:
        names: The names of the labels.
        kept: Colors, sRGB, of names that keep them, for example while other labels are added. Others are chosen around
            them.

    Returns:
        uint8 `(len(names), 3)`, sRGB.
    """
    kept = kept or {}
    colors = np.array([kept.get(name, (0, 0, 0)) for name in names], np.int64).reshape(-1, 3)
    used = {tuple(color) for color in kept.values()}
    mentioned: list[Any] = []
    rest = []
    for label, name in enumerate(names):
        color = _mentioned_color(name)
        shades = [] if color is None else _shades_of(color)
        shade = next((shade for shade in shades if tuple(shade) not in used), None)
        if name in kept:
            mentioned += [] if color is None else [colors[label]]
        elif shade is None:
            rest.append(label)
        else:
            colors[label] = shade
            used.add(tuple(shade))
            mentioned.append(shade)
    # a mentioned color excludes few of the palette's colors, so this suffices nearly always
    candidates = color_palette(2 * len(names) + 32).astype(np.int64)
    candidates = candidates[[tuple(color) not in used for color in candidates.tolist()]]
    away = np.asarray(mentioned, np.int64).reshape(-1, 3)
    distance = np.abs(candidates[:, None] - away[None]).sum(axis=-1).min(axis=1, initial=3 * 255)
    order = np.argsort(distance < MIN_DISTANCE, kind="stable")  # colors that look like a mentioned one come last
    colors[rest] = candidates[order[: len(rest)]]
    return colors.astype(np.uint8)


def _mentioned_color(name: str) -> tuple[int, int, int] | None:
    """Returns the color that a name mentions; `None` if it mentions none or several."""
    found = {NAMED_COLORS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in NAMED_COLORS}
    return found.pop() if len(found) == 1 else None


def _shades_of(color: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Returns a color and its shades. White is only darkened and black only lightened."""
    toward = [value for value in (255, 0) if abs(np.mean(color) - value) > 64]
    mixed = [
        tuple(int(channel * (1 - share) + value * share) for channel in color) for share in SHADES for value in toward
    ]
    return mixed[len(toward) - 1 :]  # the share 0 gives the color itself for each of them


@lru_cache(maxsize=8)
def _farthest_colors(num_colors: int) -> np.ndarray:
    candidates, seen = _usable_colors(step=15)
    first = int(
        np.argmin(np.abs(candidates - np.array([0, 120, 225])).sum(axis=1))
    )  # a blue that is visible to color-blind people
    chosen = [first]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < num_colors:
        usual, *others = np.linalg.norm(seen - seen[:, chosen[-1] : chosen[-1] + 1], axis=2)
        distance = np.minimum(distance, usual + np.minimum(*others))
        chosen.append(int(distance.argmax()))
    return candidates[chosen].astype(np.uint8)


@lru_cache(maxsize=1)
def _more_colors() -> np.ndarray:
    """Returns further colors in random order. There are too many for visible differences between all of them."""
    candidates, _ = _usable_colors(step=4)
    farthest = {tuple(color) for color in _farthest_colors(MAX_FARTHEST_COLORS).tolist()}
    candidates = candidates[[tuple(color) not in farthest for color in candidates.tolist()]]
    return np.random.default_rng(0).permutation(candidates).astype(np.uint8)


def _usable_colors(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns candidate colors, sRGB `(N, 3)`, and the colors as perceived, Oklab `(3, N, 3)`; see `_as_seen`."""
    levels = np.arange(20, 246, step)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = _as_seen(colors)
    lightness, chroma = seen[0, :, 0], np.hypot(seen[0, :, 1], seen[0, :, 2])
    usable = (lightness > 0.42) & (lightness < 0.92) & (chroma > 0.09)
    return colors[usable], seen[:, usable]


def _as_seen(colors: np.ndarray) -> np.ndarray:
    """Converts sRGB `(N, 3)` to Oklab `(3, N, 3)`: normal vision, protanopia, deuteranopia."""
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
