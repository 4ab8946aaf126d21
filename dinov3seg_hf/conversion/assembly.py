# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Builds the model from converted tensors; initializes and lists the tensors that are not in any file."""

import torch

from ..model.configuration_dinov3seg import Dinov3SegConfig
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from ..model.tensor_checks import is_finite
from .layouts import Tensors
from .parts import EARLY_REFINEMENT, PRIOR_ENCODER
from .reading import refuse_differences

# Parts of the model to be trained: published files do not contain their tensors, except for the prior encoder and the
# early refinement (AnyUp).
NEW_PARTS = ("early_refinement", "semantic_prior", "correlation_embedding", "late_refinement", "decoder")


def assemble_model(
    config: Dinov3SegConfig, parts: list[Tensors], dtype: torch.dtype, seed: int
) -> tuple[Dinov3SegForSemanticSegmentation, dict[str, list[str]]]:
    """Builds the model from converted tensors, which are copied only if their dtype changes.

    Returns:
        The model, and the names of its newly initialized tensors by part of the model.

    Raises:
        ValueError: If a tensor is missing, unexpected, not finite or of another size.
    """
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(config)
    expected = model.state_dict()
    tensors = {key: tensor for part in parts for key, tensor in part.items()}
    has_anyup = any(key.startswith(EARLY_REFINEMENT) for key in tensors)
    new_parts = tuple(part for part in NEW_PARTS if not (has_anyup and EARLY_REFINEMENT.startswith(part)))
    new = {key for key in expected if key.startswith(new_parts) and not key.startswith(PRIOR_ENCODER)}
    refuse_differences("The model that these files describe", set(expected) - new, set(tensors))
    wrong = [
        f"{key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != expected[key].shape
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors have a shape that does not fit the rest of their file ({'; '.join(wrong[:3])}). "
            "Pass the published files."
        )

    for key, tensor in tensors.items():
        tensors[key] = tensor.to(dtype)
        if not is_finite(tensors[key]):
            raise ValueError(
                f"{key} contains NaN or infinity in {dtype}; expected finite values. Download the file again, or "
                "choose float32."
            )
    _initialize(model, new_parts, seed)
    module: torch.nn.Module = model  # transformers types its own `to` as an unbound function
    module.to(dtype)
    model.load_state_dict(tensors, strict=False, assign=True)  # all keys were compared above
    by_part: dict[str, list[str]] = {}
    for key in sorted(new):
        by_part.setdefault(key.split(".")[0], []).append(key)
    return model, by_part


@torch.no_grad()
def _initialize(model: Dinov3SegForSemanticSegmentation, new_parts: tuple[str, ...], seed: int) -> None:
    """Allocates and initializes the parts to be trained; does not change the random state of the caller."""
    modules = [
        module
        for name, module in model.named_modules()
        if name.startswith(new_parts) and not f"{name}.".startswith(PRIOR_ENCODER)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in reversed(modules):  # a module follows its submodules, because it may set their values
            for name, parameter in list(module.named_parameters(recurse=False)):
                unset = torch.full(parameter.shape, float("nan"), dtype=parameter.dtype)
                setattr(module, name, torch.nn.Parameter(unset))
            model._init_weights(module)
    forgotten = [name for name, value in model.named_parameters() if not value.is_meta and not is_finite(value)]
    if forgotten:
        raise RuntimeError(f"The model's `_init_weights` does not initialize {forgotten}; expected all new parameters.")
