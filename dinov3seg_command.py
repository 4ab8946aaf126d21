# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The entry of the installed command `dinov3seg`; see `dinov3seg_hf.cli`.

It lies outside the package, because `import dinov3seg_hf` registers the classes with transformers, which takes seconds.
The command needs them only when it loads a checkpoint (`dinov3seg_hf/loading.py`).
"""

running = False


def main() -> int:
    """Runs the command and returns the exit code."""
    global running
    running = True  # `dinov3seg_hf/__init__.py` looks here

    from dinov3seg_hf.cli import main as run

    return run()
