# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg demo`: the page on which photos are segmented by words."""

import argparse

from ..about import DTYPES, EMBEDDED
from ..demo.limits import Limits
from ..demo.server import serve
from .console import EXIT_OK, Parser, positive

EXAMPLES = """\
examples:
  dinov3seg demo
  dinov3seg demo --model DIR_OR_HUB_ID --examples photos/ --open
"""


def make_parser(prog: str) -> Parser:
    """The parser of `dinov3seg demo`."""
    parser = Parser(
        prog=prog,
        description="Serves a page on which a person drops a photo, types words and sees the segmentation, and its API "
        'for gradio_client. Needs the extra "demo": pip install "dinov3seg_hf[demo]".',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default=EMBEDDED, metavar="DIR_OR_HUB_ID", help="default: the embedded one, for drawn scenes"
    )
    model.add_argument("--device", help='such as "cpu", "cuda" or "cuda:1" (default: an accelerator if there is one)')
    model.add_argument("--dtype", choices=DTYPES, help="default: the checkpoint's; float32 on the CPU")
    model.add_argument(
        "--examples",
        metavar="DIR",
        help="images to begin with; the words of photo.jpg are in photo.txt (default: drawn scenes for the embedded "
        "model, else none)",
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", help='"0.0.0.0" for all who reach this machine (default: $GRADIO_SERVER_NAME, or this machine alone)'
    )
    server.add_argument("--port", type=int, help="default: $GRADIO_SERVER_PORT, or the first free one from 7860 on")
    server.add_argument("--open", action="store_true", help="open the page in the browser")
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument("--max-queue", type=positive, default=40, metavar="N", help="requests that wait (default 40)")
    bounds.add_argument("--max-labels", type=positive, default=1000, metavar="N", help="of a request (default 1000)")
    bounds.add_argument(
        "--max-megapixels", type=positive, default=50, metavar="N", help="larger images are refused (default 50)"
    )
    bounds.add_argument(
        "--cache", type=positive, default=768, metavar="MIB", help="remembered of all sessions together (default 768)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Serves until interrupted."""
    serve(
        options.model,
        device=options.device,
        dtype=options.dtype,
        examples=options.examples,
        host=options.host,
        port=options.port,
        queue_size=options.max_queue,
        limits=Limits(
            pixels=options.max_megapixels * 1_000_000, labels=options.max_labels, cache_bytes=options.cache * 2**20
        ),
        open_browser=options.open,
    )
    return EXIT_OK
