# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg demo`: serves the web page that segments photos by words."""

import argparse
from dataclasses import replace
from pathlib import Path

from ..checkpoint_names import resolve_checkpoint
from ..model.files import read_text_up_to
from .console import EXIT_OK, Parser, port, positive
from .model_options import add_model
from .server_limits import add_limits, limits_of

EXAMPLES = """\
examples:
  dinov3seg demo
  dinov3seg demo --model DIR_OR_HUB_ID --examples photos/ --open
  dinov3seg demo --host 0.0.0.0 --auth users.txt --max-requests 60
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
        "--port", type=port, help="port (default: $GRADIO_SERVER_PORT, or the first free port from 7860)"
    )
    server.add_argument(
        "--auth",
        type=Path,
        metavar="FILE",
        help="file with a line name:password for each user (default: everyone who reaches the port)",
    )
    server.add_argument("--open", action="store_true", help="open the page in a browser")
    bounds = add_limits(parser, max_queue=40, time="time to compute a request")
    bounds.add_argument(
        "--max-requests",
        type=positive,
        default=120,
        metavar="N",
        help="requests of a client per minute (default: %(default)s)",
    )
    bounds.add_argument(
        "--max-uploads",
        type=positive,
        default=2048,
        metavar="MIB",
        help="size of the uploads of all clients together; older ones are removed (default: %(default)s)",
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """Checks the name of the checkpoint, and adds the names and passwords to the options.

    Raises:
        ValueError: If the checkpoint does not exist, or the file of passwords cannot be read.
    """
    resolve_checkpoint(options.model)
    options.users = [] if options.auth is None else _users(options.auth)


def _users(file: Path) -> list[tuple[str, str]]:
    lines = [line for line in read_text_up_to(file, "The file of passwords").splitlines() if line.strip()]
    users = [(name, password) for name, _, password in (line.partition(":") for line in lines)]
    if not users or not all(name and password for name, password in users):
        raise ValueError(f"{str(file)!r} is no file of passwords; expected a line name:password for each user.")
    return users


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
        limits=replace(
            limits_of(options),
            requests_per_minute=options.max_requests,
            upload_bytes=options.max_uploads * 2**20,
        ),
        open_browser=options.open,
        auth=options.users,
    )
    return EXIT_OK
