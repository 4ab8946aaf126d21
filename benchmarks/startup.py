# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The CPU time and the wall time of commands from their start to their end, each in a process of its own.

    python benchmarks/startup.py
    git clone . FIRST && git -C FIRST checkout ddf6667    # the first release
    python benchmarks/startup.py --first-release FIRST

Beside them stand the imports that no command can avoid that runs a model. Times are the smallest of `--repeats` runs,
of which each release has one in turn: other programs on the machine only add to them.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
COMMAND = "import sys; from dinov3seg_command import main; sys.exit(main())"
COMMAND_OF_FIRST = "import sys; from dinov3seg_hf.cli import main; sys.exit(main())"
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
    parser.add_argument("--first-release", type=Path, metavar="CLONE", help="compare with a clone of this release")
    options = parser.parse_args()
    releases = (
        {"": REPO} if options.first_release is None else {" first release,": options.first_release, " ours,": REPO}
    )
    header = ["command", *(f"{name} {unit}".strip() for name in releases for unit in ("CPU s", "wall s"))]
    print(f"| {' | '.join(header)} |", "|---" * len(header) + "|", sep="\n")
    for name, arguments in ROWS.items():
        runs = [
            [measure(name, arguments, clone.resolve()) for clone in releases.values()] for _ in range(options.repeats)
        ]
        cells = [f"{min(values):.2f}" for of_release in zip(*runs) for values in zip(*of_release)]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


def measure(name: str, arguments: list[str], release: Path) -> tuple[float, float]:
    """Runs Python with these arguments in a clone, and returns its CPU time and wall time in seconds."""
    if release != REPO:
        arguments = [COMMAND_OF_FIRST if argument == COMMAND else argument for argument in arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(release)}
    start, before = time.perf_counter(), os.times()
    result = subprocess.run([sys.executable, *arguments], env=environment, cwd=release, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    if (result.returncode != 0) != name.endswith("(refused)"):
        sys.exit(f"{name} in {str(release)!r} ended with {result.returncode}: {result.stderr[-500:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


if __name__ == "__main__":
    main()
