# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The model and all code that is stored with a checkpoint on the Hub, next to `config.json`.

All files are in one folder, and every file imports its neighbors as `from .name import X`. The files import torch,
numpy, PIL, yaml, transformers and huggingface_hub, and nothing else of this package. A checkpoint has them joined to
four files (`joined_code.py`).
"""
