# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds the winning class of each pixel, and its score, from logits that are smaller than the image.

A resized logit is an average of four neighbors. In the cell between them, a class cannot win whose largest neighbor is
below the smallest neighbor of another class. On a CPU, blocks of cells are therefore resized with the few classes that
can win there: 847 classes cost little more than those that an image shows.

Shapes: C classes, c of them, h x w logits, k x k' of them, H x W pixels, r rows of pixels.
"""

from collections.abc import Iterator
from typing import Literal

import torch

from .resizing import block_strips, blocks_of_classes, channels_last, finite, resized_strips
from .softmax_sums import softmax_log_sums

ScoreFunction = Literal["sigmoid", "softmax", "none"]

# Side of the blocks in which classes that cannot win are left out. Smaller blocks leave out more, in more steps.
BLOCK_PIXELS = 128

# An average is exact up to a few units in the last place; this share of the largest logit is more.
ROUNDING = 1e-6


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
        logits = finite(logits.float() - logits.float().amax(dim=0))
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
        # until then, the largest logits are where the scores will be
        for rows, columns, log_sums in softmax_log_sums(logits, scores, temperature):
            scores[rows, columns] = log_sums.neg_().exp_()
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
    cells = [max(1, round(BLOCK_PIXELS * length / target)) for length, target in zip(source.shape, size)]
    margin = ROUNDING * float(source.abs().max())
    for row, column, classes in blocks_of_classes(source, size, (cells[0], cells[1]), margin):
        corners = source[row.source, column.source].index_select(2, classes)  # (k, k', c)
        for target, strip in block_strips(corners, row, column):
            yield target, column.target, classes.int(), strip


__all__ = ["ScoreFunction", "label_and_score"]
