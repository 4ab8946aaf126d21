# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Attention in plain and shifted windows (Swin, arXiv 2103.14030) on maps of any size.

Swin pads a map to whole windows, rolls it for shifted windows, and masks what does not belong together. A window that
the border of the map cuts is then a full one, mostly of padding. Here, `attend_in_windows` cuts the map into the
rectangles in which positions see each other, with neither padding, roll nor mask: for 40 x 40 patches and windows of
12 x 12, 69 % of the positions. The number of rectangles depends on the size of the map, which a graph for all sizes
cannot express; `attend_in_padded_windows` is the same for `torch.compile` and `torch.export`.

Shapes: N maps of h x w positions, E channels, d channels per head, L positions of a window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .windows import ceil_div

Shift = tuple[Any, Any]  # of rows and columns, each a number or a tensor `(1,)`

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
PositionBias = Callable[[int, int], torch.Tensor]


@dataclass(frozen=True)
class WindowRun:
    """Windows of equal length, one after the other along an axis."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        """The first position after the windows."""
        return self.start + self.count * self.length


def window_runs(length: int, size: int, shifted: bool) -> list[WindowRun]:
    """Cuts an axis into windows of `size`; those at the ends of the axis can be smaller.

    Shifted windows begin half a window later. An axis that fits into one window is not shifted: the shift would only
    cut it in two (Swin does the same).
    """
    if length <= size:
        return [WindowRun(0, 1, length)]
    first = WindowRun(0, 1, size // 2 if shifted else 0)
    middle = WindowRun(first.stop, (length - first.stop) // size, size)
    last = WindowRun(middle.stop, 1, length - middle.stop)
    return [run for run in (first, middle, last) if run.stop > run.start]


def attend_in_windows(
    attend: Attend,
    position_bias: PositionBias,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    size: int,
    shifted: bool,
) -> torch.Tensor:
    """Computes the attention of each position over the positions of its window.

    Args:
        attend: Attention of query, key and value `(n, heads, L, d)` with a bias `(1, heads, L, L)`; returns `(n, L,
            heads, d)`.
        position_bias: Returns the bias `(heads, L, L)` of a window of some rows and columns.
        query: `(N, h, w, E)`.
        key: `(N, h, w, E)`.
        value: `(N, h, w, E)`.
        size: The side of a window.
        shifted: Whether the windows are shifted.

    Returns:
        `(N, h, w, E)`.
    """
    height, width = value.shape[1:3]
    bands = []
    for rows in window_runs(height, size, shifted):
        parts = []
        for columns in window_runs(width, size, shifted):
            bias = position_bias(rows.length, columns.length)
            cut = [_cut_windows(states, rows, columns, len(bias)) for states in (query, key, value)]
            attended = attend(cut[0], cut[1], cut[2], bias[None].to(query.dtype))
            parts.append(_join_windows(attended, rows, columns))
        bands.append(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=1)


def _cut_windows(states: torch.Tensor, rows: WindowRun, columns: WindowRun, num_heads: int) -> torch.Tensor:
    """`(N, h, w, E)` -> `(N windows, heads, L, d)`."""
    states = states[:, rows.start : rows.stop, columns.start : columns.stop]
    states = states.reshape(-1, rows.count, rows.length, columns.count, columns.length, states.shape[-1])
    states = states.transpose(2, 3).reshape(-1, rows.length * columns.length, num_heads, states.shape[-1] // num_heads)
    return states.transpose(1, 2)


def _join_windows(attended: torch.Tensor, rows: WindowRun, columns: WindowRun) -> torch.Tensor:
    """`(N windows, L, heads, d)` -> `(N, rows, columns, E)`."""
    attended = attended.reshape(-1, rows.count, columns.count, rows.length, columns.length, attended[0, 0].numel())
    return attended.transpose(2, 3).reshape(
        -1, rows.stop - rows.start, columns.stop - columns.start, attended.shape[-1]
    )


def attend_in_padded_windows(
    attend: Attend,
    position_bias: PositionBias,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    size: int,
    shifted: bool,
) -> torch.Tensor:
    """The same as `attend_in_windows` in operations that do not depend on the size of the map."""
    height, width = value.shape[1:3]
    position = position_bias(size, size)
    heads = len(position)
    grid = (ceil_div(height, size), ceil_div(width, size))
    padded = (grid[0] * size, grid[1] * size)
    shift: Shift = (0, 0)
    if shifted:
        shift = (_shift_of(grid[0], size, value.device), _shift_of(grid[1], size, value.device))
    rows, columns = (_rolled(length, length, step, value.device) for length, step in zip(padded, shift))

    def windows(states: torch.Tensor) -> torch.Tensor:  # (N, h, w, E) -> (N, windows * heads, L, d)
        # rolled and padded by index; the padding, copies of the last row and column, has no effect: see the regions
        states = states.index_select(1, rows.clamp(max=height - 1)).index_select(2, columns.clamp(max=width - 1))
        states = states.reshape(states.shape[0], grid[0], size, grid[1], size, heads, -1)
        return states.permute(0, 1, 3, 5, 2, 4, 6).reshape(states.shape[0], grid[0] * grid[1] * heads, size**2, -1)

    regions = window_regions(height, width, padded, shift, value.device)
    regions = regions.reshape(grid[0], size, grid[1], size).transpose(1, 2).reshape(grid[0] * grid[1], 1, size**2)
    apart = regions[..., :, None] != regions[..., None, :]  # (windows, 1, L, L)
    bias = position[None].to(query.dtype)
    bias = bias.masked_fill(apart, torch.finfo(query.dtype).min).flatten(0, 1)[None]  # (1, windows * heads, L, L)

    attended = attend(windows(query), windows(key), windows(value), bias)  # (N, L, windows * heads, d)
    attended = attended.reshape(-1, size, size, grid[0], grid[1], heads * attended.shape[-1])
    attended = attended.permute(0, 3, 1, 4, 2, 5).reshape(-1, *padded, value.shape[-1])
    for dim, length in ((1, height), (2, width)):  # rolled back and cropped
        places = _rolled(length, padded[dim - 1], padded[dim - 1] - shift[dim - 1], value.device)
        attended = attended.index_select(dim, places)
    return attended


def _shift_of(num_windows: int, size: int, device: torch.device) -> torch.Tensor:
    """Returns the shift of an axis, `(1,)`: half a window, and 0 for a single window.

    A tensor, because a comparison of sizes would give a graph for some sizes only.
    """
    return (torch.full((1,), num_windows, device=device) - 1).clamp(max=1) * (size // 2)


def _rolled(num_cells: int, length: int, shift: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns `(torch.arange(num_cells) + shift) % length`, for `num_cells` and `shift` up to `length`.

    Not as a remainder, which ONNX does not have for sizes that are unknown until a graph runs.
    """
    places = torch.arange(num_cells, device=device) + shift
    return torch.where(places < length, places, places - length)


def window_regions(
    height: int, width: int, padded: tuple[int, int], shift: Shift, device: torch.device
) -> torch.Tensor:
    """Returns a region id for each cell of the padded and rolled map; only cells with equal ids attend to each other.

    The ids separate cells that the roll moved together from opposite borders, and the padding (0) from the map.
    """
    rows, columns = (_rolled(length, length, step, device) for length, step in zip(padded, shift))
    wrapped = (rows < shift[0])[:, None] * 2 + (columns < shift[1])[None, :] * 1
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    return torch.where(inside, wrapped + 1, 0)
