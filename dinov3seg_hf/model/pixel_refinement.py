# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Refinement of score maps by the colors of the image, without any weights: pixel-adaptive refinement (PAMR).

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (arXiv 2005.08104): every pixel takes the
average of its neighbors at several distances, weighted by how similar their colors are, some times in a row. So edges
of the score maps move to edges of the image. Handles tensors only.

Shapes: C classes, H x W pixels, h x w of them, N neighbors.
"""

import itertools

import torch
from torch.nn import functional as F

DILATIONS = (1, 2, 4, 8)
NUM_STEPS = 10
# Color differences count in units of this share of the local standard deviation of the colors.
CONTRAST = 0.1
# Rows that are computed at once: such a band of maps and weights fits into the caches of a CPU.
BAND_HEIGHT = 16
# Values and weights at most as large are zero: far below what a sum of float32 near 1 can hold. Products of the others
# are normal numbers; a CPU takes ten times as long for the denormal ones that shares far from their region decay to.
TINY = 1e-18


def neighbor_offsets(dilations: tuple[int, ...] = DILATIONS) -> list[tuple[int, int]]:
    """Returns the (row, column) offsets of the neighbors: the 8 around a pixel, at every dilation."""
    around = [offset for offset in itertools.product((-1, 0, 1), repeat=2) if offset != (0, 0)]
    return [(row * dilation, column * dilation) for dilation in dilations for row, column in around]


def neighbor_weights(pixels: torch.Tensor, dilations: tuple[int, ...] = DILATIONS) -> torch.Tensor:
    """Computes how much each neighbor counts for each pixel.

    The weights are a softmax over the neighbors of the negative color difference, averaged over the channels, each in
    units of `CONTRAST` standard deviations of the channel over the pixel and its neighbors.

    Args:
        pixels: The image, floating point `(3, H, W)`; scale and offset of a channel do not matter.
        dilations: Distances of the neighbors in pixels.

    Returns:
        Float32 `(H, W, N)`, summing to 1 over N, in the order of `neighbor_offsets`.
    """
    height, width = pixels.shape[1:]
    offsets, margin = neighbor_offsets(dilations), max(dilations)
    surrounded = F.pad(pixels.float()[None], [margin] * 4, mode="replicate")[0]
    weights = pixels.new_empty((height, width, len(offsets)), dtype=torch.float32)
    for top in range(0, height, BAND_HEIGHT):
        rows = min(BAND_HEIGHT, height - top)
        center = surrounded[:, margin + top : margin + top + rows, margin : margin + width]
        differences = torch.stack(
            [
                surrounded[:, margin + top + down : margin + top + down + rows, margin + right : margin + right + width]
                - center
                for down, right in offsets
            ]
        )  # (N, 3, rows, W)
        # the variance over the pixel and its neighbors, of differences to the pixel, whose own difference is 0
        count = len(offsets) + 1
        mean = differences.sum(dim=0) / count
        variance = differences.square().sum(dim=0) / count - mean.square()
        scale = CONTRAST * variance.clamp_(min=0).sqrt_() + 1e-8
        logits = differences.abs_().div_(scale).mean(dim=1).neg_()
        weights[top : top + rows] = F.hardshrink(logits.softmax(dim=0), TINY).permute(1, 2, 0)
    return weights


def grow(part: slice, margin: int, length: int) -> slice:
    """Adds a margin to both sides of a part of an axis, as far as the axis goes."""
    return slice(max(0, part.start - margin), min(length, part.stop + margin))


def refine_maps(
    maps: torch.Tensor,
    weights: torch.Tensor,
    rows: slice | None = None,
    columns: slice | None = None,
    dilations: tuple[int, ...] = DILATIONS,
    num_steps: int = NUM_STEPS,
) -> torch.Tensor:
    """Replaces every value by the weighted average of its neighbors, `num_steps` times.

    Maps are independent. Every result is a convex combination of values of the same map. A part of an image depends on
    `num_steps * max(dilations)` pixels around it; its result is the same as in the whole image.

    Args:
        maps: `(h, w, C)`, the maps of the part and what is around it: of `grow(rows, num_steps * max(dilations), H)`,
            and so for columns.
        weights: `(H, W, N)` from `neighbor_weights` with the same dilations, of the whole image.
        rows: The rows of the part. Default: all.
        columns: The columns of the part. Default: all.
        dilations: Distances of the neighbors in pixels.
        num_steps: Number of steps.

    Returns:
        Float32 `(rows, columns, C)`.
    """
    (height, width), margin = weights.shape[:2], max(dilations)
    rows, columns = rows or slice(0, height), columns or slice(0, width)
    top, left = (max(0, part.start - num_steps * margin) for part in (rows, columns))
    # two buffers in turn: fresh memory for each step would cost as much as the step
    buffers = [maps.new_empty(_surrounded_size(maps.shape, margin).numel(), dtype=torch.float32) for _ in range(2)]
    surrounded, num_maps = _surrounded(buffers[0], maps.shape, margin), maps.shape[2]
    inside = _inside(surrounded, margin)
    inside.copy_(maps)
    del maps  # frees those that the caller does not need
    torch.hardshrink(inside, TINY, out=inside)
    for step in range(1, num_steps + 1):
        _copy_border(surrounded, margin)
        # what later steps depend on around the part, less with each of them
        around = (num_steps - step) * margin
        part_rows, part_columns = grow(rows, around, height), grow(columns, around, width)
        part_weights = weights[part_rows, part_columns]
        averages = _surrounded(buffers[step % 2], torch.Size([*part_weights.shape[:2], num_maps]), margin)
        place = (part_rows.start - top, part_columns.start - left)
        _average_neighbors(surrounded, part_weights, place, dilations, out=_inside(averages, margin))
        surrounded, top, left = averages, part_rows.start, part_columns.start
    return _inside(surrounded, margin)


def _average_neighbors(
    surrounded: torch.Tensor,
    weights: torch.Tensor,
    place: tuple[int, int],
    dilations: tuple[int, ...],
    out: torch.Tensor,
) -> None:
    """Writes the average of the neighbors of each pixel of a part, which begins at `place` of the surrounded maps.

    An average of neighbors is a weighted sum of rows of a table: `embedding_bag`, for all maps in one pass.
    """
    (num_rows, num_columns), width = weights.shape[:2], surrounded.shape[1]
    margin = max(dilations)
    table = surrounded.flatten(0, 1)
    row, column = (torch.arange(count, device=table.device) for count in (BAND_HEIGHT, num_columns))
    steps = [(margin + down) * width + margin + right for down, right in neighbor_offsets(dilations)]
    neighbors = ((row * width)[:, None] + column).flatten()[:, None] + torch.tensor(steps, device=table.device)
    neighbors = neighbors.int()  # half the memory to read
    for start in range(0, num_rows, BAND_HEIGHT):
        band = weights[start : start + BAND_HEIGHT]
        first = (place[0] + start) * width + place[1]
        size = band.shape[0] * num_columns
        averages = F.embedding_bag(
            neighbors[:size], table[first:], mode="sum", per_sample_weights=band.reshape(size, -1)
        )
        torch.hardshrink(averages.unflatten(0, band.shape[:2]), TINY, out=out[start : start + BAND_HEIGHT])


def _surrounded_size(size: torch.Size, margin: int) -> torch.Size:
    return torch.Size([size[0] + 2 * margin, size[1] + 2 * margin, size[2]])


def _surrounded(buffer: torch.Tensor, size: torch.Size, margin: int) -> torch.Tensor:
    """The start of a buffer as maps of a size `(h, w, C)`, with a margin around them."""
    size = _surrounded_size(size, margin)
    return buffer[: size.numel()].view(size)


def _inside(surrounded: torch.Tensor, margin: int) -> torch.Tensor:
    return surrounded[margin:-margin, margin:-margin]


def _copy_border(surrounded: torch.Tensor, margin: int) -> None:
    """Fills the margin with copies of the border."""
    surrounded[:, :margin] = surrounded[:, margin : margin + 1]
    surrounded[:, -margin:] = surrounded[:, -margin - 1 : -margin]
    surrounded[:margin] = surrounded[margin]
    surrounded[-margin:] = surrounded[-margin - 1]


__all__ = ["grow", "neighbor_weights", "refine_maps"]
