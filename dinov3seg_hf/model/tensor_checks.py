# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Checks of single tensors and devices of torch; like those of plain values in `checks`."""

from typing import Any

import torch

from .checks import quoted


def checked_tensor(value: Any, what: str, kind: str) -> torch.Tensor:
    """Returns the value if it is a tensor of numbers of a kind.

    Args:
        value: The value to check.
        what: The name of the value in the error message.
        kind: `"integers"` or `"floats"`.

    Raises:
        ValueError: If the value is not such a tensor.
    """
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{what} is of type {type(value).__name__}; expected a torch.Tensor of {kind}. Convert it.")
    is_kind = {
        "floats": value.is_floating_point(),
        "integers": not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool),
    }[kind]
    if not is_kind:
        raise ValueError(f"{what} has dtype {value.dtype}; expected {kind}. Convert it, or pass another tensor.")
    return value


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite. NaN propagates to minimum and maximum; `isfinite` would need a large temporary."""
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def checked_device(value: Any) -> torch.device | None:
    """Returns a device of torch, or `None`.

    Raises:
        ValueError: If the value is no device.
    """
    if value is None:
        return None
    try:
        return torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device is {quoted(value)}; expected for example 'cpu' or 'cuda:0'.") from error
