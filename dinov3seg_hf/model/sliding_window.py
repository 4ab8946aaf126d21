# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Sliding-window inference: the whole model in every window, with averaged results (the evaluation of dino.txt).

Handles tensors only. Local-global inference, which merges features and decodes once, is part of the model.
"""

import torch
from torch.nn import functional as F

from .inference_settings import ActiveClasses, Head, PatchSource
from .modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .windows import Box, cut_windows, merge_windows, plan_windows, size_of

# Maximum number of upsampled values of all windows in memory at once (128 MiB in float32).
MAX_WINDOW_VALUES = 2**25


@torch.no_grad()
def segment_windows(
    model: Dinov3SegForSemanticSegmentation,
    pixel_values: torch.Tensor,
    text_embeds: torch.Tensor,
    window_size: int | tuple[int, int] = 384,
    stride: int | tuple[int, int] = 192,
    head: Head | None = None,
    patch_source: PatchSource | None = None,
    temperature: float = 1.0,
    window_batch_size: int = 8,
    refine_features: bool | None = None,
    active_classes: ActiveClasses | None = None,
) -> torch.Tensor:
    """Segments every window of the images separately and averages the results where windows overlap.

    The logits of a window are upsampled bilinearly to its pixels. The zero-shot head turns them into probabilities, by
    softmax over the classes, before the average; with the defaults and images whose shorter side is 512 pixels, this is
    the evaluation of dino.txt. Of the full head, the logits are averaged: their sigmoids would be 1 for every name
    whose logit is above 17, and the order of similar names would be lost. The maps of all classes in all windows are
    never in memory at once.

    Args:
        model: The model, in eval mode.
        pixel_values: `(B, 3, H, W)`, normalized, any H and W.
        text_embeds: `(C, 2, D)` from `model.get_text_features`.
        window_size: Side of a window in pixels, or (height, width); see `plan_windows`.
        stride: Step between windows in pixels, or (vertical, horizontal).
        head: `"full"` or `"dinotxt"`. Default: that of the configuration.
        patch_source: `"head"` or `"backbone"`. Default: that of the configuration.
        temperature: Divisor of the logits. dino.txt is evaluated with 1, on plain cosine similarities: this suffices to
            find the winning class, but its probability is hardly higher than that of other classes.
            `1 / model.logit_scale.exp()`, as in training, separates the probabilities.
        window_batch_size: Maximum number of windows per batch.
        refine_features: Whether the zero-shot head uses refined features. Default: that of the configuration.
        active_classes: How many classes of each patch the full head refines, in each window. Default: all.

    Returns:
        Float32 `(B, C, H, W)`: probabilities of the zero-shot head, or logits of the full head.

    Raises:
        ValueError: If a shape or an option is invalid.
    """
    if pixel_values.ndim != 4:
        raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch, 3, height, width).")
    if not temperature > 0 or window_batch_size < 1:
        raise ValueError(
            f"temperature is {temperature} and window_batch_size is {window_batch_size}; expected a positive "
            "temperature and at least 1 window per batch."
        )
    over_classes = (model.config.head if head is None else head) == "dinotxt"
    boxes = plan_windows(size_of(pixel_values), window_size, stride)
    images = []
    for image in pixel_values:  # (3, H, W)
        windows = cut_windows(image, boxes)  # (N, 3, h, w)
        logits = [
            model(
                pixel_values=batch,
                text_embeds=text_embeds,
                head=head,
                patch_source=patch_source,
                refine_features=refine_features,
                active_classes=active_classes,
            ).logits.float()
            for batch in windows.split(window_batch_size)
        ]
        images.append(_average(torch.cat(logits) / temperature, boxes, size_of(image), over_classes))
    return torch.stack(images) if len(images) > 1 else images[0][None]  # the maps of one image are not copied


def _average(logits: torch.Tensor, boxes: list[Box], size: tuple[int, int], over_classes: bool) -> torch.Tensor:
    """Averages the probabilities or logits of the windows of an image, some classes at a time.

    Args:
        logits: Logits of N windows, `(N, C, h', w')`.
        boxes: The boxes of the windows.
        size: (height, width) of the image in pixels.
        over_classes: Whether to turn the logits into probabilities, by softmax over the classes.

    Returns:
        Probabilities or logits, `(C, H, W)`.
    """
    num_windows, num_classes = logits.shape[:2]
    window_size = boxes[0][2:]
    chunk_size = max(1, MAX_WINDOW_VALUES // (num_windows * window_size[0] * window_size[1]))

    def upsample(chunk: torch.Tensor) -> torch.Tensor:  # (N, c, h', w') -> (N, c, height, width)
        return F.interpolate(chunk, size=window_size, mode="bilinear", align_corners=False)

    if over_classes:
        # logarithm of the softmax denominator at every pixel of every window, (N, height, width)
        log_sum = logits.new_full((num_windows, *window_size), float("-inf"))
        for chunk in logits.split(chunk_size, dim=1):
            log_sum = torch.logaddexp(log_sum, upsample(chunk).logsumexp(dim=1))

    result = logits.new_empty(num_classes, *size)
    for start in range(0, num_classes, chunk_size):
        chunk = upsample(logits[:, start : start + chunk_size])
        if over_classes:
            chunk = chunk.sub_(log_sum[:, None]).exp_()
        result[start : start + chunk_size] = merge_windows(chunk[None], boxes, size, size)[0]
    return result


__all__ = ["segment_windows"]
