# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes label maps in the formats of annotation tools and of training libraries, one file per format.

This package is allowed to import `model`, `visualization`, for parquet `data`, and for maps `large`.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .export import export_annotations, open_writer
    from .formats import FORMATS
    from .geopackage import vectorize
    from .image import AnnotatedImage, ExportOptions
    from .objects import to_detections, to_fiftyone
    from .writer import AnnotationWriter
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".export": ("export_annotations", "open_writer"),
            ".formats": ("FORMATS",),
            ".geopackage": ("vectorize",),
            ".image": ("AnnotatedImage", "ExportOptions"),
            ".objects": ("to_detections", "to_fiftyone"),
            ".writer": ("AnnotationWriter",),
        },
    )

__all__ = [
    "FORMATS",
    "AnnotatedImage",
    "AnnotationWriter",
    "ExportOptions",
    "export_annotations",
    "open_writer",
    "to_detections",
    "to_fiftyone",
    "vectorize",
]
