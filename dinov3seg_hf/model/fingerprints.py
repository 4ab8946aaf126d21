# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Fingerprints that identify model weights in every process, and a fast key that changes with the weights.

The package has no other identities of weights. `weights_fingerprint` is for files that outlive the process (results,
runs, model cards); `state_fingerprint` is the same for features of images in other processes. `model_fingerprint` is
for text embeddings, which depend only on the text tower. `weights_key` is for caches.
"""

import hashlib
import json
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

# Options that change the output of a CLIP text tower but not the names and shapes of its weights.
TEXT_CONFIG_FIELDS = ("hidden_act", "layer_norm_eps", "num_attention_heads", "eos_token_id")


class TextEncoder(Protocol):
    """A model with a text encoder."""

    @property
    def text_model(self) -> PreTrainedModel: ...

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor: ...


def sha256_of(content: Any) -> str:
    """Returns the SHA-256 (hex) of JSON-serializable content; the order of dictionary keys is ignored."""
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """Returns the SHA-256 (hex) of a model's state: names, shapes, dtypes and values; the device is ignored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def state_fingerprint(model: nn.Module) -> str:
    """Returns the `weights_fingerprint` of a model, also of which adapters of PEFT are active.

    The weights are read only once, until they change.

    Raises:
        ValueError: If weights are not in memory (`meta` device).
    """
    key, known = weights_key(model), _KNOWN_STATES.get(model)
    if known is None or known[0] != key:
        name = next((name for name, tensor in model.state_dict().items() if tensor.is_meta), None)
        if name is not None:
            raise ValueError(
                f"The weight {name!r} is on the meta device, so encoded images cannot be pickled, or used after it; "
                "expected values. Do not offload the model (device_map), or encode the images in this process."
            )
        known = key, sha256_of([weights_fingerprint(model), list(key[1:2])])
        _KNOWN_STATES[model] = known
    return known[1]


# of models in use, with the key of the weights
_KNOWN_STATES: "weakref.WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], str]]" = weakref.WeakKeyDictionary()


def model_fingerprint(model: TextEncoder) -> str:
    """Returns the SHA-256 (hex) of everything that text embeddings depend on.

    These are the weights and some options of `model.text_model`. The device, the attention implementation and the order
    of the weights are ignored; the dtype is included. The function reads all weights of the text tower, which takes
    about one second per gigabyte.

    Raises:
        ValueError: If the weights are not in memory (`meta` device).
    """
    text_model = model.text_model
    config = {key: getattr(text_model.config, key) for key in TEXT_CONFIG_FIELDS}
    digest = hashlib.sha256(sha256_of(config).encode())
    for name, tensor in sorted(text_model.state_dict().items()):
        if tensor.is_meta:
            raise ValueError(
                f"The weight {name!r} of the text tower is on the meta device; expected values. Load the weights "
                "first, and do not offload the text tower (device_map)."
            )
        digest.update(sha256_of([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def weights_key(module: nn.Module) -> tuple[object, ...]:
    """Returns a key that changes when the weights change, without reading all weights.

    For each parameter, the key contains the address, the number of writes counted by torch, the dtype, the device and a
    few values. The values reveal writes that torch does not count (`parameter.data`), for example by exponential moving
    averages and adapters. Of weights that are offloaded (device "meta"), it contains neither. For each layer with
    adapters of PEFT, the key contains which of them are active.
    """
    places, values = [], []
    layers: Iterator[Any] = module.modules()
    adapters = tuple(
        (off, tuple(layer.active_adapters))
        for layer in layers
        if isinstance(off := getattr(layer, "disable_adapters", None), bool)  # of a model, it is a method
    )
    for parameter in module.parameters():
        if parameter.is_meta:  # offloaded by accelerate, which makes such a parameter anew after each use
            places.append((0, 0, parameter.dtype, parameter.device))
            continue
        flat = parameter.detach().flatten()
        places.append((flat.data_ptr(), _num_writes(parameter), parameter.dtype, parameter.device))
        values.append(flat[:: max(1, flat.numel() // 8)].float())
    if not values:
        return (tuple(places), adapters)
    device = values[0].device  # a model may be on several devices
    return (tuple(places), adapters, torch.cat([sample.to(device) for sample in values]).cpu().numpy().tobytes())


def _num_writes(tensor: torch.Tensor) -> int:
    """Returns the number of writes that torch counts for autograd; 0 for inference tensors, which have no count."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 documented in torch's notes on autograd


def _bytes_of(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
