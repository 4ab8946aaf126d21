# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Draws scenes of the drawn world: one background and one or more objects. Every pixel has exactly one name as label.

A scene is a pure function of `(seed, split, size)` and the drawing options: it has the same bytes in every process.
Scenes of the split "seen" contain only seen names, including the background; scenes of "unseen" contain only unseen
names. Uses numpy and PIL only.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .names import LABEL_OF, SPLITS, factors_of

MIN_SIZE = 16  # px; shapes and patterns cannot be recognized in smaller scenes

MIN_VISIBLE = 0.35  # minimum visible share of an object's area, after occlusion and the canvas border

_ATTEMPTS = 24  # number of attempts to place an object

_BASE_SIZE = 96  # px; canvas size for the default radius and number of objects

# Colors as HSV ranges (hue in degrees, saturation, value). The gaps between the hues are large enough that the color
# cast and the light (`_photograph`) cannot turn a color into a neighboring color.
_HSV = {
    "red": ((-7.0, 4.0), (0.85, 0.97), (0.78, 0.93)),
    "orange": ((25.0, 32.0), (0.88, 1.00), (0.95, 1.00)),
    "yellow": ((53.0, 59.0), (0.78, 0.95), (0.92, 1.00)),
    "green": ((112.0, 145.0), (0.65, 0.90), (0.52, 0.72)),
    "blue": ((212.0, 230.0), (0.75, 0.95), (0.72, 0.95)),
    "purple": ((278.0, 296.0), (0.60, 0.85), (0.58, 0.78)),
    "white": ((0.0, 360.0), (0.00, 0.03), (0.93, 1.00)),
    "black": ((0.0, 360.0), (0.00, 0.20), (0.03, 0.11)),
}

# Gray levels that the second tone of a pattern is mixed towards; only levels that give a visible difference. Yellow and
# white are too light to be lightened; blue, purple and black are too dark to be darkened.
_TOWARDS = {
    "red": (0.0, 1.0),
    "orange": (0.0, 1.0),
    "yellow": (0.05,),
    "green": (0.0, 1.0),
    "blue": (1.0,),
    "purple": (1.0,),
    "white": (0.12,),
    "black": (0.88,),
}


@dataclass(frozen=True)
class SceneObject:
    """One drawn object.

    Attributes:
        name: Full name of the object, one of `NAMES`.
        label: Index of the name in `NAMES`.
        center: (y, x) in pixels.
        radius: Nominal radius of the shape in pixels (for a circle, the exact radius).
        rotation: Rotation in degrees, clockwise in the image.
        visible: Share of the area of the shape that is inside the canvas and not covered.
    """

    name: str
    label: int
    center: tuple[float, float]
    radius: float
    rotation: float
    visible: float


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: sRGB image, uint8 `(H, W, 3)`.
        labels: Label map, int16 `(H, W)`: an index into `NAMES` for every pixel.
        background: Name of the background.
        objects: The objects, from bottom to top.
    """

    image: np.ndarray
    labels: np.ndarray
    background: str
    objects: tuple[SceneObject, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The distinct names in the scene; the first name is the background."""
        return tuple(dict.fromkeys([self.background, *(item.name for item in self.objects)]))


def draw_scene(
    seed: int,
    split: str = "seen",
    size: int | tuple[int, int] = _BASE_SIZE,
    num_objects: tuple[int, int] | None = None,
    radius: tuple[float, float] = (17.0, 32.0),
) -> Scene:
    """Draws one scene.

    Consecutive seeds use every object name of the split once as the first object of a scene before a name is repeated.

    Args:
        seed: Integer >= 0.
        split: The names that may occur: `"seen"`, `"unseen"` or `"all"`.
        size: Size in pixels: an int for a square, or (height, width), each at least `MIN_SIZE`.
        num_objects: Minimum and maximum number of objects. `None`: (1, 3) on 96 x 96 pixels, more on a larger canvas in
            proportion to its area. An object is skipped if no position is found at which all objects stay visible; the
            first object is never skipped.
        radius: Minimum and maximum radius in pixels; limited to 0.45 times the shorter side of the canvas.

    Raises:
        ValueError: If an argument is out of range.
    """
    height, width = _checked_size(size)
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}. Use 'all' for all names.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected an integer >= 0. Use one integer per scene.")
    if num_objects is None:
        scale = max(1, round(height * width / _BASE_SIZE**2))
        num_objects = (scale, 3 * scale)
    if len(num_objects) != 2 or not 1 <= num_objects[0] <= num_objects[1]:
        raise ValueError(f"num_objects is {num_objects!r}; expected (minimum, maximum) with 1 <= minimum <= maximum.")
    if len(radius) != 2 or not 4 <= radius[0] <= radius[1]:
        raise ValueError(f"radius is {radius!r}; expected (minimum, maximum) in pixels with 4 <= minimum <= maximum.")

    largest = min(radius[1], 0.45 * min(height, width))
    radius = (min(radius[0], largest), largest)
    rng = _generator(int(seed), list(SPLITS).index(split), height, width)

    first = _first_object(int(seed), split)
    background = _choose_background(rng, split, factors_of(first)[0])
    placed, owner = _place_objects(rng, split, first, background, (height, width), num_objects, radius)

    canvas = _paint_background(rng, background, height, width)
    for item in placed:
        _paint_object(rng, canvas, item)
    labels = np.array([LABEL_OF[background], *(LABEL_OF[item.name] for item in placed)], np.int16)[owner]
    objects = tuple(
        SceneObject(
            name=item.name,
            label=LABEL_OF[item.name],
            center=(item.y, item.x),
            radius=item.radius,
            rotation=math.degrees(item.angle),
            visible=min(1.0, item.visible_pixels / item.area),
        )
        for item in placed
    )
    return Scene(_photograph(rng, canvas), labels, background, objects)


