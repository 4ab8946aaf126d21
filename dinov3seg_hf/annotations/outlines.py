# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Outlines of masks as polygons along the edges of pixels, and as one ring for formats without holes.

Coordinates are (x, y) in pixels; the pixel in row i and column j covers the square from (j, i) to (j + 1, i + 1), so an
outline that is not simplified encloses exactly the pixels of its mask.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from shapely import Polygon


def outline(mask: np.ndarray, tolerance: float = 0.0) -> "Polygon":
    """Returns the outline of a mask as a polygon with holes.

    Args:
        mask: bool `(H, W)`, one part: its pixels are connected by their sides.
        tolerance: Largest distance in pixels between the outline and the simplified outline (Douglas-Peucker). 0: only
            corners, no simplification.

    Returns:
        A valid polygon; holes that meet the outline in a corner are holes, too.
    """
    from shapely import Polygon

    # A part is connected by sides, so the first ring, with the topmost corner, is its outer one.
    outer, *holes = rings_of(mask)
    return simplified(Polygon(outer, holes), tolerance)


def simplified(exact: "Polygon", tolerance: float) -> "Polygon":
    """Returns a polygon with fewer corners, or the same one if there is no valid one so near.

    Args:
        exact: A valid polygon along the edges of pixels.
        tolerance: See `outline`.
    """
    from shapely import Polygon

    if tolerance <= 0:
        return exact
    # Shapely may move the beginning of a ring farther than it was told, and rings that touch can cross.
    for share in (1, 0.5, 0.25):
        simple = exact.simplify(share * tolerance, preserve_topology=True)
        if (
            isinstance(simple, Polygon)
            and simple.is_valid
            and simple.area > 0
            and _largest_distance(exact, simple) <= tolerance
        ):
            return simple
    return exact


def _largest_distance(exact: "Polygon", simple: "Polygon") -> float:
    """Returns how far a corner of the exact outline is from the line that replaces it, in pixels."""
    if len(exact.interiors) != len(simple.interiors):
        return float("inf")
    largest = 0.0
    for before, after in zip((exact.exterior, *exact.interiors), (simple.exterior, *simple.interiors)):
        corners, kept = (np.asarray(ring.coords)[:-1] for ring in (before, after))
        if len(corners) == len(kept):
            continue
        place_of = {corner: place for place, corner in enumerate(map(tuple, corners.tolist()))}
        places = np.array([place_of[corner] for corner in map(tuple, kept.tolist())])
        first = int(places.argmin())
        kept, places = np.roll(kept, -first, axis=0), np.roll(places, -first)
        # the corners from one that is kept to the next one
        corners = np.roll(corners, -places[0], axis=0)
        line = np.searchsorted(places - places[0], np.arange(len(corners)), side="right") - 1
        start, step = kept[line], (np.roll(kept, -1, axis=0) - kept)[line]
        along = ((corners - start) * step).sum(axis=1) / (step**2).sum(axis=1)
        nearest = start + np.clip(along, 0, 1)[:, None] * step
        largest = max(largest, float(np.hypot(*(corners - nearest).T).max()))
    return largest


