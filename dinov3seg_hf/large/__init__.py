# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Segments images that are larger than memory: read, segmented and written tile by tile.

`tiles` plans the tiles, `rasters` reads and writes regions of files, `parts` keeps finished tiles of an interrupted
run, `segmentation` puts them together. This package is allowed to import `model` and `visualization`.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .segmentation import LargeResult, segment_large
    from .tiles import Tile, plan_tiles
else:
    __getattr__, __dir__ = lazy_names(
        __name__, {".segmentation": ("LargeResult", "segment_large"), ".tiles": ("Tile", "plan_tiles")}
    )

__all__ = ["LargeResult", "Tile", "plan_tiles", "segment_large"]
