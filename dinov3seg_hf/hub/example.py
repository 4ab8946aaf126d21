# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The image and words that a published checkpoint is checked with and shown by."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """An image and words: shown on the card, and what the folder has to segment before it is published."""

    image: Path
    labels: str
