# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg export`: exports a checkpoint as graphs that run without this package."""

import argparse
from pathlib import Path

from ..checkpoint_names import resolve_checkpoint
from ..exporting.formats import FORMATS, check_format
from .console import EXIT_OK, Parser

EXAMPLES = """\
examples:
  dinov3seg export runs/ade/model --output exported
  dinov3seg export runs/ade/model --output small --int8
  python exported/run.py photo.jpg --labels "dog, grass, sky|clouds" --output labels.png

The graphs of an image, of words and of the head take images of any size and any number of words. The command compares
what they compute with the model, and writes the folder only if nothing differs.
"""


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg export`."""
    parser = Parser(
        prog=prog,
        description="Exports a checkpoint as three graphs, for ONNX Runtime, OpenVINO or torch.export.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", help='folder of the checkpoint, or "embedded"')
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="onnx",
        help="onnx and openvino: with a run.py that needs neither torch nor transformers (default: onnx); torch: .pt2 "
        "of torch.export",
    )
    parser.add_argument(
        "--int8", action="store_true", help="matrices with weights of 8 bits: a quarter of the size (onnx only)"
    )
    parser.add_argument(
        "--templates",
        nargs="+",
        metavar="TEMPLATE",
        help='prompt templates of run.py, or the name of a set, such as "simple" (default: that of the paper)',
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """Checks the libraries of the format, the name of the checkpoint and the templates.

    Raises:
        ValueError: If one of them is missing or invalid.
    """
    from ..model.prompts import DEFAULT_TEMPLATE, resolve_templates

    check_format(options.format, options.int8)
    resolve_checkpoint(options.model)
    given = options.templates or [DEFAULT_TEMPLATE]
    options.templates = resolve_templates(given[0] if len(given) == 1 else given)


def run(options: argparse.Namespace) -> int:
    """Exports the checkpoint and prints the parity."""
    from ..exporting.export import export_checkpoint
    from ..exporting.parity import table

    export = export_checkpoint(
        options.model,
        options.output,
        options.format,
        int8=options.int8,
        templates=options.templates,
        progress=True,
    )
    print(table(export.differences))
    print(f"\nWritten to {export.folder}: {', '.join(export.files)}")
    return EXIT_OK
