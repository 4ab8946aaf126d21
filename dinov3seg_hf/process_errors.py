# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Errors of a process that another process of the same run has caused. Imports no library, like the commands."""

import os

# What gloo and torch's store of keys say when the process at the other end is gone; the last one if that process is the
# first of the run, which has the store.
LOST_CONNECTIONS = ("closed by peer", "reset by peer", "Broken pipe", "Connection was likely closed")


class OtherProcessError(RuntimeError):
    """Another process of this run failed; its own error says why."""


def is_of_another_process(error: RuntimeError) -> bool:
    """Whether the cause is another process: it failed, or it ended while this one waited for it."""
    if isinstance(error, OtherProcessError):
        return True
    has_others = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return has_others and any(words in str(error) for words in LOST_CONNECTIONS)


__all__ = ["OtherProcessError", "is_of_another_process"]
