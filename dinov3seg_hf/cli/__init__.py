# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The command `dinov3seg`: one file a command here, and `console` for what they share.

Knows arguments, files and the terminal; the work is done by the rooms below. May import every room of the package.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..about import __version__
from .console import EXIT_ERROR, Parser, execute, print_error, require_extra


@dataclass(frozen=True)
class Entry:
    """A command: a module of this room, which is imported only when it is asked for.

    Attributes:
        help: What it does, in a few words.
        extra: Of the package, which has to be installed for it.
        needs: Libraries of the extra without which it cannot begin.
    """

    help: str
    extra: str | None = None
    needs: tuple[str, ...] = ()


_TRAIN = ("train", ("accelerate", "datasets", "evaluate", "yaml", "filelock"))
COMMANDS = {
    "segment": Entry("segment images by words"),
    "convert": Entry("turn published DINOv3, dino.txt and SAM weights into a checkpoint"),
    "demo": Entry("serve a page on which photos are segmented by words", "demo", ("gradio",)),
    "train": Entry("train on the drawn world, on COCO-Stuff or on masks of your own", *_TRAIN),
    "evaluate": Entry("score a checkpoint on benchmarks or on a data set of yours", *_TRAIN),
    "prepare": Entry("turn the original download of a benchmark into parquet", *_TRAIN),
    "publish": Entry("publish a checkpoint and a demo on the Hub"),
}


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Those of the command line unless given.
        prog: What messages call the command, where a script stands for it.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    entry, prog = COMMANDS[options.command], prog or f"dinov3seg {options.command}"
    try:
        require_extra(entry.extra, *entry.needs)
    except ValueError as error:
        print_error(prog, error)
        return EXIT_ERROR
    return execute(importlib.import_module(f".{options.command}", __package__), prog, options.arguments)


def _parser() -> Parser:
    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="dinov3seg",
        usage="dinov3seg [-h] [--version] COMMAND ...",
        description="Open-vocabulary semantic segmentation: images and any words in, masks out.",
        epilog="commands:\n"
        + "".join(f"  {name:{width}}  {entry.help}\n" for name, entry in COMMANDS.items())
        + "\n`dinov3seg COMMAND --help` lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dinov3seg {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
