# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The loss of the logits of the full head.

Shapes: B images, C classes, h x w cells of the logits, H x W pixels.
"""

import torch
from torch.nn import functional as F


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Computes the sigmoid cross-entropy, averaged over the classes and the pixels that are not ignored.

    Args:
        logits: `(B, C, h, w)`, resized bilinearly to the size of the labels.
        labels: Integers `(B, H, W)`, negative values are ignored; or floating-point targets `(B, C, H, W)` between 0
            and 1.

    Raises:
        ValueError: If the shape of the labels is invalid, or a label is not a class.
    """
    batch_size, num_classes = logits.shape[:2]
    if (
        labels.ndim not in (3, 4)
        or labels.shape[0] != batch_size
        or (labels.ndim == 4 and labels.shape[1] != num_classes)
    ):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected ({batch_size}, height, width), or ({batch_size}, "
            f"{num_classes}, height, width) with one target per class."
        )
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    if labels.ndim == 4:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    if not torch.compiler.is_compiling() and labels.numel() and labels.max() >= num_classes:
        raise ValueError(
            f"labels contains {int(labels.max())}; expected 0 to {num_classes - 1}, because there are {num_classes} "
            "classes. Map the annotation to the vocabulary, and ignored pixels to -1."
        )
    valid = (labels >= 0)[:, None]  # (B, 1, H, W)
    targets = labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None, None]  # (B, C, H, W)
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none") * valid
    return losses.sum() / (valid.sum() * num_classes).clamp(min=1)