def batch(
    seeds: Iterable[int], split: str = "seen", size: int | tuple[int, int] = _BASE_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one scene per seed, all of one size: N images, uint8 `(N, H, W, 3)`, and label maps, int16 `(N, H, W)`."""
    height, width = _checked_size(size)
    seeds = list(seeds)
    images = np.empty((len(seeds), height, width, 3), np.uint8)
    labels = np.empty((len(seeds), height, width), np.int16)
    for index, seed in enumerate(seeds):
        scene = draw_scene(seed, split, (height, width))
        images[index], labels[index] = scene.image, scene.labels
    return images, labels


def contact_sheet(scenes: Sequence[Scene], columns: int = 6, scale: int = 2, captions: bool = False) -> Image.Image:
    """Arranges scenes in rows of `columns`, enlarged by the integer `scale`; `captions` adds the names below.

    Raises:
        ValueError: If `scenes` is empty, or `columns` or `scale` is less than 1.
    """
    if not scenes or columns < 1 or scale < 1:
        raise ValueError(
            f"The number of scenes is {len(scenes)}, columns is {columns} and scale is {scale}; expected at least 1 "
            "for each."
        )
    gap, line = 4, 12
    cell_h = scale * max(scene.image.shape[0] for scene in scenes)
    cell_w = scale * max(scene.image.shape[1] for scene in scenes)
    caption_h = line * max(1 + len(scene.objects) for scene in scenes) if captions else 0
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * (cell_w + gap) + gap, rows * (cell_h + caption_h + gap) + gap), (128, 128, 128))
    draw = ImageDraw.Draw(sheet)
    for index, scene in enumerate(scenes):
        left = gap + index % columns * (cell_w + gap)
        top = gap + index // columns * (cell_h + caption_h + gap)
        height, width = scene.labels.shape
        tile = Image.fromarray(scene.image).resize((scale * width, scale * height), Image.Resampling.NEAREST)
        sheet.paste(tile, (left, top))
        if captions:
            for row, name in enumerate([scene.background, *(item.name for item in scene.objects)]):
                draw.text((left, top + cell_h + row * line), name, fill=(255, 255, 255))
    return sheet


# Choice and placement of objects


class _Placed:
    """An object, its position and its signed distances, cropped to the part of its bounding box inside the canvas."""

    def __init__(self, name: str, y: float, x: float, radius: float, angle: float, height: int, width: int):
        self.name, self.y, self.x, self.radius, self.angle = name, y, x, radius, angle
        self.color, self.pattern, self.shape = factors_of(name)
        self.area = _AREA[self.shape] * radius * radius
        self.visible_pixels = 0
        reach = _REACH[self.shape] * radius + _SHADOW_REACH
        self.top, self.bottom = max(0, int(y - reach)), min(height, int(y + reach) + 2)
        self.left, self.right = max(0, int(x - reach)), min(width, int(x + reach) + 2)
        self.u, self.v = self.local(0.0, 0.0)
        self.distance = _DISTANCE[self.shape](self.u, self.v, radius)

    @property
    def box(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def local(self, shift_y: float, shift_x: float) -> tuple[np.ndarray, np.ndarray]:
        """The pixel centers of the box in the rotated axes of the object; the origin is its center plus the shift."""
        dy = np.arange(self.top, self.bottom, dtype=np.float32) + np.float32(0.5 - self.y - shift_y)
        dx = np.arange(self.left, self.right, dtype=np.float32) + np.float32(0.5 - self.x - shift_x)
        return _rotated(dy, dx, self.angle)


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


@functools.cache
def _names_of(split: str, background: bool) -> tuple[str, ...]:
    return tuple(name for name in SPLITS[split] if name.endswith(" background") == background)


@functools.lru_cache(maxsize=64)
def _name_order(split: str, turn: int) -> np.ndarray:
    return _generator(turn, list(SPLITS).index(split)).permutation(len(_names_of(split, background=False)))


def _first_object(seed: int, split: str) -> str:
    # A shuffled pass over all names for each len(names) consecutive seeds: a few hundred scenes then contain every name
    # several times. Independent draws would not ensure this.
    names = _names_of(split, background=False)
    turn, position = divmod(seed, len(names))
    return names[_name_order(split, turn)[position]]


def _choose_background(rng: np.random.Generator, split: str, object_color: str) -> str:
    names = _names_of(split, background=True)
    while True:
        name = names[int(rng.integers(len(names)))]
        if factors_of(name)[0] != object_color:
            return name


def _choose_object(rng: np.random.Generator, split: str, background_color: str) -> str:
    names = _names_of(split, background=False)
    while True:
        name = names[int(rng.integers(len(names)))]
        if factors_of(name)[0] != background_color:
            return name


def _place_objects(
    rng: np.random.Generator,
    split: str,
    first: str,
    background: str,
    size: tuple[int, int],
    num_objects: tuple[int, int],
    radius: tuple[float, float],
) -> tuple[list[_Placed], np.ndarray]:
    """The objects from bottom to top, and the owner map `(H, W)`: 0 is the background, i + 1 is object i."""
    height, width = size
    owner = np.zeros(size, np.intp)
    placed: list[_Placed] = []
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    background_color = factors_of(background)[0]
    for index in range(count):
        name = first if index == 0 else _choose_object(rng, split, background_color)
        for attempt in range(_ATTEMPTS):
            # On a crowded canvas, first try other positions, then smaller radii.
            room = 1.0 if attempt < 4 else 1.0 - attempt / _ATTEMPTS
            high = radius[0] + (radius[1] - radius[0]) * room
            r = float(rng.uniform(radius[0], high))
            margin = 0.75 * r
            y, x = float(rng.uniform(margin, height - margin)), float(rng.uniform(margin, width - margin))
            if not all(_apart(name, y, x, r, other) for other in placed):
                continue
            angle = math.radians(float(rng.uniform(-30.0, 30.0)))
            item = _Placed(name, y, x, r, angle, height, width)
            if _cover(owner, placed, item):
                placed.append(item)
                break
    return placed, owner


def _apart(name: str, y: float, x: float, radius: float, other: _Placed) -> bool:
    distance = math.hypot(y - other.y, x - other.x)
    color, _, shape = factors_of(name)
    if color == other.color:  # regions of one color must not touch, because the border would be invisible
        return distance > _REACH[shape] * radius + _REACH[other.shape] * other.radius + 3.0
    return distance > 0.62 * (radius + other.radius)


def _cover(owner: np.ndarray, placed: list[_Placed], item: _Placed) -> bool:
    """Adds an object on top of the owner map and returns `True`, unless too little of an object would stay visible."""
    inside = item.distance < 0.0  # the same pixels as alpha > 0.5
    item.visible_pixels = int(np.count_nonzero(inside))
    if item.visible_pixels < MIN_VISIBLE * item.area:
        return False
    region = owner[item.box]
    covered = np.bincount(region[inside], minlength=len(placed) + 1)[1:]
    left = [other.visible_pixels - int(lost) for other, lost in zip(placed, covered, strict=True)]
    if any(pixels < MIN_VISIBLE * other.area for pixels, other in zip(left, placed, strict=True)):
        return False
    for other, pixels in zip(placed, left, strict=True):
        other.visible_pixels = pixels
    region[inside] = len(placed) + 1
    return True


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"size is {size!r}; expected at least {MIN_SIZE} pixels in height and width. Draw a larger scene and crop "
            "it."
        )
    return int(height), int(width)


# Shapes: signed distances in pixels, negative inside

# Sizes in units of the radius, chosen so that all five shapes appear about equally large.
_SQUARE_HALF, _TRIANGLE_OUTER, _STAR_OUTER, _STAR_INNER, _CROSS_ARM, _CROSS_HALF = 0.86, 1.22, 1.20, 0.52, 1.06, 0.35

_SHADOW_REACH = 6.0  # px around the bounding box of the shape


def _circle(u: np.ndarray, v: np.ndarray, r: float) -> np.ndarray:
    return np.sqrt(u * u + v * v) - np.float32(r)


def _square(u: np.ndarray, v: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(_SQUARE_HALF * r)


def _triangle(u: np.ndarray, v: np.ndarray, r: float) -> np.ndarray:
    # Intersection of three half planes at the inner radius, with one corner up; the origin is the centroid.
    sides = np.maximum(v, np.abs(u) * np.float32(math.sqrt(0.75)) - v * np.float32(0.5))
    return sides - np.float32(_TRIANGLE_OUTER * r / 2)


def _star(u: np.ndarray, v: np.ndarray, r: float) -> np.ndarray:
    # Reflections at the symmetry axes of the pentagon, tip up, fold the plane into one half sector between a tip (outer
    # corner) and a notch (inner corner). Only the distance to the edge between tip and notch remains.
    u, w = np.abs(u), -v
    for cos, sin in ((math.cos(math.pi / 5), math.sin(math.pi / 5)), (-math.cos(math.pi / 5), math.sin(math.pi / 5))):
        beyond = np.maximum(u * np.float32(cos) - w * np.float32(sin), 0.0) * np.float32(2.0)
        u, w = u - beyond * np.float32(cos), w + beyond * np.float32(sin)
    u = np.abs(u)
    inner_u, inner_w = _STAR_INNER * r * math.sin(math.pi / 5), _STAR_INNER * r * math.cos(math.pi / 5)
    edge_u, edge_w = inner_u, inner_w - _STAR_OUTER * r  # from the tip (0, outer) to the notch
    length = math.hypot(edge_u, edge_w)
    return (u * np.float32(-edge_w) + (w - np.float32(_STAR_OUTER * r)) * np.float32(edge_u)) / np.float32(length)


def _cross(u: np.ndarray, v: np.ndarray, r: float) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    arm = np.maximum(np.maximum(u, v) - np.float32(_CROSS_ARM * r), np.minimum(u, v) - np.float32(_CROSS_HALF * r))
    return arm


_DISTANCE = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross}

# Largest distance from the center, and area, for radius 1.
_REACH = {
    "circle": 1.0,
    "square": _SQUARE_HALF * math.sqrt(2),
    "triangle": _TRIANGLE_OUTER,
    "star": _STAR_OUTER,
    "cross": math.hypot(_CROSS_ARM, _CROSS_HALF),
}

_AREA = {
    "circle": math.pi,
    "square": 4 * _SQUARE_HALF**2,
    "triangle": 0.75 * math.sqrt(3) * _TRIANGLE_OUTER**2,
    "star": 5 * _STAR_OUTER * _STAR_INNER * math.sin(math.pi / 5),
    "cross": 8 * _CROSS_ARM * _CROSS_HALF - 4 * _CROSS_HALF**2,
}

# Color, pattern, light. A canvas is float32 (3, H, W) in 0..1, because numpy is slow along a last axis of size 3.


def _rotated(dy: np.ndarray, dx: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Converts row offsets `(h,)` and column offsets `(w,)` to coordinates u and v, `(h, w)`, rotated by `angle`."""
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return (dx * cos)[None, :] + (dy * sin)[:, None], (dy * cos)[:, None] - (dx * sin)[None, :]


def _rgb(rng: np.random.Generator, color: str) -> np.ndarray:
    hue, saturation, value = (float(rng.uniform(*bounds)) for bounds in _HSV[color])
    sector = np.array([5.0, 3.0, 1.0]) + hue / 60.0
    ramp = np.mod(sector, 6.0)
    return (value - value * saturation * np.clip(np.minimum(ramp, 4.0 - ramp), 0.0, 1.0)).astype(np.float32)


def _tones(rng: np.random.Generator, color: str) -> tuple[np.ndarray, np.ndarray]:
    """The named color and the second tone of the pattern, each `(3, 1, 1)`."""
    base = _rgb(rng, color)
    towards = _TOWARDS[color]
    gray = np.float32(towards[int(rng.integers(len(towards)))])
    second = base + (gray - base) * np.float32(rng.uniform(0.5, 0.65))
    return base[:, None, None], second[:, None, None]


def _pattern(rng: np.random.Generator, pattern: str, u: np.ndarray, v: np.ndarray) -> np.ndarray | None:
    """The share of the second tone at each pixel, 0..1, with soft edges and a mean below 0.5; `None` for plain."""
    if pattern == "plain":
        return None
    if pattern == "striped":
        period = float(rng.uniform(7.0, 10.0))
        half = float(rng.uniform(0.36, 0.44)) * period / 2
        distance = _triangle_wave(u, period, rng)
    elif pattern == "dotted":
        spacing = float(rng.uniform(8.0, 11.0))
        half = float(rng.uniform(0.29, 0.33)) * spacing
        du, dv = _triangle_wave(u, spacing, rng), _triangle_wave(v, spacing, rng)
        distance = np.sqrt(du * du + dv * dv)
    else:
        cell = float(rng.uniform(5.0, 7.0))
        half = 0.47 * cell  # a little less than half a cell, so the named color has the larger area
        du, dv = _triangle_wave(u, 2 * cell, rng), _triangle_wave(v, 2 * cell, rng)
        far = np.float32(cell)
        distance = np.minimum(np.maximum(du, dv), np.maximum(far - du, far - dv))
    return np.clip(np.float32(half + 0.5) - distance, 0.0, 1.0)


def _triangle_wave(x: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    """The distance in pixels to the nearest of the points at intervals of `period`, with a random phase."""
    scaled = x * np.float32(1 / period) + np.float32(rng.uniform())
    return np.abs(scaled - np.rint(scaled)) * np.float32(period)


def _fill(rng: np.random.Generator, color: str, pattern: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The color and pattern at the coordinates: `(3, h, w)`, or `(3, 1, 1)` for plain."""
    base, second = _tones(rng, color)
    # Stripes may have any direction; dots and checkers repeat after a quarter turn.
    turn = float(rng.uniform(0.0, math.pi if pattern == "striped" else math.pi / 2))
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    share = None if pattern == "plain" else _pattern(rng, pattern, u * cos + v * sin, v * cos - u * sin)
    return base if share is None else base + share * (second - base)


def _paint_background(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    color, pattern, _ = factors_of(name)
    u, v = _rotated(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), 0.0)
    coarse = rng.standard_normal((height // 24 + 3, width // 24 + 3), np.float32)
    cloud = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    amount = float(rng.uniform(0.015, 0.04))
    # The cloud is multiplied and added, so that black also gets a texture.
    canvas = _fill(rng, color, pattern, u, v) * (1 + np.float32(amount) * cloud) + np.float32(0.25 * amount) * cloud
    return np.ascontiguousarray(canvas, np.float32)


def _paint_object(rng: np.random.Generator, canvas: np.ndarray, item: _Placed) -> None:
    region = canvas[(slice(None), *item.box)]
    if rng.uniform() < 0.3:
        u, v = item.local(*(float(shift) for shift in rng.uniform(-3.0, 3.0, 2)))
        shadow = np.clip(0.5 - _DISTANCE[item.shape](u, v, item.radius) * np.float32(0.25), 0.0, 1.0)
        region *= 1 - np.float32(rng.uniform(0.15, 0.35)) * shadow
    alpha = np.clip(0.5 - item.distance, 0.0, 1.0)
    fill = _fill(rng, item.color, item.pattern, item.u, item.v)
    if rng.uniform() < 0.3:
        gray = np.float32(0.05 if rng.uniform() < 0.5 else 0.95)
        thickness = np.float32(rng.uniform(0.8, 1.5))
        line = np.clip(item.distance + thickness + 0.5, 0.0, 1.0) * np.float32(rng.uniform(0.5, 0.8))
        fill = fill + line * (gray - fill)
    region += alpha * (fill - region)


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Applies light, color cast, blur and sensor noise to float `(3, H, W)`; returns uint8 `(H, W, 3)`."""
    _, height, width = canvas.shape
    gain = float(rng.uniform(0.84, 1.1))
    slope_y, slope_x = (float(slope) for slope in rng.uniform(-0.12, 0.12, 2))
    y = np.linspace(-slope_y, slope_y, height, dtype=np.float32)
    x = np.linspace(-slope_x, slope_x, width, dtype=np.float32)
    cast = rng.uniform(0.96, 1.04, (3, 1, 1)).astype(np.float32)
    image = canvas * (np.float32(255 * gain) * cast) * (1 + y[:, None] + x[None, :])
    if rng.uniform() < 0.5:
        sharp = Image.fromarray(_to_bytes(image))
        blurred = sharp.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
        image = np.asarray(blurred, np.float32).transpose(2, 0, 1)
    sigma = float(rng.uniform(0.0, 6.0))
    return _to_bytes(image + np.float32(sigma) * rng.standard_normal(image.shape, np.float32))


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.clip(image + np.float32(0.5), 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0))
