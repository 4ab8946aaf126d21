# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg prepare`, and `scripts/prepare_benchmark.py`: benchmarks as parquet that training and evaluation read."""

import argparse

from ..data.benchmarks import BENCHMARKS, find_benchmark
from ..data.drawn_world import drawn_world
from ..data.parquet import write_parquet
from ..data.preparation import prepare
from ..data.presets import DRAWN_WORLD
from ..drawn_world.seeds import PREPARED
from .console import EXIT_OK, Parser, positive

EXAMPLES = """\
examples:
  dinov3seg prepare A-150 --source downloads --output data/ade20k-150
  dinov3seg prepare COCO-Stuff --source coco --output data/coco-stuff-171 --split validation
  dinov3seg prepare drawn-world --output data/drawn-world --scenes 2000  # drawn here, no download

A run that was broken off goes on when it is started again. Which folders a download has to have: --list.
"""
INTERRUPTED = "interrupted; start it again to go on"


def make_parser(prog: str) -> Parser:
    """The parser of `dinov3seg prepare`."""
    parser = Parser(
        prog=prog,
        description="Turns the original download of a benchmark, unpacked, into parquet that training and evaluation "
        "read.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(benchmark.title for benchmark in BENCHMARKS.values())
    parser.add_argument("benchmark", nargs="?", metavar="NAME", help=f"{names} or {DRAWN_WORLD}")
    parser.add_argument("--source", metavar="DIR", help="the unpacked download")
    parser.add_argument("--output", metavar="DIR", help="folder for the parquet files; made if need be")
    parser.add_argument("--split", action="append", metavar="SPLIT", help="all of the benchmark's unless given")
    parser.add_argument("--partial", action="store_true", help="take a download with too few or too many images")
    parser.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be read, and count them")
    parser.add_argument("--workers", type=positive, metavar="N", help="threads (default: one for each core)")
    parser.add_argument("--list", action="store_true", help="show the benchmarks and what their downloads have to hold")
    parser.add_argument("--scenes", type=positive, default=1000, metavar="N", help=f"of {DRAWN_WORLD} (default 1000)")
    parser.add_argument("--first-seed", type=int, default=PREPARED, metavar="N", help=f"of {DRAWN_WORLD}")
    parser.add_argument("--size", type=positive, default=96, metavar="PIXELS", help=f"of {DRAWN_WORLD} (default 96)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Prepares a benchmark, or lists them."""
    if options.list:
        for benchmark in BENCHMARKS.values():
            counts = ", ".join(f"{split} {count:,}" for split, count in benchmark.splits.items())
            print(f"{benchmark.title} ({benchmark.name}): {counts} images\n    {benchmark.layout}")
        return EXIT_OK
    if options.benchmark is None or options.output is None:
        raise ValueError("Name a benchmark and --output, or list what there is with --list.")
    if options.benchmark.casefold() == DRAWN_WORLD:
        for split in options.split or ("seen", "unseen"):
            scenes = drawn_world(options.scenes, split, options.first_seed, options.size)
            print(f"{split}: {options.scenes:,} images in {write_parquet(scenes, options.output, split)}")
        return EXIT_OK
    if options.source is None:
        raise ValueError(f"{options.benchmark} needs --source, the unpacked download.")
    for result in prepare(
        find_benchmark(options.benchmark),
        options.source,
        options.output,
        splits=options.split,
        partial=options.partial,
        skip_bad=options.skip_bad,
        num_workers=options.workers,
    ):
        kept = f", {result.num_old_files} files kept from before" if result.num_old_files else ""
        print(f"{result.split}: {result.num_rows:,} images, {result.num_new_files} files written{kept}")
        for reason in result.skipped:
            print(f"skipped: {reason}")
    return EXIT_OK
