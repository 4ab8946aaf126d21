# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Ends a computation between two layers of the model, for the demo and for the service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class TimeLimitError(ValueError):
    """Raised if a request takes more time than it may; the message contains the remedy."""


def time_limit_error(limit: float, *, has_begun: bool) -> TimeLimitError:
    """Returns the error of a request that took more than a number of seconds.

    Args:
        limit: The number of seconds.
        has_begun: Whether it was computed; else it waited for others.
    """
    if not has_begun:
        return TimeLimitError(
            f"The request waited for more than {limit:g} s, the limit of this server, because others came before it. "
            "Try again later."
        )
    return TimeLimitError(
        f"The request took more than {limit:g} s, the limit of this server. Use fewer words, a smaller image, or the "
        "inference mode whole."
    )


@contextmanager
def checked_between_layers(model: nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Calls a function before each part of the model is computed inside the context; its error ends the computation.

    A layer that has begun cannot be ended. Layers without parts get no hook: the decoder calls layers with hooks, and
    computes others as one.

    Args:
        model: The model. No other thread may use it inside the context.
        check: Raises the error.
    """

    def before(module: nn.Module, arguments: Any) -> None:
        check()

    parts = [module for module in model.modules() if any(True for _ in module.children())]
    handles = [module.register_forward_pre_hook(before) for module in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
