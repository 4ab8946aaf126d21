# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Converts the original download of a benchmark to Parquet. Runs `dinov3seg prepare`.

python scripts/prepare_benchmark.py A-150 --source downloads --output data/ade20k-150
"""

import sys

from dinov3seg_command import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]], prog="scripts/prepare_benchmark.py"))
