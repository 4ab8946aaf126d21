# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""SIGTERM, which stops services and jobs of clusters, ends a process like Ctrl+C: unfinished files are removed.

Ctrl+C itself is held back where a library would lose it, and ends the process where a library would not return.
"""

import os
import signal
import socket
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


@contextmanager
def blocked_calls_end(exit_code: int, message: str, patience: float = 5.0) -> Iterator[None]:
    """Ends the process after SIGINT or SIGTERM, if the block goes on for `patience` seconds nevertheless.

    For libraries in C and C++ that wait for other processes: Python's handlers run when the call returns, which may be
    never. Nothing is cleaned up, so the block must not write files.

    Args:
        exit_code: The exit code of the process.
        message: What it writes to stderr; may be empty.
        patience: Seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    is_over = threading.Event()

    def watch() -> None:
        while number := receiver.recv(1):  # empty at the end of the block
            if number[0] in (signal.SIGINT, signal.SIGTERM) and not is_over.wait(patience):
                try:
                    os.write(2, message.encode())
                finally:  # also if nobody reads stderr any more
                    os._exit(exit_code)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    earlier = signal.set_wakeup_fd(-1)
    try:
        # written to as soon as a signal with a handler of Python arrives, which may be before the block
        signal.set_wakeup_fd(sender.fileno())
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(earlier)
        sender.close()
        watcher.join()
        receiver.close()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
