# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Converts the published DINOv3, dino.txt, SAM and AnyUp checkpoints to a folder that `from_pretrained` loads.

This package is allowed to import `model` and `hub_connection`.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .converter import convert
    from .parts import convert_anyup
    from .report import ConversionReport, ConvertedKey
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".converter": ("convert",),
            ".parts": ("convert_anyup",),
            ".report": ("ConversionReport", "ConvertedKey"),
        },
    )

__all__ = [
    "ConversionReport",
    "ConvertedKey",
    "convert",
    "convert_anyup",
]
