# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Publishes a checkpoint as a model on the Hub, with its card, and the demo as a Space.

This package is allowed to import every subpackage except `training`, `demo` and `cli`.
"""

from .example import Example
from .publish import Publication, publish
from .upload import PublishingError, Upload, upload_folder

__all__ = [
    "Example",
    "Publication",
    "PublishingError",
    "Upload",
    "publish",
    "upload_folder",
]
