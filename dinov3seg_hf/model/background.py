# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds pixels that show none of the labels, without any training: `background="auto"`.

The confidence of a pixel is the best score times the square root of its lead over the second score: of two labels that
fit equally well, probably neither is right. A pixel whose confidence is below a bound shows none of the labels.

- Full head: the scores are probabilities of the best label, the second one and "none of them", whose logit is 0 in
  training (see `loss`), so the bound is a constant. Its sigmoids are no such scores: those of many similar labels are 1
  at the same pixel, and none of them leads. Nor is a softmax over all labels, which depends on their number.
- Zero-shot head: cosine similarities have no natural zero, so the bound comes from the image itself. Without its best
  label, a pixel is a pixel whose label is not in the list, so the confidence of the runner-up, the best of the other
  labels, shows what confidence such pixels have. The observed confidences are a mixture of these and of those of right
  labels; the bound makes the fewest errors (see `bound_between`).
- A calibrated vocabulary has one bound per label, from many images.

Shapes: C classes, h x w cells of the maps, h' x w' points of a finer grid, H x W pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .calibration import Calibration
from .label_maps import ScoreFunction
from .resizing import resized_strips

# Measured on the drawn world; see docs/background.md.
FULL_HEAD_BOUND = 0.5
# Points per cell, along each side. Where two labels meet, a coarser grid would miss that neither of them leads.
POINTS_PER_CELL = 4
# Valleys of the confidence that are narrower than this number of points are filled: where two labels meet, neither
# leads, but a thing that no label names is wider. Odd.
SEAM = 5
# Confidences below those of this share of the runners-up are too few to estimate a share from.
TAIL = 0.5


@dataclass(frozen=True, eq=False)
class Confidence:
    """How confident the best and the second label are, at the points of a grid over the image.

    Attributes:
        labels: `(2, h', w')`, int64: the best and the second label.
        values: `(2, h', w')`, float32: the confidence of the best label; that of the second if the best did not exist.
        num_labels: The number C of labels.
    """

    labels: torch.Tensor
    values: torch.Tensor
    num_labels: int

    def without_seams(self) -> torch.Tensor:
        """The confidence of the best label, `(h', w')`, with narrow valleys filled by a morphological closing.

        This is what is compared with a bound. The bound itself is estimated from `values`, because the runners-up have
        valleys in the same places.
        """
        filled = F.max_pool2d(self.values[:1], SEAM, stride=1, padding=SEAM // 2)
        return -F.max_pool2d(-filled, SEAM, stride=1, padding=SEAM // 2)[0]


def measure_confidence(maps: torch.Tensor, score_function: ScoreFunction, size: tuple[int, int]) -> Confidence:
    """Computes the confidence of the best and of the second label.

    Args:
        maps: `(C, h, w)`: logits of the full head (`"sigmoid"`), cosine similarities (`"softmax"`), or probabilities
            (`"none"`).
        score_function: What the maps are.
        size: (height, width) of the resized image in pixels, the finest grid.
    """
    _, height, width = maps.shape
    grid = (
        max(height, min(POINTS_PER_CELL * height, size[0])),
        max(width, min(POINTS_PER_CELL * width, size[1])),
    )
    labels, values = [], []
    for _, strip in resized_strips(maps, grid):
        top = strip.topk(min(3, len(maps)), dim=0)
        lacking = (0, 0, 0, 0, 0, 3 - len(top.values))  # labels that do not exist have score 0
        if score_function == "sigmoid":
            scores = F.pad(top.values, lacking, value=-math.inf)
            best, second = torch.stack([scores[:2], scores[1:], torch.zeros_like(scores[:2])]).softmax(dim=0)[:2]
        else:
            scores = F.pad(top.values.clamp(min=0), lacking)
            best, second = scores[:2], scores[1:]
        labels.append(F.pad(top.indices, lacking)[:2])
        values.append(best * (best - second).sqrt())
    return Confidence(torch.cat(labels, dim=1), torch.cat(values, dim=1), len(maps))


def bound_between(best: torch.Tensor, runner_up: torch.Tensor) -> float:
    """Returns the confidence below which a pixel rather shows none of the labels.

    `best` is a mixture: a share s of pixels whose label is not in the list, which are distributed like `runner_up`, and
    other pixels, which are more confident. With the distribution functions F of `best` and G of `runner_up`, s is at
    most F / G at every confidence; the minimum is the estimate (as Storey, 2002, estimates the share of true null
    hypotheses). At the bound t, s (1 - G(t)) pixels wrongly keep their label and F(t) - s G(t) wrongly lose it. The
    result minimizes the sum.

    Args:
        best: Confidences of the best labels, any shape.
        runner_up: Confidences of the runners-up, any shape.

    Returns:
        The bound; pixels with exactly this confidence keep their label. From the smallest confidence, if all labels
        are right, to the next number above the largest, if none is.
    """
    levels = torch.cat([best.flatten(), runner_up.flatten()]).unique()  # sorted
    levels = torch.cat([levels, levels[-1:].nextafter(levels.new_full((1,), math.inf))])  # above all of them
    below_best = _share_below(best, levels)
    below_runner_up = _share_below(runner_up, levels)
    tail = below_runner_up >= TAIL
    share = (below_best[tail] / below_runner_up[tail]).min().clamp(max=1.0) if tail.any() else below_best.new_ones(())
    return levels[(below_best - 2 * share * below_runner_up).argmin()].item()


def _share_below(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The share of values below each level, float64, of the shape of `levels`."""
    return torch.searchsorted(values.flatten().sort().values, levels).double() / values.numel()


def shows_none(
    confidence: Confidence,
    score_function: ScoreFunction,
    labels: torch.Tensor,
    calibration: Calibration | None = None,
) -> torch.Tensor:
    """Returns which pixels show none of the labels, bool `(H, W)`.

    Args:
        confidence: See `measure_confidence`.
        score_function: What the confidence was measured of.
        labels: The label of each pixel, integers `(H, W)`.
        calibration: The bound of each label, measured of such a confidence (`Calibration.check`). Default: one bound
            for all; see the module.

    Raises:
        ValueError: If there is no calibration and the zero-shot head has fewer than three labels.
    """
    bound = FULL_HEAD_BOUND
    if calibration is None and score_function != "sigmoid":
        bound = _bound_of_image(confidence)
    none = torch.empty(labels.shape, dtype=torch.bool, device=labels.device)
    for rows, (strip,) in resized_strips(confidence.without_seams()[None], (labels.shape[0], labels.shape[1])):
        none[rows] = strip < (bound if calibration is None else calibration.bounds_of(labels[rows]))
    return none


def _bound_of_image(confidence: Confidence) -> float:
    if confidence.num_labels < 3:
        raise ValueError(
            f'Got {confidence.num_labels} labels with background="auto"; expected at least 3 for the zero-shot head, '
            "which knows only which label fits better. Add labels of other things that the images show."
        )
    return bound_between(*confidence.values)


__all__ = ["Confidence", "bound_between", "measure_confidence", "shows_none"]
