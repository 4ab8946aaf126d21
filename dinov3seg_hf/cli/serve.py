# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg serve`: serves segmentations over HTTP, also to Label Studio and X-AnyLabeling."""

import argparse

from ..checkpoint_names import resolve_checkpoint
from .console import EXIT_OK, Parser, port, positive
from .model_options import add_model
from .server_limits import add_limits, limits_of
from .words import add_words, vocabulary_of

EXAMPLES = """\
examples:
  dinov3seg serve
  curl -F image=@examples/scene.png -F labels="red plain triangle, black plain background" localhost:8000/segment
  dinov3seg serve --model DIR_OR_HUB_ID --host 0.0.0.0 --images-from http://label-studio:8080

http://localhost:8000/docs describes the endpoints. On SIGTERM, the service answers the waiting requests and stops.
"""


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg serve`."""
    parser = Parser(
        prog=prog,
        description="Serves segmentations over HTTP: POST /segment, and what Label Studio (ML backend) and "
        'X-AnyLabeling (remote server) expect. Requires the extra "serve": pip install "dinov3seg_hf[serve]".',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_words(parser, required=False)
    add_model(parser, settings=False)
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help='"0.0.0.0" accepts other machines (default: 127.0.0.1)')
    server.add_argument("--port", type=port, default=8000, help="default: 8000; 0: a free port")
    server.add_argument(
        "--images-from",
        nargs="+",
        default=[],
        metavar="URL",
        help="URL prefixes from which images of Label Studio are read; $LABEL_STUDIO_API_KEY is sent to the first one "
        "(default: none)",
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--max-batch", type=positive, default=8, metavar="N", help="images that the model gets at once (default: 8)"
    )
    work.add_argument(
        "--max-wait-ms",
        type=positive,
        default=10,
        metavar="MS",
        help="how long an image waits for others, in milliseconds (default: 10)",
    )
    work.add_argument(
        "--num-workers", type=positive, default=2, metavar="N", help="threads that read images (default: 2)"
    )
    add_limits(parser, max_queue=64, time="time of a request, waiting included")
    return parser


def check(options: argparse.Namespace) -> None:
    """Adds the vocabulary of requests without words to the options; `None` if there is none.

    Raises:
        ValueError: If a label is invalid, or the checkpoint does not exist.
    """
    is_given = (options.labels, options.labels_file, options.preset) != (None, None, None)
    if options.templates is not None and not is_given:
        raise ValueError("Got --templates without words. Add --labels, --labels-file or --preset, or leave it out.")
    options.vocabulary = vocabulary_of(options) if is_given else None
    resolve_checkpoint(options.model)


def run(options: argparse.Namespace) -> int:
    """Serves until stopped."""
    from ..serving.server import serve

    serve(
        options.model,
        device=options.device,
        dtype=options.dtype,
        host=options.host,
        port=options.port,
        vocabulary=options.vocabulary,
        images_from=options.images_from,
        limits=limits_of(options),
        max_batch=options.max_batch,
        max_wait=options.max_wait_ms / 1000,
        max_queue=options.max_queue,
        num_workers=options.num_workers,
    )
    return EXIT_OK
