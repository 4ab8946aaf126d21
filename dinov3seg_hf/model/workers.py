# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Processes of a `DataLoader` end with the process that started them, however that one ends."""

import multiprocessing
import os
import threading
from typing import Any


def end_with_parent(worker: int) -> None:
    """The `worker_init_fn` of every `DataLoader`.

    torch's own check does not suffice: a worker whose pipe is full waits for a reader, and the other workers hold the
    other end of the pipe, which is never closed.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
