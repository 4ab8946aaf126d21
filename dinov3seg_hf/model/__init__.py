# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The model and all that travels with a checkpoint: exactly what the Hub serves beside `config.json`.

Flat: every file imports its neighbors as `from .name import X`. Imports torch, numpy, PIL, transformers and
huggingface_hub, and nothing else of the package.
"""
