# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Vocabularies that data sets go by name: the benchmarks', and the drawn world's own."""

from ..drawn_world.names import NAMES
from ..model.vocabulary import Vocabulary
from .columns import Dataset

# Where prepared data sets (`benchmarks.py`) say what their label maps hold, as "ade20k-150/1": preset and version.
PROTOCOL_COLUMN = "protocol"

DRAWN_WORLD = "drawn-world"


def preset_vocabulary(name: str) -> Vocabulary | None:
    if name == DRAWN_WORLD:
        return drawn_world_vocabulary()
    return Vocabulary.from_preset(name) if name in Vocabulary.presets() else None


def prepared_vocabulary(protocol: str | None) -> Vocabulary | None:
    """The vocabulary of "ade20k-150/1"."""
    return None if protocol is None else preset_vocabulary(protocol.rpartition("/")[0])


def protocol_of(dataset: Dataset) -> str | None:
    """What a prepared data set says that its label maps hold, such as "ade20k-150/1"; `None` for any other."""
    if PROTOCOL_COLUMN not in (dataset.column_names or ()):
        return None
    row = next(iter(dataset.select_columns([PROTOCOL_COLUMN]).take(1)), None)
    value = None if row is None else row[PROTOCOL_COLUMN]
    return value if isinstance(value, str) else None


def drawn_world_vocabulary() -> Vocabulary:
    """The names of the drawn world in the order of its labels."""
    return Vocabulary(NAMES)
