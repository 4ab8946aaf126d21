# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Checks of the model's inputs; the messages name the processor that makes such inputs.

Types and shapes are always checked. Values (numbers that are not finite, ids outside of the vocabulary, boxes outside
of the image) must be copied from the device. They are not looked at in training, where each copy delays the step, nor
under `torch.compile`, where it would break the graph. Tensors on the device "meta" have none.
"""

from typing import Any

import torch

from .tensor_checks import checked_tensor, is_finite
from .windows import as_boxes, size_of


def check_one_of(**inputs: Any) -> None:
    """Checks that exactly one of two inputs is given.

    Raises:
        ValueError: If both or neither is given.
    """
    given = sum(value is not None for value in inputs.values())
    if given != 1:
        found = "both" if given else "neither"
        raise ValueError(f"Expected exactly one of {' and '.join(inputs)}; got {found}. Pass one of them.")


def check_prompts(input_ids: Any, attention_mask: Any, text_config: Any, values: bool = True) -> None:
    """Checks the token ids of classes.

    Args:
        input_ids: `(C, P, L)`.
        attention_mask: `(C, P, L)`, or `None`.
        text_config: The configuration of the text tower.
        values: Whether to check that all ids are in the vocabulary of the text tower.

    Raises:
        ValueError: If they are no integers `(C, P, L)`, a prompt is too long, or an id is not in the vocabulary of the
            text tower.
    """
    checked_tensor(input_ids, "input_ids", "integers")
    if input_ids.ndim != 3 or 0 in input_ids.shape:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}; expected (classes, prompts, length) or (classes, "
            "length), all at least 1. Use the processor, which returns input_ids for a list of class names."
        )
    if attention_mask is not None and (
        not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != input_ids.shape
    ):
        found = getattr(attention_mask, "shape", None)
        raise ValueError(
            f"attention_mask is of type {type(attention_mask).__name__}"
            + (f" and has shape {tuple(found)}" if isinstance(found, torch.Size) else "")
            + f"; expected a tensor of the shape of input_ids, {tuple(input_ids.shape)}."
        )
    longest = text_config.max_position_embeddings
    if input_ids.shape[-1] > longest:
        raise ValueError(
            f"A prompt has {input_ids.shape[-1]} tokens; expected at most {longest} for the text tower. Shorten "
            "the class name."
        )
    if not values or not _has_readable_values(input_ids):
        return
    low, high = (int(bound) for bound in input_ids.long().aminmax())
    if low < 0 or high >= text_config.vocab_size:
        raise ValueError(
            f"input_ids contains ids from {low} to {high}; expected 0 to {text_config.vocab_size - 1}, the vocabulary "
            "of the text tower. Use the tokenizer of this checkpoint."
        )


def check_images(
    pixel_values: Any, window_pixel_values: Any, window_boxes: Any, channels: int, values: bool = True
) -> Any:
    """Checks images and their windows; see `forward`.

    Args:
        pixel_values: `(B, C, H, W)`.
        window_pixel_values: `(B, N, C, S, S')`, or `None`.
        window_boxes: `(N, 4)`, or `None`. A collator of transformers repeats them for each image: `(B * N, 4)`.
        channels: The number of channels of an image.
        values: Whether to check that all values are finite and all windows inside of the image.

    Returns:
        The boxes, once.

    Raises:
        ValueError: If a shape or dtype is invalid, a window is outside of its image, or a value is not finite.
    """
    checked_tensor(pixel_values, "pixel_values", "floats")
    if pixel_values.ndim != 4 or pixel_values.shape[1] != channels or 0 in pixel_values.shape:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch, {channels}, height, width), all "
            "at least 1. Use the image processor, which returns pixel_values."
        )
    _refuse_infinite(pixel_values, "pixel_values", values)
    if (window_pixel_values is None) != (window_boxes is None):
        raise ValueError(
            "Got only one of window_pixel_values and window_boxes; expected both (for local-global inference) or "
            "neither."
        )
    if window_pixel_values is None or window_boxes is None:
        return None
    checked_tensor(window_pixel_values, "window_pixel_values", "floats")
    if not isinstance(window_boxes, (list, tuple)):
        checked_tensor(window_boxes, "window_boxes", "integers")
        window_boxes = _without_repetitions(window_boxes, window_pixel_values)
    num_windows = len(window_boxes) if isinstance(window_boxes, (list, tuple)) or window_boxes.ndim else 0
    expected = (pixel_values.shape[0], num_windows, channels)
    if window_pixel_values.ndim != 5 or window_pixel_values.shape[:3] != expected or 0 in window_pixel_values.shape:
        raise ValueError(
            f"window_pixel_values has shape {tuple(window_pixel_values.shape)}; expected "
            f"(batch {expected[0]}, windows {expected[1]}, {channels}, height, width), which matches "
            "pixel_values and window_boxes."
        )
    if values and _has_readable_values(pixel_values):
        as_boxes(window_boxes, size_of(pixel_values))
    _refuse_infinite(window_pixel_values, "window_pixel_values", values)
    return window_boxes


def _without_repetitions(boxes: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """The boxes of one image, if those of all images of the batch follow each other and are the same."""
    if windows.ndim != 5 or boxes.ndim != 2 or len(boxes) == windows.shape[1]:
        return boxes
    batch_size, num_windows = windows.shape[:2]
    if len(boxes) != batch_size * num_windows or not torch.equal(boxes, boxes[:num_windows].repeat(batch_size, 1)):
        return boxes
    return boxes[:num_windows]


def check_text_embeds(text_embeds: Any, width: int, values: bool = True) -> None:
    """Checks text embeddings `(C, 2, width)`.

    Raises:
        ValueError: If the shape or the dtype is invalid, or a value is not finite.
    """
    checked_tensor(text_embeds, "text_embeds", "floats")
    if text_embeds.ndim != 3 or text_embeds.shape[1:] != (2, width) or text_embeds.shape[0] == 0:
        raise ValueError(
            f"text_embeds has shape {tuple(text_embeds.shape)}; expected (classes, 2, {width}) with at least one "
            "class. Use get_text_features of the same model, which returns [global, local] embeddings."
        )
    _refuse_infinite(text_embeds, "text_embeds", values)


def check_image_features(image_features: Any) -> None:
    """Checks that features have the attributes that every head needs.

    Raises:
        ValueError: If they are something else than the result of `get_image_features`.
    """
    # not `isinstance`, because the class may have been loaded from the Hub
    for name in ("patch_features", "cls_embeds"):
        if not isinstance(getattr(image_features, name, None), torch.Tensor):
            raise ValueError(
                f"image_features is of type {type(image_features).__name__} without {name}; expected "
                "Dinov3SegImageFeatures. Use get_image_features of the same model."
            )


def _has_readable_values(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and not torch.compiler.is_compiling()


def _refuse_infinite(tensor: torch.Tensor, what: str, values: bool) -> None:
    if values and _has_readable_values(tensor) and not is_finite(tensor):
        raise ValueError(
            f"{what} contains NaN or infinity; expected finite numbers. Compute {what} again, in float32 or bfloat16."
        )


__all__ = ["check_image_features", "check_images", "check_one_of", "check_prompts", "check_text_embeds"]
