# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`python -m dinov3seg_hf` is the command `dinov3seg`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
