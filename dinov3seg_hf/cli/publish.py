# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg publish` and `scripts/publish.py`: publish a checkpoint as a Hub model and the demo as a Space."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..about import MAX_SHARD_SIZE
from ..checkpoint_names import resolve_checkpoint
from ..resources import EXAMPLE_IMAGE, EXAMPLE_LABELS, resource
from .console import EXIT_OK, Parser, print_error

if TYPE_CHECKING:
    from ..hub.publish import Publication
    from ..hub.upload import Upload
    from ..model.vocabulary import Vocabulary

EXAMPLES = """\
examples:
  hf auth login
  dinov3seg publish --model DIR --repo my-name/dinov3-seg --dry-run           # check the folders first
  dinov3seg publish --model DIR --repo my-name/dinov3-seg --space my-name/dinov3-seg-demo

The folders are built and checked before the upload: a process that cannot import this package must segment the example
like the checkpoint does. To finish an interrupted upload, run the same command again; it commits nothing twice. From a
repository that exists, the command removes code and weights of an earlier version and names them; other files stay.
"""
INTERRUPTED = "interrupted; run the same command again to finish"


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg publish`."""
    parser = Parser(
        prog=prog,
        description="Publishes a checkpoint: weights, code and card as a model on the Hub, and the demo as a Space "
        "that uses the model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help='folder of the checkpoint, or "embedded"')
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="preset or file of the classes for calls without labels (default: those of the checkpoint, else the "
        "labels of the example)",
    )
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository of the model on the Hub")
    parser.add_argument("--space", metavar="OWNER/NAME", help="repository of the Space on the Hub (default: none)")
    parser.add_argument(
        "--private",
        action="store_true",
        help="create private repositories; the Space then needs a secret HF_TOKEN with read access to the model",
    )
    parser.add_argument("--dry-run", action="store_true", help="build and check the folders without uploading them")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="build folder (default: temporary; publish-... with --dry-run)"
    )
    card = parser.add_argument_group(
        "card", "The metadata options replace the front matter of README.md in the folder of the checkpoint."
    )
    card.add_argument("--license", metavar="ID", help="license of the weights, for example apache-2.0, or other")
    card.add_argument("--license-name", metavar="TEXT", help="name of the license, for --license other")
    card.add_argument("--license-link", metavar="ADDRESS", help="file or URL of the license, for --license other")
    card.add_argument("--base-model", nargs="+", metavar="HUB_ID", help="models that the weights come from")
    card.add_argument("--datasets", nargs="+", metavar="HUB_ID", help="training data sets")
    card.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="results of `dinov3seg evaluate` for this checkpoint (default: results*.json in the folder of the "
        "checkpoint)",
    )
    card.add_argument(
        "--example",
        type=Path,
        metavar="IMAGE",
        help="example image, with its --labels (default: a drawn scene)",
    )
    card.add_argument(
        "--labels",
        metavar="TEXT",
        help="labels of the example, separated by commas (default: those of the drawn scene)",
    )
    parser.add_argument("--max-shard-size", default=MAX_SHARD_SIZE, metavar="SIZE", help="default: %(default)s")
    return parser


def check(options: argparse.Namespace) -> None:
    """Checks the paths.

    Raises:
        ValueError: If the checkpoint, the example or a file of results does not exist.
    """
    resolve_checkpoint(options.model)
    for path in (options.example, *(options.results or ())):
        if path is not None and not path.is_file():
            raise ValueError(f"The file {str(path)!r} was not found. Check the path.")
    if options.example is not None and options.labels is None:
        raise ValueError(
            "Got --example without --labels, so the image would get the labels of the drawn scene; expected both. Add "
            "--labels."
        )


def run(options: argparse.Namespace) -> int:
    """Builds and checks the folders, and uploads them unless `--dry-run` is set."""
    from ..hub.example import Example
    from ..hub.publish import publish

    model = Path(resolve_checkpoint(options.model))
    results = options.results or sorted(model.glob("results*.json"))
    if not results:
        print_error(
            "dinov3seg publish",
            f"the card will contain no scores, because {str(model)!r} has no results*.json. Measure with `dinov3seg "
            "evaluate`, or for the drawn world with scripts/drawn_world/evaluate_tiny.py --output, and pass --results",
        )
    names = ("license", "license_name", "license_link", "base_model", "datasets")
    with tempfile.TemporaryDirectory() as scratch:
        output = options.output or (Path(f"publish-{options.repo.replace('/', '-')}") if options.dry_run else scratch)
        publication = publish(
            model,
            options.repo,
            output,
            card_template=resource("model_card.md"),
            example=Example(options.example or resource(EXAMPLE_IMAGE), options.labels or EXAMPLE_LABELS),
            space_id=options.space,
            demo=resource("demo"),
            constraints=resource("constraints.txt"),
            results=results,
            metadata={name: getattr(options, name) for name in names},
            vocabulary=_vocabulary(options.vocabulary),
            code_license=resource("LICENSE"),
            private=options.private,
            dry_run=options.dry_run,
            max_shard_size=options.max_shard_size,
        )
        print(_summary(publication))
    return EXIT_OK


def _vocabulary(name: str | None) -> "Vocabulary | None":
    from ..model.vocabulary import Vocabulary

    if name is None:
        return None
    return Vocabulary.from_preset(name) if name in Vocabulary.presets() else Vocabulary.from_file(name)


def _summary(publication: "Publication") -> str:
    if not publication.uploads:
        folders = [str(folder) for folder in (publication.model_folder, publication.space_folder) if folder is not None]
        return f"Built and checked, not uploaded: {', '.join(folders)}"
    return "\n".join(map(_describe, publication.uploads))


def _describe(upload: "Upload") -> str:
    size = sum(upload.files.values()) / 1e6
    done = "published in commit" if upload.changed else "already published in commit"
    text = f"{upload.repo_type} {upload.repo_id}: {len(upload.files)} files, {size:.1f} MB, {done} {upload.commit[:12]}"
    return text + (f"; removed there: {', '.join(upload.removed)}" if upload.removed else "")
