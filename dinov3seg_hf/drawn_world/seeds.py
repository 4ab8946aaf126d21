# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Seed ranges of drawn scenes, by purpose. A scene used for training or model selection is never used for scoring.

Each training run of the embedded checkpoint (`--seed`) uses its own ten million seeds, from `TRAINING` on.
"""

VALIDATION = 500_000  # scores printed during training, and evaluation during training
ABLATION = 700_000  # docs/ablation.md
CARD = 910_000  # model card of the embedded checkpoint, and `dinov3seg evaluate --benchmark drawn-world`
ACTIVE_CLASSES = 940_000  # docs/performance.md; the rule was chosen on other scenes, from 930_000 on
PREPARED = 2_000_000  # data sets that `dinov3seg prepare drawn-world` writes
TRAINING = 10_000_000  # training of the embedded checkpoint
SEEDS_OF_A_RUN = 10_000_000
