# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The loss of the logits of the full head.

Shapes: B images, C classes, h x w cells of the logits, H x W pixels, r rows of them.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .resizing import MAX_RESIZED_VALUES, row_positions
from .tensor_checks import checked_tensor

# Label of a pixel that shows none of the classes. Other negative labels are ignored.
NO_CLASS = -2

# Label of ignored pixels, which the package writes where there is no class and around images that are too small.
IGNORED = -1

# A small weight suffices, because the softmax over the classes already separates the names. With larger weights, a head
# that is trained from nothing ranks unseen names worse (docs/decisions.md).
REJECTION_WEIGHT = 0.05


def is_labeled(labels: torch.Tensor) -> torch.Tensor:
    """Returns which pixels of an integer label map count for the loss: those with a class or with `NO_CLASS`."""
    return (labels >= 0) | (labels == NO_CLASS)


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int | None = None) -> torch.Tensor:
    """Computes the cross-entropy of the logits, averaged over the pixels that are not ignored.

    For label maps, it is the softmax cross-entropy over the classes, which ranks similar names; and, with a smaller
    weight, the softmax cross-entropy over the classes and one more outcome, "none of them", whose logit is 0. So a
    logit is positive where the name is more likely than none. With one class there is nothing to rank: the loss is the
    sigmoid cross-entropy, with its whole weight.

    For targets per class, it is the sigmoid cross-entropy, averaged also over the classes: names that overlap, such as
    "dog" and "animal", do not compete.

    Args:
        logits: `(B, C, h, w)`, resized bilinearly to the size of the labels.
        labels: Integers `(B, H, W)`: a class, `NO_CLASS` for pixels that show none of the classes, or another negative
            number for pixels that are ignored; or floating-point targets `(B, C, H, W)` between 0 and 1.
        ignore_index: One more label of pixels that are ignored, usually 255. A number that is a class stays a class.

    Raises:
        ValueError: If the shape of the labels is invalid, or a label is not a class.
    """
    batch_size, num_classes = logits.shape[:2]
    if not isinstance(labels, torch.Tensor):
        raise ValueError(f"labels is of type {type(labels).__name__}; expected a torch.Tensor. Convert it.")
    if (
        labels.ndim not in (3, 4)
        or 0 in labels.shape
        or labels.shape[0] != batch_size
        or (labels.ndim == 4 and labels.shape[1] != num_classes)
    ):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected ({batch_size}, height, width), or ({batch_size}, "
            f"{num_classes}, height, width) with one target per class."
        )
    if labels.ndim == 3:
        labels = checked_tensor(labels, "labels", "integers").long()  # which has room for the marks below
    elif labels.is_complex():
        raise ValueError(f"labels has dtype {labels.dtype}; expected targets between 0 and 1. Convert it.")
    if labels.ndim == 4:
        logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
        # a training step does not wait for the device
        looks = not logits.requires_grad and not torch.compiler.is_compiling()
        if looks and not ((labels >= 0) & (labels <= 1)).all():
            raise ValueError("labels contains other values than targets between 0 and 1. Divide or clip the targets.")
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    if ignore_index is not None and ignore_index >= num_classes:
        labels = labels.masked_fill(labels == ignore_index, IGNORED)
    if not torch.compiler.is_compiling() and labels.numel() and labels.max() >= num_classes:
        raise ValueError(
            f"labels contains {int(labels.max())}; expected 0 to {num_classes - 1}, because there are {num_classes} "
            f"classes. Map the annotation to the vocabulary, and ignored pixels to {IGNORED}."
        )
    sum_of_band: Callable[..., torch.Tensor] = _sum_of_band
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        sum_of_band = partial(checkpoint, _sum_of_band, use_reentrant=False, preserve_rng_state=False)
    sums = [sum_of_band(*band) for band in _bands(logits.float(), labels)]
    return torch.stack(sums).sum() / is_labeled(labels).sum().clamp(min=1)


def _bands(logits: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Cuts the rows of the labels into bands with the rows of the logits beside them: arguments of `_sum_of_band`."""
    batch_size, num_classes, num_rows, _ = logits.shape
    height, width = labels.shape[1:]
    # a traced graph has a single band: their number depends on the sizes
    whole = torch.compiler.is_compiling() or batch_size * num_classes * height * width <= MAX_RESIZED_VALUES
    step = height if whole else max(1, MAX_RESIZED_VALUES // (batch_size * num_classes * width))
    upper, lower, weight = row_positions(num_rows, height, logits.device)
    for start in range(0, height, step):
        rows = slice(start, start + step)
        yield logits, labels[:, rows], upper[rows], lower[rows], weight[rows]


def _sum_of_band(
    logits: torch.Tensor, labels: torch.Tensor, upper: torch.Tensor, lower: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Returns the sum of the losses of the pixels of a band, which the backward pass resizes a second time.

    So the resized logits of all classes are never in memory at once.

    Args:
        logits: `(B, C, h, w)`.
        labels: `(B, r, W)`, the rows of the band.
        upper: `(r,)`, the row of the logits above each row.
        lower: `(r,)`, the row below.
        weight: `(r,)`, the weight of the lower row.
    """
    rows = torch.lerp(logits.index_select(2, upper), logits.index_select(2, lower), weight[:, None])
    resized = F.interpolate(rows, size=labels.shape[1:], mode="bilinear", align_corners=False)
    log_sum = torch.logsumexp(resized, dim=1)  # (B, r, W)
    of_label = resized.gather(1, labels.clamp(min=0)[:, None].long())[:, 0]
    ranking = torch.where(labels >= 0, log_sum - of_label, 0.0)
    # softplus(log_sum) is log(1 + sum of exp): 1 for none of the classes
    rejection = F.softplus(log_sum) - torch.where(labels >= 0, of_label, 0.0)
    rejection = torch.where(is_labeled(labels), rejection, 0.0)
    return (ranking + (REJECTION_WEIGHT if logits.shape[1] > 1 else 1.0) * rejection).sum()
