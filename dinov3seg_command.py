# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The entry of the installed command `dinov3seg`; see `dinov3seg_hf.cli`.

It lies outside the package, because `import dinov3seg_hf` registers the classes with transformers, which takes seconds.
The command needs them only when it loads a checkpoint (`dinov3seg_hf/loading.py`).
"""

import os
import sys
from collections.abc import Sequence

running = False


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command and returns the exit code; see `dinov3seg_hf.cli.main`."""
    global running
    running = True  # `dinov3seg_hf/__init__.py` looks here

    try:
        from dinov3seg_hf.signals import terminated_like_ctrl_c

        with terminated_like_ctrl_c():
            from dinov3seg_hf.cli import main as run

            return run(arguments, prog)
    except KeyboardInterrupt:  # Ctrl+C or SIGTERM during the imports above
        if os.environ.get("RANK", "0") == "0":  # of several processes, one prints
            print(f"{prog or 'dinov3seg'}: interrupted; run the same command again", file=sys.stderr)
        return 130
