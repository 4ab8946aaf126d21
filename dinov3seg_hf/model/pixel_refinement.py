# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Refinement of score maps by the colors of the image, without any weights: pixel-adaptive refinement (PAMR).

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (arXiv 2005.08104): every pixel takes the
average of its neighbors at several distances, weighted by how similar their colors are, some times in a row. So edges
of the score maps move to edges of the image. Handles tensors only.

Shapes: C classes, H x W pixels, N neighbors.
"""

import itertools

import torch
from torch.nn import functional as F

DILATIONS = (1, 2, 4, 8)
NUM_STEPS = 10
# Color differences count in units of this share of the local standard deviation of the colors.
CONTRAST = 0.1
# Rows and maps that are computed at once: such a band of maps and weights fits into the caches of a CPU.
BAND_HEIGHT = 16
BAND_MAPS = 8


def neighbor_offsets(dilations: tuple[int, ...] = DILATIONS) -> list[tuple[int, int]]:
    """Returns the (row, column) offsets of the neighbors: the 8 around a pixel, at every dilation."""
    around = [offset for offset in itertools.product((-1, 0, 1), repeat=2) if offset != (0, 0)]
    return [(row * dilation, column * dilation) for dilation in dilations for row, column in around]


def padded(maps: torch.Tensor, margin: int) -> torch.Tensor:
    """Pads maps `(C, H, W)` with copies of their border."""
    return F.pad(maps[None], [margin] * 4, mode="replicate")[0]


def neighbor_weights(pixels: torch.Tensor, dilations: tuple[int, ...] = DILATIONS) -> torch.Tensor:
    """Computes how much each neighbor counts for each pixel.

    The weights are a softmax over the neighbors of the negative color difference, averaged over the channels, each in
    units of `CONTRAST` standard deviations of the channel over the pixel and its neighbors.

    Args:
        pixels: The image, floating point `(3, H, W)`; scale and offset of a channel do not matter.
        dilations: Distances of the neighbors in pixels.

    Returns:
        Float32 `(N, H, W)`, summing to 1 over N, in the order of `neighbor_offsets`.
    """
    height, width = pixels.shape[1:]
    offsets, margin = neighbor_offsets(dilations), max(dilations)
    surrounded = padded(pixels.float(), margin)
    weights = pixels.new_empty((len(offsets), height, width), dtype=torch.float32)
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
        weights[:, top : top + rows] = logits.softmax(dim=0)
    return weights


def refine_maps(
    maps: torch.Tensor,
    weights: torch.Tensor,
    dilations: tuple[int, ...] = DILATIONS,
    num_steps: int = NUM_STEPS,
) -> torch.Tensor:
    """Replaces every value by the weighted average of its neighbors, `num_steps` times.

    Maps are independent. Every result is a convex combination of values of the same map.

    Args:
        maps: `(C, H, W)`.
        weights: `(N, H, W)` from `neighbor_weights` with the same dilations.
        dilations: Distances of the neighbors in pixels.
        num_steps: Number of steps.

    Returns:
        Float32 `(C, H, W)`.
    """
    height, width = maps.shape[1:]
    offsets, margin = neighbor_offsets(dilations), max(dilations)
    result = torch.empty_like(maps, dtype=torch.float32)
    for first in range(0, len(maps), BAND_MAPS):
        current = maps[first : first + BAND_MAPS].float()
        for _ in range(num_steps):
            surrounded = padded(current, margin)
            current = torch.zeros_like(current)
            for top in range(0, height, BAND_HEIGHT):
                rows = min(BAND_HEIGHT, height - top)
                band = current[:, top : top + rows]
                for weight, (down, right) in zip(weights, offsets):
                    start = (margin + top + down, margin + right)
                    neighbor = surrounded[:, start[0] : start[0] + rows, start[1] : start[1] + width]
                    band.addcmul_(weight[top : top + rows], neighbor)
        result[first : first + BAND_MAPS] = current
    return result


__all__ = ["neighbor_weights", "refine_maps"]
