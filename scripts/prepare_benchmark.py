# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Turns the original download of a benchmark, unpacked, into parquet that training and evaluation read.

    python scripts/prepare_benchmark.py A-150 --source downloads --output data/ade20k-150
    python scripts/prepare_benchmark.py COCO-Stuff --source coco --output data/coco-stuff-171 --split validation
    python scripts/prepare_benchmark.py drawn-world --output data/drawn-world --scenes 2000  # drawn here, no download

A run that was broken off goes on when it is started again. Which folders a download has to have: --list.
"""

import argparse
import sys

from transformers.utils import logging

from dinov3seg_hf.benchmarks import BENCHMARKS, find_benchmark, prepare
from dinov3seg_hf.data import DRAWN_WORLD, drawn_world, write_parquet

# Apart from the seeds that the embedded checkpoint was trained, validated and scored on.
FIRST_SEED = 2_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(benchmark.title for benchmark in BENCHMARKS.values())
    parser.add_argument("benchmark", nargs="?", metavar="NAME", help=f"{names} or {DRAWN_WORLD}")
    parser.add_argument("--source", metavar="DIR", help="the unpacked download")
    parser.add_argument("--output", metavar="DIR", help="folder for the parquet files; made if need be")
    parser.add_argument("--split", action="append", metavar="SPLIT", help="all of the benchmark's unless given")
    parser.add_argument("--partial", action="store_true", help="take a download with too few or too many images")
    parser.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be read, and count them")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    parser.add_argument("--list", action="store_true", help="show the benchmarks and what their downloads have to hold")
    parser.add_argument("--scenes", type=int, default=1000, metavar="N", help=f"of {DRAWN_WORLD} (default 1000)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, metavar="N", help=f"of {DRAWN_WORLD}")
    parser.add_argument("--size", type=int, default=96, metavar="PIXELS", help=f"of {DRAWN_WORLD} (default 96)")
    args = parser.parse_args()
    if args.list:
        for benchmark in BENCHMARKS.values():
            counts = ", ".join(f"{split} {count:,}" for split, count in benchmark.splits.items())
            print(f"{benchmark.title} ({benchmark.name}): {counts} images\n    {benchmark.layout}")
        return 0
    if args.benchmark is None or args.output is None:
        parser.error("name a benchmark and --output (or --list)")
    logging.disable_progress_bar()
    try:
        if args.benchmark.casefold() == DRAWN_WORLD:
            for split in args.split or ("seen", "unseen"):
                path = write_parquet(drawn_world(args.scenes, split, args.first_seed, args.size), args.output, split)
                print(f"{split}: {args.scenes:,} images in {path}")
            return 0
        if args.source is None:
            parser.error(f"{args.benchmark} needs --source, the unpacked download")
        for result in prepare(
            find_benchmark(args.benchmark),
            args.source,
            args.output,
            splits=args.split,
            partial=args.partial,
            skip_bad=args.skip_bad,
            num_workers=args.workers,
        ):
            kept = f", {result.num_old_files} files kept from before" if result.num_old_files else ""
            print(f"{result.split}: {result.num_rows:,} images, {result.num_new_files} files written{kept}")
            for reason in result.skipped:
                print(f"skipped: {reason}")
    except (ValueError, OSError) as error:
        print(f"prepare_benchmark: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare_benchmark: interrupted; start it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
