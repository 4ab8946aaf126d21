# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Computes functions that are independent along one axis in chunks: the same results in bounded memory."""

from collections.abc import Callable
from typing import Literal

import torch

# Memory of the values that a chunk keeps; a layer makes a few times as many on the way. On a CPU, they should stay in
# its cache; on other devices, there should be enough for all cores. Measured by benchmarks/head.py.
CHUNK_BYTES = {"cpu": 4 * 2**20}
CHUNK_BYTES_ELSEWHERE = 256 * 2**20


def resolve_chunk_size(chunk_size: int | Literal["auto"] | None, item_bytes: int, device: torch.device) -> int | None:
    """Returns the number of items per chunk; `"auto"` depends only on the size of an item and on the type of device.

    It does not depend on how much memory is free, so that the same call gives the same bits.
    """
    if chunk_size != "auto":
        return chunk_size
    return max(1, CHUNK_BYTES.get(device.type, CHUNK_BYTES_ELSEWHERE) // item_bytes)


def map_chunks(
    function: Callable[..., torch.Tensor],
    *tensors: torch.Tensor,
    dim: int,
    chunk_size: int | None,
    overwrite: bool = False,
) -> torch.Tensor:
    """Computes `function(*tensors)` in chunks of `chunk_size` along `dim` and joins the chunks into one result.

    Args:
        function: A function that treats every index of `dim` independently and keeps the length of `dim`.
        tensors: Input tensors of equal length along `dim`.
        dim: The axis to split, in the inputs and in the result.
        chunk_size: Maximum length of a chunk. `None`: a single chunk.
        overwrite: Whether the result may take the place of the first tensor, which must have its shape and dtype. Not
            with gradients, which need both.

    A traced graph (`torch.compile`, `torch.export`) has a single chunk: a number of chunks would hold for some lengths
    only.
    """
    length = tensors[0].shape[dim]
    if chunk_size is None or torch.compiler.is_compiling() or length <= chunk_size:
        return function(*tensors)
    chunks = zip(*(tensor.split(chunk_size, dim=dim) for tensor in tensors))
    if torch.is_grad_enabled():
        return torch.cat([function(*chunk) for chunk in chunks], dim=dim)
    # Without gradients, the result is allocated once. The chunks and their concatenation are never both in memory.
    result = tensors[0] if overwrite else None
    start = 0
    for chunk in chunks:
        part = function(*chunk)
        if result is None:
            result = part.new_empty([length if axis == dim else size for axis, size in enumerate(part.shape)])
        result.narrow(dim, start, part.shape[dim]).copy_(part)
        start += part.shape[dim]
    assert result is not None
    return result
