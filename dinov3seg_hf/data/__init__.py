# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Opens data sets of images and masks, reads and augments their rows, prepares benchmarks and draws scenes.

This package is allowed to import `model` and `drawn_world`.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .augmentation import PairedTransform
    from .collator import Dinov3SegDataCollator
    from .opening import find_vocabulary, open_dataset
    from .rows import RowError
    from .segmentation import SegmentationDataset
    from .streamed import StreamedSegmentationDataset, segmentation_dataset
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".augmentation": ("PairedTransform",),
            ".collator": ("Dinov3SegDataCollator",),
            ".opening": ("find_vocabulary", "open_dataset"),
            ".rows": ("RowError",),
            ".segmentation": ("SegmentationDataset",),
            ".streamed": ("StreamedSegmentationDataset", "segmentation_dataset"),
        },
    )

__all__ = [
    "Dinov3SegDataCollator",
    "PairedTransform",
    "RowError",
    "SegmentationDataset",
    "StreamedSegmentationDataset",
    "find_vocabulary",
    "open_dataset",
    "segmentation_dataset",
]
