# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Checks of the shapes of the model's inputs; the messages name the processor that makes such inputs."""

import torch


def check_images(
    num_channels: int,
    pixel_values: torch.Tensor,
    window_pixel_values: torch.Tensor | None,
    window_boxes: torch.Tensor | None,
) -> None:
    """Checks the images and windows of `get_image_features`.

    Raises:
        ValueError: If a shape is invalid, the shapes do not match, or windows come without boxes.
    """
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels or 0 in pixel_values.shape:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch, {num_channels}, height, width), all "
            "at least 1. Use the image processor, which returns pixel_values."
        )
    if (window_pixel_values is None) != (window_boxes is None):
        raise ValueError(
            "Got only one of window_pixel_values and window_boxes; expected both (for local-global inference) or "
            "neither."
        )
    if window_pixel_values is not None and window_boxes is not None:
        expected = (pixel_values.shape[0], len(window_boxes), num_channels)
        if window_pixel_values.ndim != 5 or window_pixel_values.shape[:3] != expected:
            raise ValueError(
                f"window_pixel_values has shape {tuple(window_pixel_values.shape)}; expected "
                f"(batch {expected[0]}, windows {expected[1]}, {num_channels}, height, width), which matches "
                "pixel_values and window_boxes."
            )


def check_prompts(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, max_length: int) -> None:
    """Checks the token ids `(C, P, L)` of `get_text_features` and their mask.

    Raises:
        ValueError: If a shape is invalid, or a prompt has more than `max_length` tokens.
    """
    if input_ids.ndim != 3 or 0 in input_ids.shape:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}; expected (classes, prompts, length) or (classes, "
            "length), all at least 1. Use the processor, which returns input_ids for a list of class names."
        )
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected the shape of input_ids, "
            f"{tuple(input_ids.shape)}."
        )
    if input_ids.shape[-1] > max_length:
        raise ValueError(
            f"A prompt has {input_ids.shape[-1]} tokens; expected at most {max_length} for the text tower. Shorten "
            "the class name."
        )


def check_text_embeds(text_embeds: torch.Tensor, width: int) -> None:
    """Checks text embeddings `(C, 2, width)`.

    Raises:
        ValueError: If the shape is invalid.
    """
    if text_embeds.ndim != 3 or text_embeds.shape[1:] != (2, width) or text_embeds.shape[0] == 0:
        raise ValueError(
            f"text_embeds has shape {tuple(text_embeds.shape)}; expected (classes, 2, {width}) with at least one "
            "class. Use get_text_features of the same model, which returns [global, local] embeddings."
        )
