# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""SIGTERM, which stops services and jobs of clusters, ends a process like Ctrl+C: unfinished files are removed.

Ctrl+C itself is held back where a library would lose it.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Raises `KeyboardInterrupt` when SIGTERM arrives inside the block; only the main thread can set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Lets SIGINT and SIGTERM wait for the end of the block.

    For libraries in C and C++ that write to a file of Python: they lose an exception that is raised in its methods, as
    Ctrl+C may be. PyAV then goes on with a file that lacks a part.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    # a handler that was not set by Python cannot be put back
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not None]
    earlier = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
