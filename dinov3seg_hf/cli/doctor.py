# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg doctor`: examines class names before they are used, and writes better ones."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..about import EMBEDDED
from ..checkpoint_names import resolve_checkpoint
from ..doctor.bounds import MIN_IMAGES, SIMILARITY
from .console import EXIT_OK, Parser, auto_or_positive, share
from .inputs import each_readable, find_images
from .words import add_words, check_savable, vocabulary_of

if TYPE_CHECKING:
    from ..doctor.findings import Finding
    from ..doctor.rejection import Disagreement

# Findings of the images.
OF_IMAGES = ("everywhere", "nowhere")
KINDS = ("joined", "torn", "meanings", "similar", "everywhere", "nowhere")
EXAMPLES = """\
examples:
  dinov3seg doctor --labels-file classes.txt --model dinov3seg-vitl16
  dinov3seg doctor --preset ade20k-150 --model dinov3seg-vitl16 --images photos
  dinov3seg doctor --labels-file classes.txt --model dinov3seg-vitl16 --only joined similar --write better.tsv
"""


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg doctor`."""
    parser = Parser(
        prog=prog,
        description="Examines class names: words written as one, unknown to the tokenizer or with several meanings; "
        "classes that the text encoder hardly tells apart; with images, classes that win everywhere or nowhere, and "
        "what --active-classes changes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_words(parser)
    parser.add_argument("--model", default=EMBEDDED, metavar="DIR_OR_HUB_ID", help="checkpoint (default: embedded)")
    parser.add_argument(
        "--images", metavar="DIR", type=Path, help=f"folder of typical images, at least {MIN_IMAGES}, without masks"
    )
    parser.add_argument(
        "--similarity",
        type=share,
        default=SIMILARITY,
        metavar="S",
        help="smallest cosine similarity of two classes that is reported (default: %(default)s)",
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, help="kinds of findings (default: all)")
    parser.add_argument(
        "--write", metavar="FILE", type=Path, help="vocabulary with all proposals applied (.tsv or .json)"
    )
    parser.add_argument(
        "--active-classes",
        type=auto_or_positive,
        metavar="K",
        help="compare segmentations of the images with auto or K active classes per patch with those of all classes",
    )
    parser.add_argument("--device", help="default: an accelerator if available")
    return parser


def check(options: argparse.Namespace) -> None:
    """Adds the vocabulary and the paths of the images to the options.

    Raises:
        ValueError: If a label is invalid, a path is wrong, or there are too few images.
    """
    options.vocabulary = vocabulary_of(options)
    _check_only(options)
    options.image_paths = None if options.images is None else images_in(options.images)
    if options.active_classes is not None and options.images is None:
        raise ValueError("Got --active-classes without images to compare; expected both. Pass --images.")
    if options.write is not None and options.write.suffix.lower() not in (".tsv", ".json"):
        raise ValueError(f"--write is {str(options.write)!r}; expected a file that ends in .tsv or .json.")
    if options.write is not None:
        check_savable(options.vocabulary, options.write)
    resolve_checkpoint(options.model)


def _check_only(options: argparse.Namespace) -> None:
    """Checks that `--only` leaves something for the other options to do; adds all kinds if it is not set."""
    if options.only is None:
        options.only = list(KINDS)
        return
    of_images = [kind for kind in options.only if kind in OF_IMAGES]
    if of_images and options.images is None:
        raise ValueError(f"Got --only {of_images[0]} without images to look at; expected both. Pass --images.")
    if options.images is not None and not of_images and options.active_classes is None:
        raise ValueError(
            f"--images is for the findings {' and '.join(OF_IMAGES)}, and --only leaves them out. Add one of them, or "
            "leave --images out."
        )
    if options.similarity != SIMILARITY and "similar" not in options.only:
        raise ValueError(
            "--similarity is for the finding similar, and --only leaves it out. Add it, or leave --similarity out."
        )


def run(options: argparse.Namespace) -> int:
    """Prints the findings, and writes the vocabulary with the proposals applied."""
    from tqdm import tqdm

    from ..doctor.findings import apply_findings
    from ..doctor.rejection import verify_active_classes
    from ..doctor.similarity import find_similar
    from ..doctor.spelling import find_spelling
    from ..doctor.winners import count_winners, find_winners
    from ..loading import load_pipeline
    from ..model.image_input import open_image

    vocabulary, images = options.vocabulary, options.image_paths
    pipe = load_pipeline(options.model, options.device)
    findings = [finding for finding in find_spelling(vocabulary, pipe.tokenizer) if finding.kind in options.only]
    # from here on with the proposed words; of words that the encoder does not know, similarity says nothing
    spelled = apply_findings(vocabulary, findings)
    # without bounds, which may be those of other settings, and do not change which label is the best
    text = replace(pipe.encode_labels(spelled, progress=sys.stderr.isatty()), calibration=None)
    unknown = [finding for finding in find_spelling(spelled, pipe.tokenizer) if finding.kind == "torn"]
    torn = {label for finding in unknown for label in finding.labels}
    findings += [
        finding for finding in find_similar(spelled, text, options.similarity) if not torn.intersection(finding.labels)
    ]

    max_pixels = pipe.image_processor.max_image_pixels

    def opened(task: str) -> Iterator[Any]:
        paths = tqdm(images, desc=task, unit="image", file=sys.stderr)
        return each_readable("dinov3seg doctor", paths, lambda path: open_image(path, max_pixels=max_pixels))

    if images is not None:
        findings += find_winners(spelled, count_winners(pipe, opened("Segmenting"), text))
    findings = [finding for finding in findings if finding.kind in options.only]
    print(report(findings, len(vocabulary)))
    if options.active_classes is not None:
        found = verify_active_classes(pipe, opened("Comparing"), text, options.active_classes)
        print(comparison(found, options.active_classes))
    if options.write is not None:
        changed = apply_findings(vocabulary, findings)
        changed.save(options.write)
        print(f"Wrote {len(changed)} classes to {options.write}.")
    return EXIT_OK


def images_in(folder: Path) -> list[str]:
    """Returns the image files of a folder, sorted.

    Raises:
        ValueError: If the folder does not exist or has fewer than `MIN_IMAGES` images.
    """
    images = [image.source for image in find_images([str(folder)])]
    if len(images) < MIN_IMAGES:
        raise ValueError(
            f"--images is {str(folder)!r}, which has {len(images)} images; expected a folder with at least "
            f"{MIN_IMAGES}, because fewer say nothing about a class."
        )
    return images


def report(findings: "Sequence[Finding]", num_classes: int) -> str:
    """Formats the findings as text, one per line, with the proposals."""
    if not findings:
        return f"{num_classes} classes, nothing to report."
    lines = [f"{num_classes} classes, {len(findings)} finding{'s' * (len(findings) > 1)}"]
    for finding in findings:
        proposal = ""
        if finding.words:
            proposal = " Proposal: " + ", ".join(repr(word) for word in finding.words.values()) + "."
        elif finding.merge is not None:
            proposal = " Proposal: one class with both as synonyms."
        lines.append(f"{finding.kind:10}  {finding.message}{proposal}")
    return "\n".join(lines)


def comparison(found: "Sequence[Disagreement]", active_classes: int | str) -> str:
    """Formats what `active_classes` changes and saves, in one line."""
    changed, worst = sum(image.share for image in found) / len(found), max(image.share for image in found)
    ratio = sum(image.seconds_of_all for image in found) / sum(image.seconds for image in found)
    return (
        f"--active-classes {active_classes}: {100 * changed:.2f} % of the pixels get another label (at most "
        f"{100 * worst:.2f} % of an image), {ratio:.1f} times as fast."
    )
