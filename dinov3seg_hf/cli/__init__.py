# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The command `dinov3seg`: one module per subcommand, and `console` with the code that the subcommands share.

Handles arguments, files and the terminal; the other subpackages do the work. This package is allowed to import all
other subpackages. Modules of commands import torch, transformers and what imports them in `run` only, so that help and
errors in arguments take no seconds.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..about import __version__
from ..extras import require_extra, require_installed
from .console import EXIT_ERROR, EXIT_INTERRUPTED, INTERRUPTED, Parser, execute, print_error


@dataclass(frozen=True)
class Entry:
    """A subcommand: a module of this package that is imported only if the subcommand is run.

    Attributes:
        help: A short description.
        extra: The extra of the package that the subcommand requires.
        needs: The libraries of the extra that the subcommand imports at its start.
    """

    help: str
    extra: str | None = None
    needs: tuple[str, ...] = ()


_TRAIN = ("train", ("accelerate", "datasets", "evaluate", "yaml", "filelock"))
COMMANDS = {
    "segment": Entry("segment images by words"),
    "label": Entry(
        "label whole data sets, in shards that several processes share", "train", ("accelerate", "datasets")
    ),
    "doctor": Entry("examine class names: unknown, similar or ambiguous words"),
    "calibrate": Entry("measure, on typical images, which pixels show none of the classes"),
    "convert": Entry("convert published DINOv3, dino.txt and SAM weights to a checkpoint"),
    "demo": Entry("serve a web page that segments photos by words", "demo", ("gradio",)),
    "serve": Entry(
        "serve segmentations over HTTP, also to annotation tools",
        "serve",
        ("fastapi", "uvicorn", "python_multipart", "scipy", "shapely"),
    ),
    "train": Entry("train on the drawn world, on COCO-Stuff or on your own masks", *_TRAIN),
    "evaluate": Entry("evaluate a checkpoint on benchmarks or on your own data set", *_TRAIN),
    "prepare": Entry("convert the original download of a benchmark to Parquet", *_TRAIN),
    "export": Entry("export a checkpoint as graphs for ONNX Runtime or torch.export"),
    "publish": Entry("publish a checkpoint and a demo on the Hub"),
}


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The command-line arguments. Default: `sys.argv[1:]`.
        prog: The name of the command in messages. Default: "dinov3seg" and the subcommand.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    entry, prog = COMMANDS[options.command], prog or f"dinov3seg {options.command}"
    try:
        require_installed(entry.extra, *entry.needs)
        command = importlib.import_module(f".{options.command}", __package__)
        return execute(command, prog, options.arguments, partial(require_extra, entry.extra, *entry.needs))
    except ValueError as error:
        print_error(prog, error)
        return EXIT_ERROR
    except KeyboardInterrupt:  # before the command began, or after it ended
        print_error(prog, INTERRUPTED)
        return EXIT_INTERRUPTED


def _parser() -> Parser:
    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="dinov3seg",
        usage="dinov3seg [-h] [--version] COMMAND ...",
        description="Open-vocabulary semantic segmentation: segments images by any words.",
        epilog="commands:\n"
        + "".join(f"  {name:{width}}  {entry.help}\n" for name, entry in COMMANDS.items())
        + "\n`dinov3seg COMMAND --help` lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dinov3seg {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
