# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg prepare` and `scripts/prepare_benchmark.py`: convert benchmarks to Parquet for training and evaluation."""

import argparse

from ..data.benchmarks import BENCHMARKS, find_benchmark
from ..drawn_world.names import DRAWN_WORLD
from ..drawn_world.seeds import PREPARED
from .console import EXIT_OK, Parser, positive, printable

EXAMPLES = """\
examples:
  dinov3seg prepare A-150 --source downloads --output data/ade20k-150
  dinov3seg prepare COCO-Stuff --source coco --output data/coco-stuff-171 --split validation
  dinov3seg prepare drawn-world --output data/drawn-world --scenes 2000  # drawn here, no download

To resume an interrupted run, run the same command again. --list shows the folders that each download must contain.
"""
# Flags of the drawn world, and of downloads, by the names of their options, with their defaults.
DRAWN = {"scenes": 1000, "first_seed": PREPARED, "size": 96}
DOWNLOADED = {"source": None, "partial": False, "skip_bad": False}
INTERRUPTED = "interrupted; run the same command again to resume"


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg prepare`."""
    parser = Parser(
        prog=prog,
        description="Converts the unpacked original download of a benchmark to Parquet files for training and "
        "evaluation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(benchmark.title for benchmark in BENCHMARKS.values())
    parser.add_argument("benchmark", nargs="?", metavar="NAME", help=f"{names} or {DRAWN_WORLD}")
    parser.add_argument("--source", metavar="DIR", help="folder of the unpacked download")
    parser.add_argument("--output", metavar="DIR", help="folder for the Parquet files; created if missing")
    parser.add_argument(
        "--split",
        action="append",
        metavar="SPLIT",
        help=f"split to convert; repeatable (default: all splits; for {DRAWN_WORLD}: seen and unseen)",
    )
    parser.add_argument("--partial", action="store_true", help="accept a download with too few or too many images")
    parser.add_argument("--skip-bad", action="store_true", help="skip images that cannot be read, and count them")
    parser.add_argument("--workers", type=positive, metavar="N", help="number of threads (default: one per CPU core)")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and the folders of their downloads")
    parser.add_argument(
        "--scenes",
        type=positive,
        default=DRAWN["scenes"],
        metavar="N",
        help=f"number of scenes per split, for {DRAWN_WORLD} (default: 1000)",
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=DRAWN["first_seed"],
        metavar="N",
        help=f"seed of the first scene, for {DRAWN_WORLD}",
    )
    parser.add_argument(
        "--size",
        type=positive,
        default=DRAWN["size"],
        metavar="PIXELS",
        help=f"height and width of the scenes, for {DRAWN_WORLD} (default: 96)",
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """Checks that the options are those of the benchmark.

    Raises:
        ValueError: If one is for a download, and the benchmark is drawn, or the other way round.
    """
    if options.list or options.benchmark is None:
        return
    is_drawn = options.benchmark.casefold() == DRAWN_WORLD
    for name, default in (DOWNLOADED if is_drawn else DRAWN).items():
        if getattr(options, name) != default:
            flag = f"--{name}".replace("_", "-")
            owner = "downloads" if is_drawn else DRAWN_WORLD
            raise ValueError(f"{flag} is for {owner}; the benchmark is {options.benchmark!r}. Leave {flag} out.")


def run(options: argparse.Namespace) -> int:
    """Converts a benchmark, or lists the benchmarks."""
    from ..data.drawn_world import drawn_world
    from ..data.parquet import write_parquet
    from ..data.preparation import prepare

    if options.list:
        for benchmark in BENCHMARKS.values():
            counts = ", ".join(f"{split} {count:,}" for split, count in benchmark.splits.items())
            print(f"{benchmark.title} ({benchmark.name}): {counts} images\n    {benchmark.layout}")
        return EXIT_OK
    if options.benchmark is None or options.output is None:
        raise ValueError("NAME or --output is missing. Pass both, or list the benchmarks with --list.")
    if options.benchmark.casefold() == DRAWN_WORLD:
        for split in options.split or ("seen", "unseen"):
            scenes = drawn_world(options.scenes, split, options.first_seed, options.size)
            print(f"{split}: {options.scenes:,} images in {write_parquet(scenes, options.output, split)}")
        return EXIT_OK
    if options.source is None:
        raise ValueError(f"--source is missing; expected the folder of the unpacked download of {options.benchmark}.")
    for result in prepare(
        find_benchmark(options.benchmark),
        options.source,
        options.output,
        splits=options.split,
        partial=options.partial,
        skip_bad=options.skip_bad,
        num_workers=options.workers,
    ):
        kept = f", {result.num_old_files} existing files kept" if result.num_old_files else ""
        print(f"{result.split}: {result.num_rows:,} images, {result.num_new_files} files written{kept}")
        for reason in result.skipped:
            print(f"skipped: {printable(reason)}")
    return EXIT_OK
