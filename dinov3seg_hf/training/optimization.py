# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Chooses the trainable parameters and their optimizer groups, and computes the moving average of the weights.

Handles modules and parameters, not data or files.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation

# Prefixes of the parameter names of each encoder; `vision_model` contains the backbone and the vision head.
_ENCODER_PREFIXES = {"vision": "vision_model", "text": "text_model"}

# The decoder multiplies these weights by the inverse temperature (50 to 100), so at the learning rate of the head they
# would leave dino.txt's calibration within tens of steps, although the other parts have learned nothing yet. The offset
# and the thresholds are multiplied, too, but they only decide what is no class, and that has to be learned.
_COSINE = "decoder.correlation_weight"
COSINE_MULTIPLIER = 0.01

# A layer of an encoder, such as `vision_model.backbone.model.layer.3`.
_LAYER = re.compile(r"^.*\blayers?\.\d+(?=\.)")

# The query and value projections of every attention layer.
_QUERY_OR_VALUE = re.compile(r"\b(q_proj|v_proj)\b")


def choose_trainable(
    model: Dinov3SegForSemanticSegmentation, encoders: Sequence[str] = (), lora_rank: int = 0
) -> Dinov3SegForSemanticSegmentation:
    """Freezes dino.txt and the prior encoder, except for the parts that `encoders` selects. Works in place.

    Args:
        model: The model; everything after the encoders stays trainable.
        encoders: Encoders, `"vision"` or `"text"`, whose query and value projections are trained; or `"all"`: every
            weight of both encoders is trained.
        lora_rank: If positive, the rank of low-rank adapters that are trained instead of these projections.

    Raises:
        ValueError: If adapters are requested and peft is not installed.
    """
    model.freeze_encoders()
    if not (model.config.use_guidance and model.config.use_spatial_refinement):
        # these modules are not used then, and data parallelism would wait for their gradients
        for module in (model.semantic_prior.guidance_norm, model.semantic_prior.guidance_projection):
            module.requires_grad_(False)
    if "all" in encoders:
        for encoder in (model.vision_model, model.text_model):
            encoder.requires_grad_(True)
        # only the pre-training of DINOv3 uses it, and data parallelism would wait for its gradient
        model.vision_model.backbone.embeddings.mask_token.requires_grad_(False)
    prefixes = tuple(f"{_ENCODER_PREFIXES[encoder]}." for encoder in encoders if encoder != "all")
    if prefixes and lora_rank:
        _add_lora(model, prefixes, lora_rank)
    elif prefixes:
        for name, parameter in model.named_parameters():
            if name.startswith(prefixes) and _QUERY_OR_VALUE.search(name):
                parameter.requires_grad_(True)
    if model.config.patch_source == "backbone":
        model.vision_model.head.requires_grad_(False)  # no loss depends on it
    return model


def _add_lora(model: nn.Module, prefixes: tuple[str, ...], rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("lora_rank requires peft, which is not installed. Run `pip install peft`.") from error
    targets = [
        name
        for name, module in model.named_modules()
        if name.startswith(prefixes) and isinstance(module, nn.Linear) and _QUERY_OR_VALUE.search(name)
    ]
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), model)
    # peft freezes all parameters except the adapters
    for name, parameter in model.named_parameters():
        if name in trainable:
            parameter.requires_grad_(True)


def merge_lora(model: nn.Module) -> None:
    """Merges the LoRA adapters into the weights and removes the adapters, in place. Does nothing without adapters."""
    adapted = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
    for name, module in adapted:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())


def set_training_mode(model: Dinov3SegForSemanticSegmentation) -> None:
    """Sets the head to train mode and the encoders to eval mode, even if parts of the encoders are trained.

    In train mode, DINOv3 augments its RoPE coordinates, which would change the features that the text is aligned with.
    On the layers of a trained encoder, only the flag that gradient checkpointing reads is set.
    """
    model.train()
    for encoder in model.encoders:
        encoder.eval()
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            for module in encoder.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = module.gradient_checkpointing


def enable_activation_checkpointing(model: Dinov3SegForSemanticSegmentation) -> None:
    """Turns on activation checkpointing in place: activations are recomputed in the backward pass to save memory."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:  # transformers before 5.23 has only the former name
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def layers_above(model: nn.Module) -> dict[str, int]:
    """Returns a mapping from the name of each parameter of an encoder to the number of its trained layers after it.

    The layers of the vision head come after those of the backbone. What is between layers, such as a norm, counts to
    the layer before it; embeddings come before all layers. Layers without a trained parameter, such as those of a
    vision head that is not used, do not count.
    """
    above = {}
    for prefix in _ENCODER_PREFIXES.values():
        layers: list[str] = []  # so far; parameters have the order of their modules
        place = {}
        for name, parameter in model.get_submodule(prefix).named_parameters(prefix=prefix):
            if parameter.requires_grad and (layer := _LAYER.match(name)) and layer[0] not in layers:
                layers.append(layer[0])
            place[name] = len(layers)
        above.update({name: len(layers) - number for name, number in place.items()})
    return above


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    encoder_multiplier: float,
    encoder_layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Makes the optimizer's parameter groups: head, cosine and encoders, each with and without weight decay.

    With a layer decay below 1, each layer of an encoder has groups of its own. The rate of the last layer is that of
    the encoders, and the rate of each other layer is this factor times the rate of the layer after it, as in BEiT.

    Matrices and kernels (`weight` with two or more dimensions) have weight decay. Norms, biases, scales and tables (of
    tokens, of positions, of relative positions) do not, as in CAT-Seg. The weights of the cosine in the decoder have
    their own low learning rate. Empty groups are left out.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    above = layers_above(model)
    multipliers = {"head": 1.0, "cosine": COSINE_MULTIPLIER}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "cosine" if name.endswith(_COSINE) else "head"
            if name in above:
                number = above[name] if encoder_layer_decay != 1 else 0
                part = f"encoders{f', {number} layers above' if number else ''}"
                multipliers[part] = encoder_multiplier * encoder_layer_decay**number
            decays = name.endswith("weight") and parameter.ndim >= 2 and parameter not in tables
            groups.setdefault((part, decays), []).append(parameter)
    return [
        {
            "name": f"{part}{'' if decays else ', no decay'}",
            "params": groups[part, decays],
            "lr": learning_rate * multiplier,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for part, multiplier in multipliers.items()
        for decays in (True, False)
        if (part, decays) in groups
    ]


class MovingAverage:
    """Exponential moving average of the trainable parameters, in float32.

    In early steps, the decay is limited to `(1 + step) / (10 + step)`, so that the initial weights do not dominate the
    average.

    Args:
        model: The model with the trainable parameters.
        decay: Share of the average that each update keeps, below 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.num_updates = decay, 0
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Updates the average with the current weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        for name, parameter in self._parameters.items():
            self._average[name].lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Copies the average to the weights of the model."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._average[name])

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Inside the context, replaces the weights with their moving average; restores the weights afterwards."""
        weights = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_updates = state["num_updates"]
        for name, average in self._average.items():
            average.copy_(state["average"][name])
