# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What the package is: its version, and the checkpoint that it brings along."""

from pathlib import Path

__version__ = "0.2.0"

# The formats that weights are stored and computed in.
DTYPES = ("float32", "bfloat16", "float16")

# The folder of the embedded checkpoint, which segments drawn scenes: for `from_pretrained` and `pipeline`.
TINY = str(Path(__file__).parent / "checkpoints" / "tiny")
# What commands call it, where a folder or a Hub id is expected; and what results and pages say that they used.
EMBEDDED = "embedded"
EMBEDDED_TITLE = "dinov3seg_hf embedded checkpoint"
