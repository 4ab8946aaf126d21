# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Sliding-window inference: the whole model in every window, probabilities averaged (dino.txt's evaluation).

Knows tensors only. Local-global inference, which merges features and decodes once, is the model's own.
"""

import torch
from torch.nn import functional as F

from .inference_settings import Head, PatchSource
from .modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .windows import Box, cut_windows, merge_windows, plan_windows, size_of

# Values of the windows' upsampled maps held at a time (128 MiB in fp32).
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
) -> torch.Tensor:
    """Segments every window of the images on its own and averages the probabilities where windows overlap.

    Logits of a window are upsampled bilinearly to its pixels and turned into probabilities there: by softmax over the
    classes for the zero-shot head, by the sigmoid of each class for the full head. With the defaults and images of
    short side 512, this is how dino.txt is evaluated. The maps of all classes in all windows are never held at once.

    Args:
        model: In eval mode.
        pixel_values: `(B, 3, H, W)`, normalized, any H and W.
        text_embeds: `(C, 2, D)` from `model.get_text_features`.
        window_size: Side of a window in pixels, or (height, width); see `plan_windows`.
        stride: Step between windows in pixels, or (vertical, horizontal).
        head: `"full"` or `"dinotxt"`; the configuration's unless given.
        patch_source: `"head"` or `"backbone"`; the configuration's unless given.
        temperature: Logits are divided by it. dino.txt is evaluated at 1, on bare cosines: that tells the winning
            class, but its probability is hardly above the others'. `1 / model.logit_scale.exp()`, as in training,
            spreads them.
        window_batch_size: Windows that go through the model at a time.

    Returns:
        fp32 `(B, C, H, W)` in [0, 1].

    Raises:
        ValueError: If a shape or an option is wrong.
    """
    if pixel_values.ndim != 4:
        raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch, 3, height, width).")
    if not temperature > 0 or window_batch_size < 1:
        raise ValueError(
            f"temperature is {temperature} and window_batch_size {window_batch_size}; give a positive temperature and "
            "at least 1 window at a time."
        )
    over_classes = (model.config.head if head is None else head) == "dinotxt"
    boxes = plan_windows(size_of(pixel_values), window_size, stride)
    images = []
    for image in pixel_values:  # (3, H, W)
        windows = cut_windows(image, boxes)  # (N, 3, h, w)
        logits = [
            model(pixel_values=batch, text_embeds=text_embeds, head=head, patch_source=patch_source).logits.float()
            for batch in windows.split(window_batch_size)
        ]
        images.append(_average(torch.cat(logits) / temperature, boxes, size_of(image), over_classes))
    return torch.stack(images)


def _average(logits: torch.Tensor, boxes: list[Box], size: tuple[int, int], over_classes: bool) -> torch.Tensor:
    """Logits of an image's windows `(N, C, h', w')` -> probabilities `(C, H, W)`, some classes at a time."""
    num_windows, num_classes = logits.shape[:2]
    window_size = boxes[0][2:]
    chunk_size = max(1, MAX_WINDOW_VALUES // (num_windows * window_size[0] * window_size[1]))

    def upsample(chunk: torch.Tensor) -> torch.Tensor:  # (N, c, h', w') -> (N, c, height, width)
        return F.interpolate(chunk, size=window_size, mode="bilinear", align_corners=False)

    if over_classes:
        # the denominator of the softmax at every pixel of every window, (N, height, width)
        log_sum = logits.new_full((num_windows, *window_size), float("-inf"))
        for chunk in logits.split(chunk_size, dim=1):
            log_sum = torch.logaddexp(log_sum, upsample(chunk).logsumexp(dim=1))

    probabilities = logits.new_empty(num_classes, *size)
    for start in range(0, num_classes, chunk_size):
        chunk = upsample(logits[:, start : start + chunk_size])
        chunk = chunk.sub_(log_sum[:, None]).exp_() if over_classes else chunk.sigmoid_()
        probabilities[start : start + chunk_size] = merge_windows(chunk[None], boxes, size, size)[0]
    return probabilities


__all__ = ["segment_windows"]
