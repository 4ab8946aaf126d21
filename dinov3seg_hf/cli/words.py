# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The flags for class names, which several commands share."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.prompts import TEMPLATES
from ..model.vocabulary_files import preset_names
from ..resources import EXAMPLE_LABELS

if TYPE_CHECKING:
    from ..model.vocabulary import Vocabulary


def add_words(parser: argparse.ArgumentParser, example: bool = False, required: bool = True) -> None:
    """Adds the flags `--labels`, `--labels-file`, `--preset` and `--templates`, and `--example` if asked for."""
    title = "words (one of these)" if required else "words of requests without words (one of these, or none)"
    words = parser.add_argument_group(title).add_mutually_exclusive_group(required=required)
    words.add_argument("--labels", metavar="TEXT", help='class names, separated by commas; synonyms separated by "|"')
    words.add_argument(
        "--labels-file", metavar="FILE", help="file of class names: .txt (one per line), .tsv, .csv, .json or .yaml"
    )
    words.add_argument("--preset", metavar="NAME", help=f"vocabulary of a benchmark: {', '.join(preset_names())}")
    if example:
        words.add_argument("--example", action="store_true", help="the image of the quick start, and its words")
    parser.add_argument(
        "--templates",
        metavar="TEMPLATE",
        action="append",
        help=f'set of prompt templates: {", ".join(TEMPLATES)}; or one template with "{{}}" for the name; repeatable',
    )


def check_savable(vocabulary: "Vocabulary", path: Path) -> None:
    """Checks that a vocabulary can be saved, before the work that improves it.

    Raises:
        ValueError: If the path cannot be written, or the format cannot hold a word.
    """
    from ..visualization.files import check_writable

    check_writable(path, (".tsv", ".json"))
    with tempfile.TemporaryDirectory() as folder:
        vocabulary.save(Path(folder) / f"words{path.suffix}")


def vocabulary_of(options: argparse.Namespace) -> "Vocabulary":
    """Returns the vocabulary of the flags of `add_words`.

    Raises:
        ValueError: If a class name is invalid, or a file cannot be read.
    """
    from ..model.vocabulary import Vocabulary, as_vocabulary

    templates = options.templates
    if templates is not None and len(templates) == 1:
        templates = templates[0]  # a single value can be the name of a set
    if options.labels is not None:
        return as_vocabulary(options.labels, templates)
    if options.labels_file is not None:
        return Vocabulary.from_file(options.labels_file, templates=templates)
    if options.preset is None:  # --example
        return as_vocabulary(EXAMPLE_LABELS, templates)
    return Vocabulary.from_preset(options.preset, **({} if templates is None else {"templates": templates}))
