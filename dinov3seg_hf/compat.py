# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Every private name of another library that the package uses, in one place; a test says when one is gone.

`model/` uses none: what travels with a checkpoint has to run with whatever version is there.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HTTPError as TransportError  # of the HTTP library that the client is made with
from torch import nn

__all__ = ["TransportError", "actions_of", "with_features", "without_mixed_precision"]


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments that a parser knows; argparse has no public name for them."""
    return parser._actions  # noqa: SLF001  # no public name


def with_features(dataset: Any) -> Any:
    """A streamed data set that says what its columns hold; where it did not, the first rows are read.

    `datasets` has no public name for it.
    """
    return dataset if dataset.features is not None else dataset._resolve_features()  # noqa: SLF001  # no public name


@contextmanager
def without_mixed_precision(model: nn.Module) -> Iterator[None]:
    """Inside, a model that Accelerate prepared computes as it is: Accelerate wraps `forward` on the instance."""
    wrapped = model.__dict__.pop("forward", None) if "_original_forward" in model.__dict__ else None
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped
