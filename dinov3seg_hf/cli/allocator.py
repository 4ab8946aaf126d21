# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""How much freed memory a command keeps for its next large tensors. Imports no torch."""

import ctypes
import os

# The parameters of `mallopt` in malloc.h of glibc. By default, glibc raises the first one up to 32 MiB as blocks are
# freed, and the second one to twice the first. A layer of the head frees more than that at the top of the heap, so its
# pages went back to the system and were faulted in again by the next layer: about a tenth of the time on a CPU.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST_IN_HEAP = 128 * 2**20, 32 * 2**20

# With one of these, the user has chosen.
_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Lets the allocator of glibc keep up to 128 MiB of freed memory; returns whether it does. Else changes nothing."""
    if any(name in os.environ for name in _CHOICES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; Windows has no `CDLL(None)`
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_IN_HEAP)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


__all__ = ["keep_freed_memory"]
