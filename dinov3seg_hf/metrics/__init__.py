# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Counts and scores of label maps, and `mean_iou.py`, which `evaluate.load` takes.

Imports nothing else of the package.
"""
