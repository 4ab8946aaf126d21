# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Data sets of images and masks: opened, read row by row, augmented, prepared from benchmarks, drawn.

May import `model` and `drawn_world`.
"""
