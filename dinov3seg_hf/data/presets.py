# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Vocabularies with a name: the presets of the benchmarks, and the vocabulary of the drawn world."""

from ..drawn_world.names import DRAWN_WORLD, NAMES
from ..model.vocabulary import Vocabulary
from .columns import Dataset

# Column of prepared data sets (`preparation.py`) with the protocol of their label maps: preset and version, such as
# "ade20k-150/1".
PROTOCOL_COLUMN = "protocol"


def preset_vocabulary(name: str) -> Vocabulary | None:
    if name == DRAWN_WORLD:
        return drawn_world_vocabulary()
    return Vocabulary.from_preset(name) if name in Vocabulary.presets() else None


def prepared_vocabulary(protocol: str | None) -> Vocabulary | None:
    """The vocabulary of a protocol such as "ade20k-150/1"; `None` without a protocol or for an unknown preset."""
    return None if protocol is None else preset_vocabulary(protocol.rpartition("/")[0])


def protocol_of(dataset: Dataset) -> str | None:
    """The protocol of the label maps of a prepared data set, such as "ade20k-150/1"; `None` for other data sets."""
    if PROTOCOL_COLUMN not in (dataset.column_names or ()):
        return None
    row = next(iter(dataset.select_columns([PROTOCOL_COLUMN]).take(1)), None)
    value = None if row is None else row[PROTOCOL_COLUMN]
    return value if isinstance(value, str) else None


def drawn_world_vocabulary() -> Vocabulary:
    """The vocabulary of all names of the drawn world, in the order of the labels."""
    return Vocabulary(NAMES)