def rings_of(mask: np.ndarray) -> list[np.ndarray]:
    """Returns the closed lines between pixels inside and outside of a mask, as corners.

    At a corner where two pixels of the mask touch diagonally, the lines are linked as if these pixels were connected.
    In a mask that is connected by sides, no line then visits a corner twice: two visits would mean that the two pixels
    are connected only there.

    Args:
        mask: bool `(H, W)`, not empty.

    Returns:
        For each line, int64 `(N, 2)`, (x, y), without a repeated end. A line begins at its topmost corner, the leftmost
        of them, and goes right; the line of the topmost corner of all is the first.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    top_left, top_right = padded[:-1, :-1], padded[:-1, 1:]
    bottom_left, bottom_right = padded[1:, :-1], padded[1:, 1:]
    falling = (top_left & bottom_right & ~(top_right | bottom_left)).astype(bool)
    rising = (top_right & bottom_left & ~(top_left | bottom_right)).astype(bool)
    odd = ((top_left + top_right + bottom_left + bottom_right) % 2).astype(bool)

    # Each corner is the end of one horizontal and one vertical line; where two pixels touch, there are two corners.
    # They are listed from left to right, so two neighbors in a row share a horizontal line.
    copies = odd.astype(np.int8) + 2 * (falling | rising)
    rows, columns = np.nonzero(copies)
    counts = copies[rows, columns]
    rows, columns = np.repeat(rows, counts), np.repeat(columns, counts)
    along_row = np.arange(len(rows)) ^ 1

    # The left copy of a falling pair belongs to the line below, and the left copy of a rising pair to the line above.
    is_double = (falling | rising)[rows, columns]
    is_right = np.zeros(len(rows), bool)
    is_right[1:] = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])
    is_lower = is_double & (is_right == rising[rows, columns])
    order = np.lexsort((is_lower, rows, columns))
    along_column = np.empty_like(along_row)
    along_column[order[0::2]], along_column[order[1::2]] = order[1::2], order[0::2]
    return _linked(np.stack([columns, rows], axis=1), along_row.tolist(), along_column.tolist())


def _linked(corners: np.ndarray, along_row: list[int], along_column: list[int]) -> list[np.ndarray]:
    rings = []
    waiting = bytearray(b"\x01") * len(corners)
    for start in range(len(corners)):
        if not waiting[start]:
            continue
        ring, here = [], start
        while True:
            there = along_row[here]
            ring += [here, there]
            waiting[here] = waiting[there] = 0
            here = along_column[there]
            if here == start:
                break
        rings.append(corners[ring])
    return rings


def single_ring(polygon: "Polygon") -> np.ndarray:
    """Joins the holes of a polygon to its outer ring, with a cut of zero width from each hole to its left.

    Both sides of a cut are the same line, so the ring encloses the same area by the even-odd rule and by the nonzero
    rule.

    Args:
        polygon: A valid polygon.

    Returns:
        float64 `(N, 2)`, (x, y), without a repeated end.
    """
    from shapely.geometry.polygon import orient

    polygon = orient(polygon)  # the outer ring and the holes in opposite directions
    ring = np.asarray(polygon.exterior.coords)[:-1]
    holes = [np.asarray(hole.coords)[:-1] for hole in polygon.interiors]
    # From left to right: what is left of a hole is then part of the ring already.
    for hole in sorted(holes, key=lambda points: points[:, 0].min()):
        first = int(hole[:, 0].argmin())
        hole = np.concatenate([hole[first:], hole[: first + 1]])
        edge, end = _left_of(ring, hole[0])
        ring = np.concatenate([ring[: edge + 1], [end], hole, [end], ring[edge + 1 :]])
    repeated = (ring == np.roll(ring, 1, axis=0)).all(axis=1)
    return ring[~repeated]


def _left_of(ring: np.ndarray, point: np.ndarray) -> tuple[int, np.ndarray]:
    """Returns the edge of the ring that is next to the left of a point, and the place on it at the point's height."""
    start, end = ring, np.roll(ring, -1, axis=0)
    x, y = point
    rise = end[:, 1] - start[:, 1]
    crosses = (np.minimum(start[:, 1], end[:, 1]) <= y) & (np.maximum(start[:, 1], end[:, 1]) >= y) & (rise != 0)
    share = (y - start[:, 1]) / np.where(rise == 0, 1, rise)
    place = start[:, 0] + share * (end[:, 0] - start[:, 0])
    # at the end of an edge, its own coordinates: no rounding, so no needless points
    place = np.where(share == 1, end[:, 0], place)
    place = np.where(crosses & (place <= x + 1e-9), place, -np.inf)
    edge = int(place.argmax())
    return edge, np.array([min(place[edge], x), y])
