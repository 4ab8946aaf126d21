# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Resizes the logits of an image to its pixels, and finds the winning class of each pixel, in bounded memory.

A resized logit is an average of four neighbors. In the cell between them, a class cannot win whose largest neighbor is
below the smallest neighbor of another class. On a CPU, blocks of cells are therefore resized with the few classes that
can win there: 847 classes cost little more than those that an image shows.

Shapes: C classes, c of them, h x w logits, k x k' of them, H x W pixels, r rows of pixels.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

ScoreFunction = Literal["sigmoid", "softmax", "none"]

# Maximum number of resized logits in memory at once (16 MiB in float32, about the size of a CPU cache): 847 classes at
# 4000 x 3000 pixels would need 38 GiB.
MAX_RESIZED_VALUES = 2**22

# Side of the blocks in which classes that cannot win are left out. Smaller blocks leave out more, in more steps.
BLOCK_PIXELS = 128

# An average is exact up to a few units in the last place; this share of the largest logit is more.
ROUNDING = 1e-6

# exp(-17) is below the precision of float32
NEGLIGIBLE = 17


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


def label_and_score(
    logits: torch.Tensor, size: tuple[int, int], score_function: ScoreFunction, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the winning class of each pixel, the first of equals, and its score.

    Args:
        logits: `(C, h, w)`.
        size: (H, W).
        score_function: What turns logits into scores: `"sigmoid"`, `"softmax"` or `"none"`.
        temperature: A divisor of the logits.

    Returns:
        int32 and float32 `(H, W)`.
    """
    labels = torch.empty(size, dtype=torch.int32, device=logits.device)
    scores = torch.empty(size, dtype=torch.float32, device=logits.device)
    # a GPU has the bandwidth for all classes, and may multiply matrices with fewer digits
    on_cpu = logits.device.type == "cpu"
    if score_function == "softmax" and on_cpu:
        # Scores stay the same, and their logarithm is the difference of small numbers: of numbers that are large at a
        # low temperature, it would be above 0, or far below.
        logits = logits.float() - logits.float().amax(dim=0)
    for rows, columns, classes, strip in (possible_winners if on_cpu else all_classes)(logits, size):
        strip /= temperature
        best, winners = strip.max(dim=0)
        labels[rows, columns] = winners.int() if classes is None else classes[winners]
        if score_function == "softmax" and not on_cpu:
            best = (best - strip.logsumexp(dim=0)).exp()
        elif score_function == "sigmoid":
            best = best.sigmoid()
        scores[rows, columns] = best
    if score_function == "softmax" and on_cpu:
        for rows, columns, log_sums in softmax_log_sums(logits, size, temperature):
            scores[rows, columns] = (scores[rows, columns] - log_sums).clamp_(max=0).exp_()
    return labels, scores


# Rows and columns of a part of an image, the classes of its strip (`None`: all) and the strip `(c, r, columns)`.
Part = tuple[slice, slice, torch.Tensor | None, torch.Tensor]


def all_classes(logits: torch.Tensor, size: tuple[int, int]) -> Iterator[Part]:
    """Yields strips of the resized logits of all classes."""
    for rows, strip in resized_strips(logits, size):
        yield rows, slice(None), None, strip


def possible_winners(logits: torch.Tensor, size: tuple[int, int]) -> Iterator[Part]:
    """Yields blocks of the resized logits, each of the classes that can win there."""
    source = channels_last(logits)
    for row, column, classes in _blocks_of_classes(source, size, margin=ROUNDING * float(source.abs().max())):
        corners = source[row.source, column.source].index_select(2, classes)  # (k, k', c)
        for target, strip in block_strips(corners, row, column):
            yield target, column.target, classes.int(), strip


def softmax_log_sums(
    logits: torch.Tensor, size: tuple[int, int], temperature: float
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yields blocks of the logarithm of the sum over all classes of exp(resized logit / temperature).

    The largest logit of each cell is subtracted before the resize, and added to the logarithm after it. So `exp` cannot
    overflow, and no pass over all values looks for the largest one of each pixel.

    Yields:
        The rows and columns of a block, and the block `(r, columns)`, float32.
    """
    source = channels_last(logits) / temperature
    largest = source.amax(dim=2, keepdim=True)  # (h, w, 1)
    source -= largest
    # The class that is the largest in the nearest cell has at least 1/4 of 0 there; if the others were lower than this,
    # the sum would not be a normal number.
    is_normal = float(source.min()) > 4 / 3 * math.log(torch.finfo(torch.float32).tiny)
    # what classes below add to the sum is less than its last digit
    margin = NEGLIGIBLE + math.log(len(logits))
    for row, column, classes in _blocks_of_classes(source, size, margin):
        corners = source[row.source, column.source].index_select(2, classes)  # (k, k', c)
        tops = resize_block(largest[row.source, column.source], row.weights, column.weights)[..., 0]
        for target, strip in block_strips(corners, row, column):
            log_sums = strip.exp_().sum(dim=0).log_() if is_normal else strip.logsumexp(dim=0)
            yield target, column.target, log_sums + tops[target.start - row.target.start :][: len(log_sums)]


def _blocks_of_classes(
    source: torch.Tensor, size: tuple[int, int], margin: float
) -> Iterator[tuple["Block", "Block", torch.Tensor]]:
    """Yields the blocks of `(h, w, C)` that is resized: rows, columns, and the classes that come within the margin."""
    rows, columns = (
        list(blocks(length, target, max(1, round(BLOCK_PIXELS * length / target))))
        for length, target in zip(source.shape, size)
    )
    for row in rows:
        possible = _can_win(source[row.source], margin)
        for column in columns:
            yield row, column, possible[:, column.source].any(dim=1).any(dim=0).nonzero()[:, 0]


def _can_win(source: torch.Tensor, margin: float) -> torch.Tensor:
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
    weights = torch.zeros(len(upper), source.stop - first)
    position = torch.arange(len(upper))
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
    """Resizes `(k, k', c)` with weights `(r, k)` and `(columns, k')` to `(r, columns, c)`."""
    rows = (row_weights @ corners.flatten(1)).unflatten(1, corners.shape[1:])
    return column_weights @ rows


def channels_last(logits: torch.Tensor) -> torch.Tensor:
    """`(C, h, w)` -> `(h, w, C)` in float32, which resizes several times faster than one map after the other."""
    return logits.float().permute(1, 2, 0).contiguous()


def row_positions(
    height: int, target_height: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the rows above and below each target row, and the weight of the lower one; pixel centers are aligned."""
    rows = (torch.arange(target_height, device=device) + 0.5) * (height / target_height) - 0.5
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
    "Block",
    "ScoreFunction",
    "block_of",
    "block_strips",
    "blocks",
    "channels_last",
    "label_and_score",
    "resize_block",
    "resized_strips",
]
