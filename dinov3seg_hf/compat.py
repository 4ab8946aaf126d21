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

__all__ = ["TransportError", "actions_of", "with_features", "without_mixed_precision"]


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
