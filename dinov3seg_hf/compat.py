# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Contains all uses of private names of other libraries; a test fails if one of these names is removed.

`model/` does not use private names, because it is published with checkpoints and must run with other versions.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HTTPError as TransportError  # from the HTTP library of the client

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

__all__ = ["TransportError", "actions_of", "product_counter", "with_features", "without_mixed_precision", "work_of"]

NO_WORK = ("empty", "_unsafe_view")  # parts of the names of operations of torch that start no kernel


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of a parser; argparse does not have a public API for this."""
    return parser._actions  # noqa: SLF001  # no public API


def with_features(dataset: Any) -> Any:
    """The streamed data set with known `features`; missing features are inferred from the first rows.

    `datasets` does not have a public API for this.
    """
    return dataset if dataset.features is not None else dataset._resolve_features()  # noqa: SLF001  # no public API


@contextmanager
def without_mixed_precision(model: "nn.Module") -> Iterator[None]:
    """Turns mixed precision off inside the context: removes the `forward` that Accelerate sets on a prepared model."""
    wrapped = model.__dict__.pop("forward", None) if "_original_forward" in model.__dict__ else None
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped


@contextmanager
def work_of() -> "Iterator[list[tuple[Any, int]]]":
    """Lists the operations of torch inside the context that are no views, each with the bytes that it reads and writes.

    Attention is one operation, as the fused one of an accelerator, also where torch computes it in parts (as on the
    device "meta"). torch does not have a public API for this; its profiler does not know the sizes on "meta".
    """
    import torch
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    done: list[tuple[Any, int]] = []
    in_attention = False

    def add(function: Any, *values: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
        done.append((function, sum(tensor.numel() * tensor.element_size() for tensor in tensors)))

    class Listing(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            # "_unsafe_view" is a view that torch does not call one
            if not in_attention and not function.is_view and not any(word in str(function) for word in NO_WORK):
                add(function, args, kwargs, result)
            return result

    class Attention(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal in_attention
            if function is not F.scaled_dot_product_attention:
                return function(*args, **(kwargs or {}))
            in_attention = True
            try:
                result = function(*args, **(kwargs or {}))
                # in memory like the result of the fused attention: the heads of a position side by side
                result = result.transpose(1, 2).contiguous().transpose(1, 2)
            finally:
                in_attention = False
            add(function, args, kwargs, result)
            return result

    with Listing(), Attention():
        yield done


def product_counter() -> "FlopCounterMode":
    """Counts the operations of products and convolutions inside its context, also those of attention on a CPU.

    `FlopCounterMode` knows the fused attention of GPUs alone; that of a CPU has only a private name.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:  # shapes
        return sdpa_flop_count(query, key, value)

    operation = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001  # no public name
    return FlopCounterMode(display=False, custom_mapping={operation: attention})
