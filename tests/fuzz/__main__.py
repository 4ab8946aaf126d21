# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Runs cases and prints a table of outcomes by family, or one case with its traceback."""

import argparse
import collections
import os
import sys
import time

# no case needs the network
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tqdm import tqdm
from transformers.utils import logging

from .families import FAMILIES, make_case
from .outcomes import KINDS, run
from .world import world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("family", nargs="?", choices=FAMILIES, help="default: all families")
    parser.add_argument("number", nargs="?", type=int, help="one case of the family; default: many")
    parser.add_argument("--cases", type=int, default=1000, help="number of cases, over all families (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each family")
    parser.add_argument("--show", type=int, default=3, help="bad outcomes to show of each kind and family")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()

    if options.number is not None:
        case = make_case(options.family, options.number, world())
        outcome = run(case, world().folder)
        print(f"{case.text}\n\n{outcome.traceback}\n{outcome.kind}: {outcome.message}")
        return int(outcome.is_bad)

    families = [options.family] if options.family else list(FAMILIES)
    each = -(-options.cases // len(families))
    table, shown, seconds = {}, collections.Counter(), {}
    for family in tqdm(families, file=sys.stderr, disable=None):
        start, table[family] = time.process_time(), collections.Counter()
        for number in range(options.first, options.first + each):
            outcome = run(make_case(family, number, world()), world().folder)
            table[family][outcome.kind] += 1
            if outcome.is_bad:
                shown[family, outcome.kind] += 1
                if shown[family, outcome.kind] <= options.show:
                    message = " ".join(outcome.message.split())[:300]
                    tqdm.write(f"{family} {number}: {outcome.kind}: {message}", file=sys.stderr)
        seconds[family] = time.process_time() - start
    _print_table(table, seconds)
    return int(any(counts[kind] for counts in table.values() for kind in KINDS[2:]))


def _print_table(table: dict[str, collections.Counter], seconds: dict[str, float]) -> None:
    print(f"| {'family':16} | cases | {' | '.join(f'{kind:>7}' for kind in KINDS)} | seconds |")
    print(f"|{'-' * 18}|------:|{'|'.join(['--------:'] * len(KINDS))}|--------:|")
    total = sum(table.values(), collections.Counter())
    for family, counts in (*table.items(), ("all", total)):
        spent = seconds.get(family, sum(seconds.values()))
        numbers = " | ".join(f"{counts[kind]:7}" for kind in KINDS)
        print(f"| {family:16} | {sum(counts.values()):5} | {numbers} | {spent:7.1f} |")


if __name__ == "__main__":
    sys.exit(main())
