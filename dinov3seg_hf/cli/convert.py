# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg convert`: published DINOv3, dino.txt and SAM weights to a checkpoint."""

import argparse

from ..about import DTYPES
from ..conversion.convert import convert
from .console import EXIT_OK, Parser


def make_parser(prog: str) -> Parser:
    """The parser of `dinov3seg convert`."""
    parser = Parser(
        prog=prog,
        description="Turns the published checkpoint files into a folder that from_pretrained and --model load, and "
        "reports what became of every key.",
    )
    parser.add_argument(
        "--backbone", required=True, metavar="FILE_OR_HUB_ID", help="DINOv3 ViT as published, or transformers'"
    )
    parser.add_argument("--dinotxt", required=True, metavar="FILE", help="dino.txt's vision head and text encoder")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write; appears whole or not at all")
    parser.add_argument(
        "--prior", metavar="FILE_OR_HUB_ID", help="SAM, the semantic prior (default: the backbone's own layers)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE_OR_HUB_ID_OR_none",
        default="none",
        help="CLIP's BPE vocabulary; none (default): weights and image processor only, which cannot read words",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the written weights (default float32)")
    parser.add_argument("--seed", type=int, default=0, help="of the parts that are yet to be trained (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion in DIR")
    return parser


def run(options: argparse.Namespace) -> int:
    """Converts, and prints the report."""
    report = convert(
        options.backbone,
        options.dinotxt,
        options.output,
        prior=options.prior,
        tokenizer=options.tokenizer,
        dtype=options.dtype,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    print(report)
    return EXIT_OK
