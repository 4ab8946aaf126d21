# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Evaluates a checkpoint on data sets. Runs `dinov3seg evaluate`, for launchers that need a script file.

    accelerate launch --multi_gpu --num_processes 2 scripts/evaluate.py --benchmark drawn-world --images 30

`--help` shows more examples.
"""

import sys

from dinov3seg_command import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]], prog="scripts/evaluate.py"))
