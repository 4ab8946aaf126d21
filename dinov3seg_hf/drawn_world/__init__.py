# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The drawn world, the synthetic data of the embedded checkpoint: names, scenes, tokenizer and seeds.

This package is allowed to import `model`.
"""
