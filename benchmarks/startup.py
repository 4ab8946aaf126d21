# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The CPU time and the wall time of commands from their start to their end, each in a process of its own.

    python benchmarks/startup.py

Beside them stand the imports that no command can avoid that runs a model. Times are the smallest of `--repeats` runs:
other programs on the machine only add to them.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
COMMAND = "import sys; from dinov3seg_command import main; sys.exit(main())"
SCENE = str(REPO / "examples" / "scene.png")
ROWS = {
    "python -c pass": ["-c", "pass"],
    "dinov3seg --help": ["-c", COMMAND, "--help"],
    "dinov3seg segment --help": ["-c", COMMAND, "segment", "--help"],
    "dinov3seg segment no.png (refused)": ["-c", COMMAND, "segment", "no.png", "--labels", "red"],
    "dinov3seg segment --model no (refused)": ["-c", COMMAND, "segment", SCENE, "--labels", "red", "--model", "no"],
    "import torch": ["-c", "import torch"],
    "import torch, transformers.AutoModel": ["-c", "import torch; from transformers import AutoModel, AutoProcessor"],
    "import dinov3seg_hf": ["-c", "import dinov3seg_hf"],
    "dinov3seg segment scene.png": ["-c", COMMAND, "segment", SCENE, "--labels", "red, blue"],
}


def main() -> None:
    """Measures the rows and prints them as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each row (default: 3)")
    repeats = parser.parse_args().repeats
    print("| command | CPU s | wall s |\n|---|---|---|")
    for name, arguments in ROWS.items():
        runs = [measure(arguments) for _ in range(repeats)]
        cpu, wall = (min(column) for column in zip(*runs))
        print(f"| `{name}` | {cpu:.2f} | {wall:.2f} |", flush=True)


def measure(arguments: list[str]) -> tuple[float, float]:
    """Runs Python with these arguments and returns its CPU time and wall time in seconds."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *arguments], env=environment, cwd=REPO, capture_output=True)
    wall, after = time.perf_counter() - start, os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


if __name__ == "__main__":
    main()
