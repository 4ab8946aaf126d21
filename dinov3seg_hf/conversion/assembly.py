# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The model around converted tensors: every tensor has an origin, and what no file holds is initialized."""

import torch

from ..model.configuration_dinov3seg import Dinov3SegConfig
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .layouts import Tensors
from .parts import PRIOR_ENCODER
from .reading import refuse_differences

# Parts of the model that are there to be trained: but for the prior encoder, no published file holds a tensor of them.
NEW_PARTS = ("early_refinement", "semantic_prior", "correlation_embedding", "late_refinement", "decoder")


def assemble_model(
    config: Dinov3SegConfig, parts: list[Tensors], dtype: torch.dtype, seed: int
) -> tuple[Dinov3SegForSemanticSegmentation, dict[str, list[str]]]:
    """The model around the converted tensors (copied only where their format changes), and what is new in it."""
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(config)
    expected = model.state_dict()
    tensors = {key: tensor for part in parts for key, tensor in part.items()}
    new = {key for key in expected if key.startswith(NEW_PARTS) and not key.startswith(PRIOR_ENCODER)}
    refuse_differences("The model that these files describe", set(expected) - new, set(tensors))
    wrong = [
        f"{key} is {tuple(tensor.shape)} in place of {tuple(expected[key].shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != expected[key].shape
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors have other sizes than the rest of their file: {'; '.join(wrong[:3])}. Give the "
            "published files."
        )

    for key, tensor in tensors.items():
        tensors[key] = tensor.to(dtype)
        if not _is_finite(tensors[key]):
            raise ValueError(f"{key} holds NaN or infinity in {dtype}. Download its file again, or choose float32.")
    _initialize(model, seed)
    module: torch.nn.Module = model  # the library's own `to` is typed as a function that still wants its model
    module.to(dtype)
    model.load_state_dict(tensors, strict=False, assign=True)  # compared key by key above
    by_part: dict[str, list[str]] = {}
    for key in sorted(new):
        by_part.setdefault(key.split(".")[0], []).append(key)
    return model, by_part


@torch.no_grad()
def _initialize(model: Dinov3SegForSemanticSegmentation, seed: int) -> None:
    """Gives the parts to be trained memory and initial values; the caller's random numbers stay as they are."""
    modules = [
        module
        for name, module in model.named_modules()
        if name.startswith(NEW_PARTS) and not f"{name}.".startswith(PRIOR_ENCODER)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in reversed(modules):  # a part comes after its own parts, whose values it may set
            for name, parameter in list(module.named_parameters(recurse=False)):
                unset = torch.full(parameter.shape, float("nan"), dtype=parameter.dtype)
                setattr(module, name, torch.nn.Parameter(unset))
            model._init_weights(module)
    forgotten = [name for name, value in model.named_parameters() if not value.is_meta and not _is_finite(value)]
    if forgotten:
        raise RuntimeError(f"The model's `_init_weights` leaves {forgotten} without a value.")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Without temporaries of the tensor's size, as `isfinite` makes them: NaN passes through minimum and maximum."""
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())
