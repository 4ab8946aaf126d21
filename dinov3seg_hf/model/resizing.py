# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Resizes logits to pixels bilinearly, in strips or blocks, so that memory is bounded whatever the size.

A block can leave out classes: a resized logit is an average of four neighbors, so the largest and the smallest neighbor
of a class are its bounds in the cell between them.

Shapes: C classes, c of them, h x w logits, k x k' of them, H x W pixels, r rows of pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast

# Maximum number of resized logits in memory at once (16 MiB in float32, about the size of a CPU cache): 847 classes at
# 4000 x 3000 pixels would need 38 GiB.
MAX_RESIZED_VALUES = 2**22


def resized_strips(logits: torch.Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields strips of rows of `(C, h, w)`, resized bilinearly to `(C, *size)`, with bounded memory.

    Together, they are the same as all rows at once.

    Yields:
        The rows of a strip, and the strip `(C, r, W)`, float32.
    """
    source = channels_last(logits)
    upper, lower, weight = row_positions(logits.shape[1], size[0], logits.device)
    num_rows = max(1, MAX_RESIZED_VALUES // (len(logits) * size[1]))
    for start in range(0, size[0], num_rows):
        rows = slice(start, min(start + num_rows, size[0]))
        yield rows, resize_rows(source[upper[rows]], source[lower[rows]], weight[rows], size[1])


def blocks_of_classes(
    source: torch.Tensor, size: tuple[int, int], cells: tuple[int, int], margin: float
) -> Iterator[tuple["Block", "Block", torch.Tensor]]:
    """Yields the blocks of `(h, w, C)` that is resized to `size`, with the classes that can come close to the largest.

    Args:
        source: The logits.
        size: (H, W).
        cells: Rows and columns of cells of a block.
        margin: How far below the largest resized logit a class may be to count.

    Yields:
        The rows and the columns of a block, and its classes, int64, in ascending order.
    """
    rows, columns = (list(blocks(*axis)) for axis in zip(source.shape, size, cells))
    for row in rows:
        close = _come_close(source[row.source], margin)
        for column in columns:
            yield row, column, close[:, column.source].any(dim=1).any(dim=0).nonzero()[:, 0]


def _come_close(source: torch.Tensor, margin: float) -> torch.Tensor:
    """Whether a class can win, or come closer than `margin`, in the cells to the right of and below each logit.

    `source` is `(k, w, C)`. Beyond the last row and column, there is only the logit itself.
    """
    largest = _over_neighbors(_over_neighbors(source, torch.maximum, 0), torch.maximum, 1)
    smallest = _over_neighbors(_over_neighbors(source, torch.minimum, 0), torch.minimum, 1)
    return largest >= smallest.amax(dim=-1, keepdim=True) - margin


def _over_neighbors(values: torch.Tensor, extreme: Callable[..., torch.Tensor], dim: int) -> torch.Tensor:
    """The extreme of each value and the next one along `dim`; the last value has none."""
    next_values = torch.cat([values.narrow(dim, 1, values.shape[dim] - 1), values.narrow(dim, -1, 1)], dim)
    return extreme(values, next_values)


@dataclass(frozen=True)
class Block:
    """A part of an axis.

    Attributes:
        target: The positions after resizing.
        source: The positions before, that they are averages of.
        weights: The weights of these averages, `(target, source)`.
    """

    target: slice
    source: slice
    weights: torch.Tensor


def blocks(length: int, target_length: int, cells: int) -> Iterator[Block]:
    """Cuts an axis that is resized into blocks of `cells` positions; the last one may be shorter."""
    upper, _, _ = row_positions(length, target_length, torch.device("cpu"))
    block = upper // cells
    starts = [0, *((block[1:] != block[:-1]).nonzero()[:, 0] + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], target_length]):
        yield block_of(slice(start, stop), length, target_length)


def block_of(target: slice, length: int, target_length: int) -> Block:
    """Returns the block of some target positions of an axis that is resized."""
    upper, lower, weight = (part[target] for part in row_positions(length, target_length, torch.device("cpu")))
    first = int(upper[0])
    source = slice(first, int(lower[-1]) + 1)
    weights = weight.new_zeros(len(upper), source.stop - first)
    position = torch.arange(len(upper), device=upper.device)
    weights[position, upper - first] += 1 - weight
    weights[position, lower - first] += weight
    return Block(target, source, weights)


def block_strips(corners: torch.Tensor, row: Block, column: Block) -> Iterator[tuple[slice, torch.Tensor]]:
    """Resizes a block of `(k, k', c)` in strips of rows, with bounded memory.

    Yields:
        The target rows of a strip, and the strip `(c, r, columns)`.
    """
    row_weights, column_weights = row.weights.to(corners.device), column.weights.to(corners.device)
    num_rows = max(1, MAX_RESIZED_VALUES // (corners.shape[2] * len(column_weights)))
    for start in range(0, len(row_weights), num_rows):
        weights = row_weights[start : start + num_rows]
        first = row.target.start + start
        yield slice(first, first + len(weights)), resize_block(corners, weights, column_weights).permute(2, 0, 1)


def resize_block(corners: torch.Tensor, row_weights: torch.Tensor, column_weights: torch.Tensor) -> torch.Tensor:
    """Resizes `(k, k', c)` with weights `(r, k)` and `(columns, k')` to `(r, columns, c)`.

    On a CPU, places and logits have all digits of float32, also where a user lets models multiply with fewer.
    """
    with maybe_autocast(corners.device.type, enabled=False):
        if corners.device.type == "cpu" and not _multiplies_exactly():
            corners, row_weights, column_weights = corners.double(), row_weights.double(), column_weights.double()
        rows = (row_weights @ corners.flatten(1)).unflatten(1, corners.shape[1:])
        return (column_weights @ rows).float()


def _multiplies_exactly() -> bool:
    """Whether a product of float32 on the CPU has all digits; see `torch.set_float32_matmul_precision`.

    A product is computed, as the setting has other names in other versions of torch, and not every CPU follows it. The
    setting does not apply to small products.
    """
    values = torch.full((32, 32), 1 + 2**-20, dtype=torch.float32, device="cpu")
    return torch.equal(values @ torch.eye(32, dtype=torch.float32, device="cpu"), values)


def channels_last(logits: torch.Tensor) -> torch.Tensor:
    """`(C, h, w)` -> `(h, w, C)` in float32, which resizes several times faster than one map after the other."""
    return logits.float().permute(1, 2, 0).contiguous()


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Changes minus infinity, which a place without any weight would turn into NaN, to the lowest number, in place."""
    return logits.clamp_(min=torch.finfo(logits.dtype).min)


def row_positions(
    height: int, target_height: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the rows above and below each target row, and the weight of the lower one; pixel centers are aligned."""
    rows = (torch.arange(target_height, dtype=torch.float32, device=device) + 0.5) * (height / target_height) - 0.5
    rows = rows.clamp(min=0)
    upper = rows.long().clamp(max=height - 1)
    return upper, (upper + 1).clamp(max=height - 1), rows - upper


def resize_rows(upper: torch.Tensor, lower: torch.Tensor, weight: torch.Tensor, width: int) -> torch.Tensor:
    """Resizes rows between two rows each.

    Args:
        upper: `(r, w, c)` or `(1, w, c)`, the rows above.
        lower: Like `upper`, the rows below.
        weight: `(r,)`, the weight of the lower row.
        width: W.

    Returns:
        `(c, r, W)`.
    """
    rows = torch.lerp(upper, lower, weight[:, None, None]).permute(2, 0, 1)[None]  # (1, c, r, w), channels last
    rows = rows.contiguous(memory_format=torch.channels_last)
    return F.interpolate(rows, size=(rows.shape[2], width), mode="bilinear", align_corners=False)[0]


__all__ = [
    "MAX_RESIZED_VALUES",
    "Block",
    "block_of",
    "block_strips",
    "blocks",
    "blocks_of_classes",
    "channels_last",
    "finite",
    "resize_block",
    "resized_strips",
    "row_positions",
]
