# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Converts label maps to overlays, legends, tables and files, for people and for programs.

This package is allowed to import `model`.
"""

from .colors import color_palette
from .files import save_image, save_json, save_mask, segments_as_json
from .legend import with_legend
from .pictures import Region, overlay, regions_of

__all__ = [
    "Region",
    "color_palette",
    "overlay",
    "regions_of",
    "save_image",
    "save_json",
    "save_mask",
    "segments_as_json",
    "with_legend",
]
