# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Which weights a model has: digests that tell them apart everywhere, and a quick key that tells when they change.

The only identities of weights in the package. `weights_fingerprint` is for files that outlive the process (results,
runs, cards), `model_fingerprint` for text embeddings, which depend on the text tower alone, `weights_key` for caches.
"""

import hashlib
import json
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

# What decides the output of a CLIP text tower and cannot be seen in the names and shapes of its weights.
TEXT_CONFIG_FIELDS = ("hidden_act", "layer_norm_eps", "num_attention_heads", "eos_token_id")


class TextEncoder(Protocol):
    """A model that reads text."""

    @property
    def text_model(self) -> PreTrainedModel: ...

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor: ...


def sha256_of(content: Any) -> str:
    """SHA-256 (hex) over content that JSON can hold; the order of a dict's keys does not count."""
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) over all weights of a model, their names and dtypes; the device does not count."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def model_fingerprint(model: TextEncoder) -> str:
    """SHA-256 (hex) over all of a model that text embeddings depend on: `model.text_model`, weights and configuration.

    Independent of the device, the attention implementation and the order of the weights; the dtype counts. Reads every
    weight of the text tower: about a second a gigabyte.

    Raises:
        ValueError: The weights are not in memory (`meta` device).
    """
    text_model = model.text_model
    config = {key: getattr(text_model.config, key) for key in TEXT_CONFIG_FIELDS}
    digest = hashlib.sha256(sha256_of(config).encode())
    for name, tensor in sorted(text_model.state_dict().items()):
        if tensor.is_meta:
            raise ValueError(
                f"The weight {name!r} of the text tower is on the meta device, without values. Load the weights first."
            )
        digest.update(sha256_of([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def weights_key(module: nn.Module) -> tuple[object, ...]:
    """Changes when weights do, without reading them all: where they are, how often torch wrote to them, a few values.

    The values tell of writes past torch's count (`parameter.data`), as exponential averages and adapters make them.
    """
    places, values = [], []
    for parameter in module.parameters():
        flat = parameter.detach().flatten()
        places.append((flat.data_ptr(), _num_writes(parameter), parameter.dtype, parameter.device))
        values.append(flat[:: max(1, flat.numel() // 8)].float())
    if not values:
        return ()
    device = values[0].device  # a model may be spread over several
    return (tuple(places), torch.cat([sample.to(device) for sample in values]).cpu().numpy().tobytes())


def _num_writes(tensor: torch.Tensor) -> int:
    """What torch counts for autograd; tensors of inference mode have no count."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 documented in torch's notes on autograd


def _bytes_of(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
