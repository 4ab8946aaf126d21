# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Rejects classes before late refinement (`active_classes`), for lists of hundreds of names.

The correlations alone are coarse logits of all classes, and cost little. A class that is not among the k best of any
patch is rejected. The rejected classes, ordered by their mean coarse logit, are cut into groups of equal size, and one
class in the middle of each group represents it: in the attention over the classes, its key and value count as often as
its group has classes. So the others attend as if all classes were there; without representatives, several times as many
pixels change. Only active classes, the best and the representatives, go through late refinement and decoder. The logits
of rejected classes are estimates. Everywhere, they stay below those of the k best active classes, and of at least two,
so they decide neither the label of a pixel nor whether the winner leads (`background.py`). What this costs and saves
is measured in docs/performance.md.

Shapes: C classes, c of them active, h x w patches, H x W logits.
"""

import torch
from torch.nn import functional as F

from .inference_settings import ActiveClasses

# The k of "auto", and the number of groups. Chosen on scenes that did not measure them (docs/performance.md).
AUTO = 8
MAX_GROUPS = 64

# By how much a rejected class stays below the best active ones; more than the rounding of a resized logit.
GAP = 0.01


def choose_representatives(coarse_logits: torch.Tensor, active_classes: ActiveClasses) -> torch.Tensor:
    """Returns the active class that represents each class, int64 `(C,)`; an active class represents itself.

    Args:
        coarse_logits: `(C, h, w)`.
        active_classes: The k of a patch; see the module.
    """
    num_classes = len(coarse_logits)
    best = _number_of(active_classes)
    representatives = torch.arange(num_classes, device=coarse_logits.device)
    is_rejected = torch.ones_like(representatives, dtype=torch.bool)
    is_rejected[coarse_logits.topk(min(best, num_classes), dim=0).indices.flatten()] = False
    order = coarse_logits.flatten(1).mean(dim=1).argsort(descending=True, stable=True)
    rejected = order[is_rejected[order]]
    num_groups = min(MAX_GROUPS, len(rejected))
    if num_groups:
        bounds = torch.arange(num_groups + 1, device=rejected.device) * len(rejected) // num_groups
        middles = rejected[(bounds[:-1] + bounds[1:]) // 2]
        representatives[rejected] = middles.repeat_interleave(bounds.diff())
    return representatives


def _number_of(active_classes: ActiveClasses) -> int:
    return AUTO if active_classes == "auto" else active_classes


def join_rejected(
    logits: torch.Tensor,
    active: torch.Tensor,
    place: torch.Tensor,
    coarse_logits: torch.Tensor,
    active_classes: ActiveClasses,
) -> torch.Tensor:
    """Returns the logits of all classes, `(C, H, W)`: the rejected ones get coarse logits, and never win.

    What the head adds to the coarse logits of a representative is added to those of its group. A logit resized to
    pixels is an average of four neighbors, so a rejected class is below k active classes everywhere if, at every
    position, it stays below each of them at this position and at the eight positions around.

    Args:
        logits: The logits of the active classes, `(c, H, W)`.
        active: The active classes, `(c,)`.
        place: The place in `active` of the representative of each class, `(C,)`.
        coarse_logits: The coarse logits of all classes, `(C, H, W)`.
        active_classes: The k of a patch; see the module.
    """
    added = logits - coarse_logits[active]
    smallest = -F.max_pool2d(-logits, kernel_size=3, stride=1, padding=1)  # of the positions around
    rank = min(max(2, _number_of(active_classes)), len(active))
    joined = torch.minimum(coarse_logits + added[place], smallest.topk(rank, dim=0).values[-1] - GAP)
    return joined.index_copy(0, active, logits)
