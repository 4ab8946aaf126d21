# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Stores values of all sessions, up to a total number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch


class Memory:
    """A cache of values by session and key. If the values exceed `max_bytes`, the least recently used are evicted."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, Hashable], tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, session: str, key: Hashable) -> Any | None:
        """Returns the value that a session stored under a key; `None` if it was evicted or never stored."""
        with self._lock:
            if (session, key) not in self._entries:
                return None
            self._entries.move_to_end((session, key))
            return self._entries[session, key][0]

    def put(self, session: str, key: Hashable, value: Any, num_bytes: int) -> None:
        """Stores a value and replaces the old value of the key. Does not store a value larger than `max_bytes`."""
        with self._lock:
            self._remove((session, key))
            if num_bytes > self.max_bytes:
                return
            self._entries[session, key] = (value, num_bytes)
            self.num_bytes += num_bytes
            while self.num_bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))

    def forget(self, session: str) -> None:
        """Removes all values of a session."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == session]:
                self._remove(key)

    def _remove(self, key: tuple[str, Hashable]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.num_bytes -= entry[1]


def num_bytes_of(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, (list, tuple)):
        return sum(map(num_bytes_of, value))
    return sum(map(num_bytes_of, value.values())) if isinstance(value, dict) else 0
