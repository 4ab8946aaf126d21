# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The version of the package, the supported dtypes, and the names of the embedded checkpoint."""

from pathlib import Path

__version__ = "0.2.0"

# The supported dtypes for weights and computation.
DTYPES = ("float32", "bfloat16", "float16")

# The largest file of written weights; larger weights are split.
MAX_SHARD_SIZE = "2GB"

# The folder of the embedded checkpoint, which segments drawn scenes; pass it to `from_pretrained` or `pipeline`.
TINY = str(Path(__file__).parent / "checkpoints" / "tiny")
# The name of the embedded checkpoint in commands (instead of a folder or Hub id), and its title in results and pages.
EMBEDDED = "embedded"
EMBEDDED_TITLE = "dinov3seg_hf embedded checkpoint"
