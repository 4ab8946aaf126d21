# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Processes of a `DataLoader` end with the process that started them, however that one ends, and not before."""

import multiprocessing
import os
import signal
import threading
from typing import Any


def end_with_parent(worker: int) -> None:
    """The `worker_init_fn` of every `DataLoader`.

    torch's own check does not suffice: a worker whose pipe is full waits for a reader, and the other workers hold the
    other end of the pipe, which is never closed.

    Launchers, clusters and terminals send SIGTERM and SIGINT to all processes of a job. Only the parent knows what it
    still has to read, for example for the step that it saves, so workers go on until it ends them.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        # before the threads, which inherit the mask: else the signal could end another one than the one that waits
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(parent.pid,), daemon=True).start()
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _end_when_told_by(parent: int | None) -> None:
    """Ends this process at a SIGTERM of its parent, as torch's own handler does; SIGTERM of others has no effect."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
