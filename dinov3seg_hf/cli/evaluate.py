# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg evaluate` and `accelerate launch scripts/evaluate.py`: evaluate a checkpoint on data sets."""

import argparse
from pathlib import Path

from ..about import DTYPES, EMBEDDED
from ..checkpoint_names import resolve_checkpoint
from ..data.benchmarks import BENCHMARKS, find_benchmark, prepared_folder
from ..drawn_world.names import DRAWN_WORLD
from .console import ACTIVE_CLASSES, REFINE, REFINE_FEATURES, Parser, auto_or_positive, positive
from .model_options import refuse_options_of_other_head, refuse_windows_without_windows

EXAMPLES = """\
examples:
  dinov3seg evaluate --benchmark drawn-world --images 30  # the embedded checkpoint, drawn scenes
  dinov3seg evaluate --model runs/coco --benchmark A-150 --data data --output results/a-150
  accelerate launch --multi_gpu --num_processes 2 scripts/evaluate.py --model runs/coco --data data \\
      --output results --benchmark A-847 PC-459 A-150 PC-59 PAS-20  # the paper's table
  dinov3seg evaluate --model runs/mine --benchmark me/my-masks --split test --classes classes.txt

A benchmark is read from the folder DATA/<name of the benchmark>, which `dinov3seg prepare` writes. The scores are
printed and written to OUTPUT/results.json. With several benchmarks, OUTPUT has one folder per benchmark.
"""
INTERRUPTED = "interrupted; with --output, run the same command again to resume"
NO_CLASSES = "none"


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg evaluate`."""
    parser = Parser(
        prog=prog,
        description="Evaluates a checkpoint on benchmarks or on your own data set, in one or several processes. To "
        "resume an interrupted run with --output, run the same command again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(benchmark.title for benchmark in BENCHMARKS.values())
    parser.add_argument(
        "--model", default=EMBEDDED, metavar="DIR_OR_HUB_ID", help="checkpoint (default: the embedded checkpoint)"
    )
    parser.add_argument(
        "--benchmark",
        nargs="+",
        required=True,
        metavar="NAME_OR_DATASET",
        help=f"{names}; {DRAWN_WORLD}; or the folder or Hub id of a data set",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for results.json; required to resume a run")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, default=Path("data"), metavar="DIR", help="folder of prepared benchmarks (default: data)"
    )
    data.add_argument("--split", help=f"split (default: validation); for {DRAWN_WORLD}: seen, unseen (default) or all")
    data.add_argument(
        "--images", type=int, metavar="N", help=f"use only the first N images (default for {DRAWN_WORLD}: 300)"
    )
    data.add_argument("--config-name", metavar="NAME", help="name of the subset of a data set")
    data.add_argument("--revision", help="revision of a data set on the Hub")
    data.add_argument(
        "--streaming", action="store_true", help="read rows on demand, without downloading all rows first"
    )
    data.add_argument("--image-column", metavar="NAME", help="default: found by type and name")
    data.add_argument("--mask-column", metavar="NAME", help="default: found by type and name")
    data.add_argument(
        "--mask-values",
        choices=("labels", "raw_ids"),
        help="values in the masks (default: raw_ids if the classes have raw ids, but labels in prepared benchmarks)",
    )
    data.add_argument(
        "--mask-coding",
        choices=("integers", "ade20k-rgb"),
        default="integers",
        help="encoding of the mask values (default: integers)",
    )
    data.add_argument("--skip-bad", action="store_true", help="skip rows that cannot be read, and count them")
    data.add_argument(
        "--num-workers", type=int, default=0, metavar="N", help="number of processes that read images (default: 0)"
    )

    words = parser.add_argument_group("classes")
    words.add_argument("--classes", metavar="PRESET_OR_FILE", help="class names (default: those in the data set)")
    words.add_argument(
        "--templates",
        action="append",
        metavar="TEMPLATE",
        help="name of a template set, or one template with {}; repeatable",
    )
    words.add_argument(
        "--training-classes",
        metavar="PRESET_OR_FILE",
        help="classes seen in training, to split the scores into seen and unseen (default: the classes in the "
        f"checkpoint; {NO_CLASSES}: no split)",
    )

    _add_inference_options(parser)

    shown = parser.add_argument_group("report")
    shown.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="number of bootstrap resamples (default: 1000)"
    )
    shown.add_argument("--per-class", action="store_true", help="also print the scores per class")
    shown.add_argument("--confusion", action="store_true", help="also write the confusion matrix")
    return parser


def _add_inference_options(parser: Parser) -> None:
    model = parser.add_argument_group("inference")
    model.add_argument(
        "--inference", choices=("whole", "local-global", "slide"), help="default: the setting of the checkpoint"
    )
    model.add_argument(
        "--head",
        choices=("full", "dinotxt"),
        help="full: the trained head; dinotxt: the zero-shot head (default: the setting of the checkpoint)",
    )
    model.add_argument("--patch-source", choices=("head", "backbone"), help="default: the setting of the checkpoint")
    model.add_argument("--refine-features", action=argparse.BooleanOptionalAction, help=REFINE_FEATURES)
    model.add_argument("--refine", choices=("pixels", "none"), help=REFINE)
    model.add_argument("--active-classes", type=auto_or_positive, metavar="K", help=ACTIVE_CLASSES)
    model.add_argument(
        "--shortest-edge",
        type=positive,
        metavar="PIXELS",
        help="size of the shorter side (default: the setting of the checkpoint)",
    )
    model.add_argument(
        "--square", type=positive, metavar="PIXELS", help="size of both sides (default: the setting of the checkpoint)"
    )
    model.add_argument(
        "--window-size", type=int, metavar="PIXELS", help="side of a window (default: the setting of the checkpoint)"
    )
    model.add_argument(
        "--window-stride",
        type=int,
        metavar="PIXELS",
        help="distance between windows (default: the setting of the checkpoint)",
    )
    model.add_argument("--temperature", type=float, help="temperature of the zero-shot head")
    model.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images per batch (default: 1)")
    model.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the weights (default: float32 on the CPU, else the dtype of the checkpoint)",
    )
    model.add_argument("--cpu", action="store_true", help="use the CPU even if an accelerator is available")


def check(options: argparse.Namespace) -> None:
    """Checks the arguments that need no data.

    Raises:
        ValueError: If arguments contradict each other, or a data set, a file or the checkpoint does not exist.
    """
    if options.shortest_edge and options.square:
        raise ValueError(
            "Both --shortest-edge and --square are set; expected at most one. Remove one of the two options."
        )
    for flag in [f"--{name}" for name in ("overwrite", "confusion") if getattr(options, name)]:
        if options.output is None:
            raise ValueError(f"{flag} needs --output, the folder of the results. Add it, or leave {flag} out.")
    refuse_options_of_other_head(options, options.head)
    refuse_windows_without_windows(options, options.inference)
    if len(set(options.benchmark)) < len(options.benchmark):
        raise ValueError("--benchmark contains a benchmark twice; expected each benchmark once. Remove the duplicate.")
    if options.images is not None and options.images < 1:
        raise ValueError(f"--images is {options.images}; expected at least 1.")
    for name in options.benchmark:
        _check_data(name, options)
    if options.classes is not None and Path(options.classes).suffix and not Path(options.classes).is_file():
        raise ValueError(f"The file of class names {options.classes!r} was not found. Check the path.")
    resolve_checkpoint(options.model)


def _check_data(name: str, options: argparse.Namespace) -> None:
    from ..data.dataset_names import check_dataset

    if name == DRAWN_WORLD:
        return
    try:
        benchmark = find_benchmark(name)
    except ValueError:
        check_dataset(name, options.revision)
        return
    prepared_folder(benchmark, options.data)


def run(options: argparse.Namespace) -> int:
    """Evaluates every data set and prints the table."""
    from .evaluation import evaluate_all

    return evaluate_all(options)
