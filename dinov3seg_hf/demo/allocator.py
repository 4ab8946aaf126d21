# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Lets a server that computes in many threads give back the memory that it has freed."""

import ctypes
import os
import platform

# Numbers of <malloc.h>, values, and the variables by which a user may have said otherwise.
_SETTINGS = (
    (-8, 2, "MALLOC_ARENA_MAX"),  # heaps; as many as eight for each core unless told
    (-3, 1 << 20, "MALLOC_MMAP_THRESHOLD_"),  # larger blocks go back to the system when they are freed
    (-1, 8 << 20, "MALLOC_TRIM_THRESHOLD_"),  # free at the end of a heap
)


def give_back_freed_memory() -> bool:
    """Keeps glibc from holding on to freed tensors and images; to be called before threads start.

    glibc raises its threshold with every larger block that is freed, up to 32 MiB, and then keeps such blocks in the
    heap of the thread that asked for them: a server grows to the sum of its threads' peaks.
    `scripts/measure/demo_load.py` measures it.

    Returns:
        Whether it was glibc; with another C library nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    for option, value, variable in _SETTINGS:
        if variable not in os.environ:
            mallopt(option, value)
    return True
