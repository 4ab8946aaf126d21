# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Returns freed memory to the operating system in a server with many threads."""

import ctypes
import os
import platform

# Option number in <malloc.h>, value, and the environment variable with which a user can set the option.
_SETTINGS = (
    (-8, 2, "MALLOC_ARENA_MAX"),  # number of heaps; the default is up to eight per core
    (-3, 1 << 20, "MALLOC_MMAP_THRESHOLD_"),  # larger blocks are returned when they are freed
    (-1, 8 << 20, "MALLOC_TRIM_THRESHOLD_"),  # more free memory at the end of a heap is returned
)


def give_back_freed_memory() -> bool:
    """Makes glibc return freed tensors and images to the operating system. Call it before threads start.

    Whenever a larger block is freed, glibc raises its threshold to the size of the block, up to 32 MiB. From then on,
    smaller blocks stay in the heap of the thread that allocated them, and the memory of a server grows to the sum of
    the peaks of its threads. `scripts/measure/demo_load.py` measures the effect. Options whose environment variable is
    set keep the value of the user.

    Returns:
        Whether the C library is glibc. With another C library, nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    for option, value, variable in _SETTINGS:
        if variable not in os.environ:
            mallopt(option, value)
    return True
