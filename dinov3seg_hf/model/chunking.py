# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Computes functions that are independent along one axis in chunks: the same results in bounded memory."""

from collections.abc import Callable

import torch


def map_chunks(
    function: Callable[..., torch.Tensor], *tensors: torch.Tensor, dim: int, chunk_size: int | None
) -> torch.Tensor:
    """Computes `function(*tensors)` in chunks of `chunk_size` along `dim` and joins the chunks into one result.

    Args:
        function: A function that treats every index of `dim` independently and keeps the length of `dim`.
        tensors: Input tensors of equal length along `dim`.
        dim: The axis to split, in the inputs and in the result.
        chunk_size: Maximum length of a chunk. `None`: a single chunk.
    """
    length = tensors[0].shape[dim]
    if chunk_size is None or length <= chunk_size:
        return function(*tensors)
    chunks = zip(*(tensor.split(chunk_size, dim=dim) for tensor in tensors))
    if torch.is_grad_enabled():
        return torch.cat([function(*chunk) for chunk in chunks], dim=dim)
    # Without gradients, the result is allocated once. The chunks and their concatenation are never both in memory.
    first = function(*next(chunks))
    result = first.new_empty([length if axis == dim else size for axis, size in enumerate(first.shape)])
    start = first.shape[dim]
    result.narrow(dim, 0, start).copy_(first)
    del first
    for chunk in chunks:
        part = function(*chunk)
        result.narrow(dim, start, part.shape[dim]).copy_(part)
        start += part.shape[dim]
    return result
