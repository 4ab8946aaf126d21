# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Metrics for Hugging Face `evaluate`, each a file that `evaluate.load(path)` takes."""
