# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Which seeds of drawn scenes are for what: a scene that chose or trained anything never scores it.

A run of the embedded checkpoint's training (`--seed`) takes ten million seeds from `TRAINING` on.
"""

VALIDATION = 500_000  # the curves that training prints, and evaluation during training
ABLATION = 700_000  # docs/ablation.md
CARD = 910_000  # the model card of the embedded checkpoint, and `dinov3seg evaluate --benchmark drawn-world`
PREPARED = 2_000_000  # data sets that `dinov3seg prepare drawn-world` writes
TRAINING = 10_000_000  # the embedded checkpoint's own training
SEEDS_OF_A_RUN = 10_000_000
