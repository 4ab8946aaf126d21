# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Runs the command `dinov3seg` for `python -m dinov3seg_hf`."""

import sys

from dinov3seg_command import main

if __name__ == "__main__":
    sys.exit(main())
