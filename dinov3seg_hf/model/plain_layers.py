# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Which layers can be replaced by a faster computation of the same: those that compute what their weights say."""

from collections.abc import Mapping

import torch
from torch import nn


def is_plain(
    layer: nn.Conv2d | nn.ConvTranspose2d,
    kind: type[nn.Module],
    geometry: Mapping[str, tuple[int, int]],
    device: torch.device,
) -> bool:
    """Whether a layer computes what its weights say, and nobody listens to its calls.

    Adapters and parametrizations are other classes. Quantized weights are tensors of other classes, and offloaded ones
    are on other devices. `weight_norm`, `prune` and all who read activations add hooks; accelerate sets a `forward`.

    Args:
        layer: The layer.
        kind: Its class.
        geometry: Expected values of its attributes, such as `kernel_size`.
        device: Where it computes.
    """
    if type(layer) is not kind:
        return False
    # torch has no public list of hooks; they are attributes of the layer: "_forward_hooks" and "_forward_pre_hooks"
    is_watched = any(value for name, value in vars(layer).items() if "forward" in name)
    weights = [weight for weight in (layer.weight, layer.bias) if weight is not None]
    return (
        not is_watched
        and all(type(weight) in (nn.Parameter, torch.Tensor) and weight.device == device for weight in weights)
        and all(getattr(layer, name) == value for name, value in geometry.items())
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
    )
