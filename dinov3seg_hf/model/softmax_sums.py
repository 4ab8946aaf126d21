# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Sums exp(logit / temperature) over all classes for each pixel: what a softmax divides by.

With hundreds of classes and millions of pixels, this sum is most of the work of a softmax. In the cell between four
logits, a resized logit is bilinear, so the sum is a smooth function of the place: it is known everywhere, to the last
digits of float32, from its values at a few places (interpolation at Chebyshev nodes). The time therefore depends on the
number of logits, and hardly on the number of pixels.

Shapes: C classes, c of them, h x w logits, k x k' of them, H x W pixels, r rows of pixels, m samples.
"""

import math
from collections.abc import Callable, Iterator

import torch

from .resizing import MAX_RESIZED_VALUES, Block, blocks_of_classes, channels_last, finite, resize_block

# exp(-17) is below the precision of float32
NEGLIGIBLE = 17

# The class that is the largest of the nearest logits has at least 1/4 of 0 at a pixel, as the largest logit is
# subtracted. If the others were lower than this, the sum would not be a normal number.
LOWEST = 4 / 3 * math.log(torch.finfo(torch.float32).tiny)

# Sides of the blocks that are sampled in the same way, in pixels, and at least in cells. Smaller blocks follow more
# closely where the logits change, in more steps.
SAMPLED_PIXELS, SAMPLED_CELLS = 64, 4

# The largest error of the interpolation along an axis, relative to the sum: about the last digit of float32.
TOLERANCE = 1e-7

# More nodes lose digits, as their values are added with larger weights.
MAX_NODES = 8

# Blocks with longer sides are not sampled: the weights of their interpolation would take much memory.
MAX_SAMPLED_SIDE = 4096


def softmax_log_sums(
    logits: torch.Tensor, largest: torch.Tensor, temperature: float
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yields blocks of the logarithm of the sum over all classes of exp(resized logit / temperature - largest).

    The largest logit of each position is subtracted before the resize, and added to the logarithm after it. So `exp`
    cannot overflow, and no pass over all values looks for the largest one of each pixel.

    Args:
        logits: `(C, h, w)`.
        largest: `(H, W)`, float32: the largest resized logit / temperature of each pixel. In blocks where logits are so
            far from each other that its rounding could show, it is computed again.
        temperature: A divisor of the logits.

    Yields:
        The rows and columns of a block, and the block `(r, columns)`, float32, at least 0.
    """
    size = (largest.shape[0], largest.shape[1])
    source = channels_last(logits) / temperature
    highest = source.amax(dim=2, keepdim=True)  # (h, w, 1)
    source = finite(source - highest)
    cells = [max(SAMPLED_CELLS, round(SAMPLED_PIXELS * length / target)) for length, target in zip(source.shape, size)]
    # what classes below add to the sum is less than its last digit
    margin = NEGLIGIBLE + math.log(len(logits))
    for row, column, classes in blocks_of_classes(source, size, (cells[0], cells[1]), margin):
        corners = source[row.source, column.source].index_select(2, classes)  # (k, k', c)
        if float(corners.min()) > LOWEST:
            sums = _interpolated_sums(corners, row, column)
            tops = resize_block(highest[row.source, column.source], row.weights, column.weights)[..., 0]
            log_sums = sums.log_() + tops - largest[row.target, column.target]
        else:
            log_sums = _over_classes(corners, row.weights, column.weights, _sum_above_largest).log_()
        yield row.target, column.target, log_sums.clamp_(min=0)


def _interpolated_sums(corners: torch.Tensor, row: Block, column: Block) -> torch.Tensor:
    """Returns the sums of exp(logit), `(r, columns)`, of a block of `(k, k', c)`."""
    (row_weights, row_interpolation), (column_weights, column_interpolation) = (
        _samples(axis, corners, dim) for dim, axis in enumerate((row, column))
    )
    sums = _over_classes(corners, row_weights, column_weights, lambda block: block.exp_().sum(dim=2)).double()
    if row_interpolation is not None:
        sums = row_interpolation @ sums
    if column_interpolation is not None:
        sums = sums @ column_interpolation.T
    return sums.float()


def _sum_above_largest(block: torch.Tensor) -> torch.Tensor:
    """Returns the sum of exp(logit - largest logit) of `(r, columns, c)`, and changes the block."""
    return block.sub_(block.amax(dim=2, keepdim=True)).exp_().sum(dim=2)


