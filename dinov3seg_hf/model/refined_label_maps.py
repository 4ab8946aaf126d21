# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds the winning class of each pixel after the refinement by pixels, in blocks of classes that can win there.

A refined share is an average of the shares around it. If some classes together have at least the share s at every pixel
around a block, the best of k of them has at least s / k everywhere in the refined block. A class whose share is
below that in the whole surroundings cannot win in the block, and is left out. The labels and scores stay the same.

Shapes: C classes, h x w shares, H x W pixels of the resized image.
"""

import math

import torch

from .pixel_refinement import DILATIONS, NUM_STEPS, grow, refine_maps
from .resizing import Block, block_of, block_strips, blocks, channels_last, resize_block

# How far a refined pixel depends on others.
REACH = NUM_STEPS * max(DILATIONS)

# Sides of blocks, in pixels: small ones have few classes each, large ones less to compute around them.
BLOCK_SIDES = (160, 320, 640)

# Classes that are refined at once: 640 x 640 pixels of them take 44 MiB, and more are hardly faster.
MAX_CLASSES = 28

# To look up a neighbor takes as long as to add its shares of this number of classes.
LOOKUP_COST = 32

# The sums of the refinement are exact up to a few units in the last place; this share of them is more.
ROUNDING = 1e-4


def label_and_score_refined(
    shares: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the winning class of each pixel, the first of equals, and its refined share.

    Args:
        shares: `(C, h, w)`, at least 0, of the classes to choose from.
        classes: int64 `(C,)`, the numbers of these classes.
        weights: `(H, W, N)` of `neighbor_weights`.
        size: (height, width) of the results.

    Returns:
        int32 and float32, of `size`.
    """
    shares = channels_last(shares)
    labels = torch.zeros(size, dtype=torch.int32, device=shares.device)
    scores = torch.full(size, -1.0, dtype=torch.float32, device=shares.device)
    for row, column, possible in _cheapest_blocks(shares, weights.shape[:2], size):
        # equal groups, as a lookup costs the same for few classes
        for group in possible.tensor_split(math.ceil(len(possible) / MAX_CLASSES)):
            refined = _refined_block(shares, group, weights, row, column)
            for target, strip in block_strips(refined, row, column):
                best, winners = strip.max(dim=0)
                place = target, column.target
                wins = best > scores[place]
                labels[place] = torch.where(wins, classes[group][winners].int(), labels[place])
                scores[place] = torch.where(wins, best, scores[place])
            del refined  # before the next one
    return labels, scores


def _refined_block(
    shares: torch.Tensor, group: torch.Tensor, weights: torch.Tensor, row: Block, column: Block
) -> torch.Tensor:
    """Returns the refined shares `(rows, columns, classes)` of a group of classes in the pixels of a block."""
    above, beside = _surroundings(row, column, shares, weights.shape[:2])
    corners = shares[above.source, beside.source].index_select(2, group)
    place = row.source, column.source
    # without a name here, so that `refine_maps` can free the maps that it has copied
    return refine_maps(
        resize_block(corners, above.weights.to(shares.device), beside.weights.to(shares.device)), weights, *place
    )


def _surroundings(row: Block, column: Block, shares: torch.Tensor, num_pixels: torch.Size) -> tuple[Block, Block]:
    """What the refined pixels of a block depend on, as blocks of the resize from shares to pixels."""
    above, beside = (
        block_of(grow(block.source, REACH, length), cells, length)
        for block, cells, length in zip((row, column), shares.shape[:2], num_pixels)
    )
    return above, beside


def _cheapest_blocks(
    shares: torch.Tensor, num_pixels: torch.Size, size: tuple[int, int]
) -> list[tuple[Block, Block, torch.Tensor]]:
    """Cuts an image into blocks of the side with the least to compute, with the classes that can win in each."""
    plans = []
    for side in BLOCK_SIDES:
        axes = [
            list(blocks(length, target, math.ceil(length / math.ceil(length / side))))
            for length, target in zip(num_pixels, size)
        ]
        plan = [(row, column, _can_win(shares, row, column, num_pixels)) for row in axes[0] for column in axes[1]]
        cost = sum(_cost(row, column, num_pixels) * (LOOKUP_COST + len(possible)) for row, column, possible in plan)
        plans.append((cost, plan))
        if all(len(axis) == 1 for axis in axes):
            break
    return min(plans, key=lambda costed: costed[0])[1]


def _can_win(shares: torch.Tensor, row: Block, column: Block, num_pixels: torch.Size) -> torch.Tensor:
    """Returns the classes that can win in a refined block, int64, in ascending order."""
    above, beside = _surroundings(row, column, shares, num_pixels)
    around = shares[above.source, beside.source].flatten(0, 1)  # (cells, C)
    largest, order = around.amax(dim=0).sort(descending=True)
    least_sums = around[:, order].cumsum(dim=1).amin(dim=0)  # of the first classes together
    bounds = least_sums / torch.arange(1, len(order) + 1, device=order.device)
    can_win = largest >= bounds.max() * (1 - ROUNDING)
    return order[can_win].sort().values


def _cost(row: Block, column: Block, num_pixels: torch.Size) -> float:
    """The number of pixels that all steps compute for a block."""
    areas = torch.ones(NUM_STEPS)
    for block, length in zip((row, column), num_pixels):
        grown = [grow(block.source, step * max(DILATIONS), length) for step in range(NUM_STEPS)]
        areas = areas * torch.tensor([part.stop - part.start for part in grown])
    return float(areas.sum())


__all__ = ["REACH", "label_and_score_refined"]
