# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg convert`: converts published DINOv3, dino.txt, SAM and AnyUp weights to a checkpoint."""

import argparse
import shlex

from ..about import DTYPES
from ..model.checks import checked_path
from .console import EXIT_OK, Parser, printable

INTERRUPTED = "interrupted; nothing was written; run the same command again"


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg convert`."""
    parser = Parser(
        prog=prog,
        description="Converts published checkpoint files to a folder that from_pretrained and --model load. Reports "
        "how each key was converted.",
    )
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="FILE_OR_HUB_ID",
        help="DINOv3 ViT in the published or the transformers format",
    )
    parser.add_argument("--dinotxt", required=True, metavar="FILE", help="vision head and text encoder of dino.txt")
    parser.add_argument("--output", required=True, metavar="DIR", help="output folder, written atomically")
    parser.add_argument(
        "--prior", metavar="FILE_OR_HUB_ID", help="SAM, for the semantic prior (default: layers of the backbone)"
    )
    parser.add_argument(
        "--anyup", metavar="FILE", help="AnyUp, for the early refinement (default: to be trained; zero-shot without it)"
    )
    parser.add_argument(
        "--anyup-scale",
        type=int,
        choices=(1, 2, 4),
        default=1,
        help="size of the grid of refined features, in patch grids (default: 1)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE_OR_HUB_ID_OR_none",
        default="none",
        help="BPE vocabulary of CLIP: bpe_simple_vocab_16e6.txt.gz, open_clip for that file in the installed package, "
        "or a folder or Hub id such as openai/clip-vit-large-patch14; none (default): weights and image processor "
        "only, which cannot encode words",
    )
    parser.add_argument(
        "--license",
        metavar="FILE_OR_none",
        help="license that came with the weights, copied to DIR (default: the file beside the weights; licenses beside "
        "--prior and --anyup are copied, too); none: DIR gets no license and cannot be published",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="dtype of the written weights (default: float32)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the untrained parts (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion in DIR")
    return parser


def check(options: argparse.Namespace) -> None:
    """Finds wrong paths before torch is imported.

    Raises:
        ValueError: If a file does not exist, there is no license, or the output folder is not free.
    """
    from ..conversion.license import find_licenses
    from ..conversion.paths import checked_output, refuse_missing, refuse_missing_tokenizer

    for name in ("backbone", "dinotxt", "output", "prior", "anyup", "tokenizer", "license"):
        if getattr(options, name) is not None:
            checked_path(getattr(options, name), name)
    sources = {role: getattr(options, role) for role in ("backbone", "dinotxt", "prior", "anyup")}
    refuse_missing(sources)
    find_licenses(options.license, sources)
    checked_output(options.output, options.overwrite)
    refuse_missing_tokenizer(options.tokenizer)


def run(options: argparse.Namespace) -> int:
    """Converts the files and prints the report."""
    from ..conversion import convert

    report = convert(
        options.backbone,
        options.dinotxt,
        options.output,
        prior=options.prior,
        tokenizer=options.tokenizer,
        anyup=options.anyup,
        anyup_scale=options.anyup_scale,
        license=options.license,
        dtype=options.dtype,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    print(printable(str(report), keeps="\n"))
    if report.files["tokenizer"] != "none":
        print(
            f"\nTry it: dinov3seg segment PHOTO.jpg --model {shlex.quote(options.output)} --labels 'dog, grass, sky' "
            "--output out.png"
        )
    else:
        print(
            "\nThe folder cannot segment by words. If it should, run the same command again with --tokenizer open_clip "
            "--overwrite."
        )
    return EXIT_OK
