# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Counts and scores of label maps, and `mean_iou.py`, a metric that `evaluate.load` can load.

This package is not allowed to import other parts of `dinov3seg_hf`.
"""
