# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Kills commands and fills disks until the time is over, and prints a table of outcomes."""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "helpers"))

import torch

import dinov3seg_hf.cli.evaluation
import dinov3seg_hf.conversion.converter
import dinov3seg_hf.hub.publish
import dinov3seg_hf.training.trainer  # noqa: F401  (what the commands import, once)

from .attempts import FULL_DISK, SIGNALS, Attempts, can_mount
from .scenarios import SCENARIOS, make_data


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all: {', '.join(SCENARIOS)}")
    parser.add_argument("--seconds", type=float, default=600, help="no new attempt after this time (default: 600)")
    parser.add_argument("--attempts", type=int, help="attempts of each command (default: as many as there is time for)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"unknown scenarios: {', '.join(unknown)}")
    torch.set_num_threads(1)
    deadline = time.monotonic() + options.seconds
    made: Counter[tuple[str, str]] = Counter()
    bad: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="dinov3seg-torture-") as scratch:
        os.environ["HF_DATASETS_CACHE"] = f"{scratch}/cache"
        data = Path(scratch) / "data"
        data.mkdir()
        make_data(data)
        kinds = [*SIGNALS, *([FULL_DISK] if can_mount(Path(scratch) / "probe") else [])]
        if FULL_DISK not in kinds:
            print("full disks are left out: mounting a small file system takes root")
        places = [
            Attempts(name, count, data, Path(scratch) / f"{name}-{count}")
            for name in options.scenarios or SCENARIOS
            for count in SCENARIOS[name].processes
            if count in options.processes
        ]
        number = 0
        while time.monotonic() < deadline and (options.attempts is None or number < options.attempts):
            for attempts in places:
                if time.monotonic() > deadline:
                    break
                kind = kinds[(options.seed + number) % len(kinds)]
                outcome = attempts.run(options.seed + number, kind)
                name = f"{attempts.name} in {attempts.count}"
                made[name, kind] += 1
                bad[name] += bool(outcome.problems)
                state = "; ".join(outcome.problems) or "good"
                print(f"{name}, {outcome.what}, {outcome.codes}: {state}", flush=True)
            number += 1
    print_table(made, bad, kinds)
    print(f"{made.total()} attempts, {bad.total()} bad")
    return int(bad.total() > 0)


def print_table(made: Counter[tuple[str, str]], bad: Counter[str], kinds: Sequence[str]) -> None:
    """Prints the number of attempts of each command and kind, and how many were bad."""
    print(f"| command | {' | '.join(getattr(kind, 'name', kind) for kind in kinds)} | bad |")
    print("|---" * (len(kinds) + 2) + "|")
    for name in bad:
        print(f"| {name} | {' | '.join(str(made[name, kind]) for kind in kinds)} | {bad[name]} |")


if __name__ == "__main__":
    sys.exit(main())
