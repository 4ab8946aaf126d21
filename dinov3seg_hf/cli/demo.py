# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg demo`: serves the web page that segments photos by words."""

import argparse

from ..checkpoint_names import resolve_checkpoint
from .console import EXIT_OK, Parser
from .model_options import add_model
from .server_limits import add_limits, limits_of

EXAMPLES = """\
examples:
  dinov3seg demo
  dinov3seg demo --model DIR_OR_HUB_ID --examples photos/ --open
"""


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg demo`."""
    parser = Parser(
        prog=prog,
        description="Serves a web page that segments photos by words, and its API for gradio_client. Requires the "
        'extra "demo": pip install "dinov3seg_hf[demo]".',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser, settings=False)
    page = parser.add_argument_group("page")
    page.add_argument(
        "--examples",
        metavar="DIR",
        help="folder of example images, with a subfolder for each topic; the words of photo.jpg are read from "
        "photo.txt (default: drawn scenes for the embedded checkpoint, else none)",
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host",
        help='host name or address; "0.0.0.0" accepts other machines (default: $GRADIO_SERVER_NAME, or localhost)',
    )
    server.add_argument(
        "--port", type=int, help="port (default: $GRADIO_SERVER_PORT, or the first free port from 7860)"
    )
    server.add_argument("--open", action="store_true", help="open the page in a browser")
    add_limits(parser, max_queue=40)
    return parser


def check(options: argparse.Namespace) -> None:
    """Checks the name of the checkpoint.

    Raises:
        ValueError: If the checkpoint does not exist.
    """
    resolve_checkpoint(options.model)


def run(options: argparse.Namespace) -> int:
    """Serves the page until interrupted."""
    from ..demo.server import serve

    serve(
        options.model,
        device=options.device,
        dtype=options.dtype,
        examples=options.examples,
        host=options.host,
        port=options.port,
        queue_size=options.max_queue,
        limits=limits_of(options),
        open_browser=options.open,
    )
    return EXIT_OK
