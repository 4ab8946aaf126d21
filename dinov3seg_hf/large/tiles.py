# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The tiles of a large image: which pixels a tile writes, and which it reads around them."""

from dataclasses import dataclass

from ..model.windows import Box, ceil_div

# Blocks of a TIFF have sides that are multiples of 16 pixels; each tile writes one block.
BLOCK_DIVISOR = 16

# Tiles are planned in memory, a second and some hundred MiB for a million. A damaged file can name any size.
MAX_TILES = 1_000_000


@dataclass(frozen=True)
class Tile:
    """A tile.

    Attributes:
        row, column: The place in the grid of tiles.
        core: The pixels that the tile writes, (top, left, height, width). Each pixel of the image is in one core.
        region: The pixels that the tile reads: the core and, where the image goes on, `overlap` pixels around it.
            Regions have the same size, unless the image is smaller.
    """

    row: int
    column: int
    core: Box
    region: Box

    @property
    def core_in_region(self) -> tuple[slice, slice]:
        """The rows and columns of the core in a map of the region."""
        top, left = self.core[0] - self.region[0], self.core[1] - self.region[1]
        return slice(top, top + self.core[2]), slice(left, left + self.core[3])


def plan_tiles(image_size: tuple[int, int], core_size: int, overlap: int) -> list[Tile]:
    """Plans tiles that cover an image, row by row.

    Labels next to the border of a region know less of their surroundings than others; only the core is kept.

    Args:
        image_size: (height, width) in pixels, each at least 1.
        core_size: Side of a core in pixels, a positive multiple of 16; smaller at the right and bottom border.
        overlap: How many pixels a region has beyond its core, on each side, at least 0.

    Raises:
        ValueError: If a size is invalid, or there are more than a million tiles.
    """
    if core_size < BLOCK_DIVISOR or core_size % BLOCK_DIVISOR or overlap < 0:
        raise ValueError(
            f"The tiles have {core_size} pixels and an overlap of {overlap}; expected a positive multiple of "
            f"{BLOCK_DIVISOR} and an overlap of at least 0."
        )
    height, width = image_size
    if (count := ceil_div(height, core_size) * ceil_div(width, core_size)) > MAX_TILES:
        raise ValueError(
            f"The image is {height} x {width} pixels, which are {count} tiles; expected at most {MAX_TILES}. Choose "
            "larger tiles, or check the size of the image."
        )
    rows, columns = (_axis(length, core_size, overlap) for length in image_size)
    return [
        Tile(row, column, (top, left, height, width), (first_row, first_column, num_rows, num_columns))
        for row, (top, height, first_row, num_rows) in enumerate(rows)
        for column, (left, width, first_column, num_columns) in enumerate(columns)
    ]


def _axis(length: int, core_size: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """(start and length of the core, start and length of the region) of the tiles along one axis."""
    region = min(core_size + 2 * overlap, length)
    return [
        (start, min(core_size, length - start), min(max(start - overlap, 0), length - region), region)
        for start in range(0, length, core_size)
    ]
