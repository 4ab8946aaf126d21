# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Trains dinov3.seg. Runs `dinov3seg train`, for launchers that need a script file.

    export OMP_NUM_THREADS=1
    accelerate launch --multi_gpu --num_processes 2 scripts/train.py --config recipes/drawn_world.yaml \\
        --output runs/drawn

`--help` shows more examples and all flags.
"""

import sys

from dinov3seg_command import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="scripts/train.py"))
