# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images per second of a whole evaluation, against the first release: read, segment, label, count.

    git clone . FIRST && git -C FIRST checkout ddf6667    # the first release
    python benchmarks/evaluation.py --first-release FIRST

Both evaluate their own embedded checkpoint with the 192 names of the drawn world, on the same scenes, enlarged to the
shorter side of the first column. Two processes with one thread each. A command with few images is subtracted from one
with more, so that starting does not count; medians of alternating runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-release", type=Path, required=True, metavar="CLONE")
    parser.add_argument("--images", type=int, nargs=2, default=(4, 24), metavar=("FEW", "MORE"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 384], metavar="PIXELS")
    parser.add_argument("--modes", nargs="+", default=["whole", "local-global"])
    parser.add_argument("--batch-size", type=int, default=8, help="of ours; the first release has 1")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    twins = {"first release": (options.first_release, 1), "ours": (HERE, options.batch_size)}
    print("| shorter side | mode |", " | ".join(f"{name}, images/s" for name in twins), "| ratio |")
    print("|---|---|---|---|---|")
    few, more = options.images
    for size in options.sizes:
        for mode in options.modes:
            rates: dict[str, list[float]] = {name: [] for name in twins}
            for _ in range(options.repeats):
                for name, (clone, batch_size) in twins.items():
                    arguments = f"--shortest-edge {size} --inference {mode} --batch-size {batch_size}".split()
                    short, long = (seconds(clone, [*arguments, "--images", str(count)]) for count in (few, more))
                    rates[name].append((more - few) / (long - short))
            first, ours = (statistics.median(values) for values in rates.values())
            print(f"| {size} | {mode} | {first:.2f} | {ours:.2f} | {ours / first:.1f} |", flush=True)


def seconds(clone: Path, arguments: list[str]) -> float:
    """Seconds on the clock of an evaluation by the code of a clone, in two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["scripts/evaluate.py", "--benchmark", "drawn-world", "--cpu", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = subprocess.run([*command, "--output", folder], cwd=clone, env=environment, capture_output=True)
    if run.returncode:
        sys.exit(run.stderr.decode())
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
