# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Converts the published DINOv3, dino.txt, SAM and AnyUp checkpoints to a folder that `from_pretrained` loads.

This package is allowed to import `model`, `hub_connection` and `conversion_files`.
"""

from .convert import convert
from .parts import convert_anyup
from .report import ConversionReport, ConvertedKey

__all__ = [
    "ConversionReport",
    "ConvertedKey",
    "convert",
    "convert_anyup",
]