def _over_classes(
    corners: torch.Tensor,
    row_weights: torch.Tensor,
    column_weights: torch.Tensor,
    reduce: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Resizes `(k, k', c)` with weights `(r, k)` and `(columns, k')`, and reduces the classes, in bounded memory.

    Returns:
        `(r, columns)`.
    """
    num_rows = max(1, MAX_RESIZED_VALUES // (corners.shape[2] * len(column_weights)))
    parts = row_weights.split(num_rows)
    return torch.cat([reduce(resize_block(corners, part, column_weights)) for part in parts])


def _samples(block: Block, corners: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns how an axis of a block is sampled: as few samples as are exact, or the targets themselves.

    Args:
        block: The rows or the columns of the block.
        corners: `(k, k', c)`, the logits of the block.
        dim: The axis.

    Returns:
        The weights of the samples, `(m, k)`, and those of the interpolation, float64 `(targets, m)`; `None` if the
        samples are the targets.
    """
    num_targets, num_cells = len(block.weights), block.weights.shape[1] - 1
    if num_cells == 0:  # all targets are equal
        return block.weights[:1], torch.ones(num_targets, 1, dtype=torch.float64)
    if num_targets > MAX_SAMPLED_SIDE:
        return block.weights, None
    largest_change = float(corners.diff(dim=dim).abs().max())
    fewest = fewest_samples(largest_change, num_targets // num_cells)
    if fewest is None:
        return block.weights, None
    pieces, nodes = fewest
    first = torch.arange(num_cells * pieces)[:, None]
    places = ((first + chebyshev_nodes(nodes)) / pieces).flatten()
    weights = (1 - (places[:, None] - torch.arange(num_cells + 1)).abs()).clamp_(min=0)

    targets = (block.weights.double() @ torch.arange(num_cells + 1).double()) * pieces
    piece = targets.long().clamp(max=num_cells * pieces - 1)
    interpolation = torch.zeros(num_targets, num_cells * pieces, nodes, dtype=torch.float64)
    interpolation[torch.arange(num_targets), piece] = interpolation_weights(targets - piece, nodes)
    return weights.float(), interpolation.flatten(1)


def fewest_samples(largest_change: float, less_than: int) -> tuple[int, int] | None:
    """Returns into how many pieces a cell is cut, and how many nodes a piece has, so that the interpolation is exact.

    Interpolated at n Chebyshev nodes of a piece, exp(a + b t) for t from -1 to 1 has an error of at most
    `b**n exp(b) / (2**(n - 1) n!)` times exp(a). Relative to its smallest value, this is `exp(b)` times as much. The
    error of a sum of such functions is relative to the sum, as all are positive.

    Args:
        largest_change: The largest change of an exponent over a cell.
        less_than: A limit of the number of samples of a cell.

    Returns:
        Pieces and nodes, or `None` if it takes more samples than the limit allows.
    """
    possible = [
        (pieces * nodes, pieces, nodes)
        for nodes in range(1, MAX_NODES + 1)
        for pieces in range(1, math.ceil(less_than / nodes))
        if _largest_error(largest_change / (2 * pieces), nodes) <= TOLERANCE
    ]
    return min(possible)[1:] if possible else None


def _largest_error(half_range: float, nodes: int) -> float:
    return half_range**nodes * math.exp(2 * half_range) / (2 ** (nodes - 1) * math.factorial(nodes))


def chebyshev_nodes(count: int) -> torch.Tensor:
    """The Chebyshev nodes between 0 and 1, float64 `(count,)`."""
    return (1 - torch.cos((torch.arange(count, dtype=torch.float64) + 0.5) * (math.pi / count))) / 2


def interpolation_weights(places: torch.Tensor, count: int) -> torch.Tensor:
    """The weights of the values at the Chebyshev nodes, of the polynomial through them.

    Args:
        places: float64 `(targets,)`, from 0 to 1.
        count: The number of nodes.

    Returns:
        float64 `(targets, count)`.
    """
    nodes = chebyshev_nodes(count)
    factors = (places[:, None, None] - nodes) / (nodes[:, None] - nodes + torch.eye(count))  # (targets, of, other)
    return factors.masked_fill(torch.eye(count, dtype=torch.bool), 1).prod(dim=2)


__all__ = ["softmax_log_sums"]
