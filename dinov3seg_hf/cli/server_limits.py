# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The flags for the limits of a server, which `demo` and `serve` share."""

import argparse
from typing import TYPE_CHECKING

from .console import positive

if TYPE_CHECKING:
    from ..serving.limits import Limits


def add_limits(parser: argparse.ArgumentParser, max_queue: int, time: str) -> argparse._ArgumentGroup:
    """Adds the flags `--max-queue`, with its default, and those of `limits_of`; returns their group.

    Args:
        parser: The parser of the command.
        max_queue: The default of `--max-queue`.
        time: What `--max-seconds` limits.
    """
    bounds = parser.add_argument_group("limits")
    bounds.add_argument(
        "--max-queue",
        type=positive,
        default=max_queue,
        metavar="N",
        help="requests in work; more are refused until there is room (default: %(default)s)",
    )
    bounds.add_argument(
        "--max-labels", type=positive, default=1000, metavar="N", help="labels of a request (default: %(default)s)"
    )
    bounds.add_argument(
        "--max-megapixels", type=positive, default=50, metavar="N", help="size of an image (default: %(default)s)"
    )
    bounds.add_argument(
        "--max-megabytes", type=positive, default=32, metavar="MIB", help="size of a file (default: %(default)s)"
    )
    bounds.add_argument("--max-seconds", type=positive, default=300, metavar="S", help=f"{time} (default: %(default)s)")
    bounds.add_argument(
        "--cache",
        type=positive,
        default=768,
        metavar="MIB",
        help="size of the stored features of all clients together (default: %(default)s)",
    )
    return bounds


def limits_of(options: argparse.Namespace) -> "Limits":
    """Returns the limits of the flags of `add_limits`."""
    from ..serving.limits import Limits

    return Limits(
        file_bytes=options.max_megabytes * 2**20,
        pixels=options.max_megapixels * 1_000_000,
        labels=options.max_labels,
        seconds=options.max_seconds,
        cache_bytes=options.cache * 2**20,
    )
