# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Exports a checkpoint as graphs that run without this package: on ONNX Runtime or OpenVINO, or with `torch.export`.

This package is allowed to import `loading` and what is below it. `run.py` is a file of the export and imports nothing
of this package.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .export import Export, export_checkpoint
else:
    __getattr__, __dir__ = lazy_names(__name__, {".export": ("Export", "export_checkpoint")})

__all__ = ["Export", "export_checkpoint"]
