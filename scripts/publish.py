# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Publishes a checkpoint on the Hub, and the demo as a Space that uses the checkpoint. Runs `dinov3seg publish`.

python scripts/publish.py --model DIR --repo my-name/dinov3-seg --dry-run
"""

import sys

from dinov3seg_command import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]], prog="scripts/publish.py"))
