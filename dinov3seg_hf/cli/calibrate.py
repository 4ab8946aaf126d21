# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg calibrate`: measures when a pixel shows none of the classes, and stores the bounds with their names."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..about import DTYPES, EMBEDDED
from ..checkpoint_names import resolve_checkpoint
from .console import EXIT_ERROR, EXIT_OK, REFINE_FEATURES, Parser
from .inputs import ImageInput, each_readable, find_images, find_masks
from .model_options import refuse_options_of_other_head
from .words import add_words, check_savable, vocabulary_of

if TYPE_CHECKING:
    from ..doctor.points import Measurement
    from ..model.inference_settings import InferenceSettings
    from ..model.text_embeddings import TextEmbeddings
    from ..model.vocabulary import Vocabulary

EXAMPLES = """\
examples:
  dinov3seg calibrate --labels-file classes.txt --model dinov3seg-vitl16 --images photos --write classes.tsv
  dinov3seg calibrate --preset ade20k-150 --model runs/ade/model --images photos --masks masks --write classes.tsv
  dinov3seg segment photo.jpg --labels-file classes.tsv --model dinov3seg-vitl16 --output overlay.png
"""


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg calibrate`."""
    parser = Parser(
        prog=prog,
        description="Measures on typical images below which confidence a pixel shows none of the classes, and writes "
        "the class names with these bounds. Commands that read the file leave such pixels without a label.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_words(parser)
    parser.add_argument("--images", metavar="DIR", required=True, help="folder of typical images")
    parser.add_argument(
        "--masks",
        metavar="DIR",
        type=Path,
        help="folder of their masks (<image>.png), for a bound per class. Values that are no class mark things without "
        "a class; pixels with the ignore label are left out. Required for the full head",
    )
    parser.add_argument(
        "--write", metavar="FILE", type=Path, required=True, help="vocabulary with the bounds (.tsv or .json)"
    )
    parser.add_argument("--model", default=EMBEDDED, metavar="DIR_OR_HUB_ID", help="checkpoint (default: embedded)")
    parser.add_argument("--inference", choices=("whole", "local-global", "slide"), help="default: as in the checkpoint")
    parser.add_argument("--head", choices=("full", "dinotxt"), help="default: as in the checkpoint")
    parser.add_argument("--refine-features", action=argparse.BooleanOptionalAction, help=REFINE_FEATURES)
    parser.add_argument("--device", help="default: an accelerator if available")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights")
    return parser


def check(options: argparse.Namespace) -> None:
    """Adds the vocabulary, the images and the paths of their masks to the options.

    Raises:
        ValueError: If a label is invalid, or a path is wrong.
    """
    refuse_options_of_other_head(options, options.head)
    options.vocabulary = vocabulary_of(options)
    options.image_inputs = find_images([options.images])
    options.mask_paths = None if options.masks is None else find_masks(options.image_inputs, options.masks)
    check_savable(options.vocabulary, options.write)
    resolve_checkpoint(options.model)


def run(options: argparse.Namespace) -> int:
    """Measures the bounds, writes the vocabulary and prints what changes."""
    from ..doctor.calibration import calibrate, check_head
    from ..doctor.points import Points
    from ..loading import load_pipeline
    from ..model.inference_settings import InferenceSettings

    vocabulary, images, masks = options.vocabulary, options.image_inputs, options.mask_paths
    pipe = load_pipeline(options.model, options.device, options.dtype)
    settings = pipe.resolved_settings(
        InferenceSettings(inference=options.inference, head=options.head, refine_features=options.refine_features)
    )
    assert settings.head is not None  # resolved
    refuse_options_of_other_head(options, settings.head)
    check_head(settings.head, masks is not None, len(vocabulary))
    text = pipe.encode_labels(vocabulary, progress=sys.stderr.isatty())
    points = Points.of(measured_images(pipe, images, masks, vocabulary, text, settings))
    calibration = calibrate(points, text)
    replace(vocabulary, calibration=calibration).save(options.write)
    bounds = " to ".join(f"{bound:.3g}" for bound in sorted({min(calibration.thresholds), max(calibration.thresholds)}))
    print(
        f"{100 * points.share_of_none(calibration):.1f} % of the pixels of {points.num_images} images show none of the "
        f"{len(vocabulary)} classes.\nBound of the confidence of head {settings.head}: {bounds}.\n"
        f"Wrote {options.write}."
    )
    return EXIT_OK if points.num_images == len(images) else EXIT_ERROR


def measured_images(
    pipe: Any,
    images: Sequence[ImageInput],
    masks: Sequence[Path] | None,
    vocabulary: "Vocabulary",
    text: "TextEmbeddings",
    settings: "InferenceSettings",
) -> "Iterator[Measurement]":
    """Measures the images one after the other, with a progress bar; see `each_readable` for those that fail.

    Raises:
        ValueError: If the first image or its mask cannot be read, or their sizes differ.
    """
    from tqdm import tqdm

    from ..doctor.calibration import labels_of_mask, measure
    from ..model.image_input import open_image, read_label_map

    def measured(index: int) -> "Measurement":
        opened = open_image(images[index].source, max_pixels=pipe.image_processor.max_image_pixels)
        truth = None
        if masks is not None:
            mask = read_label_map(masks[index], max_pixels=pipe.image_processor.max_image_pixels).numpy()
            if mask.shape != (opened.height, opened.width):
                raise ValueError(
                    f"The mask {str(masks[index])!r} has {mask.shape[1]} x {mask.shape[0]} pixels and its image "
                    f"{opened.width} x {opened.height}; expected the same size. Resize the mask with nearest neighbor."
                )
            truth = labels_of_mask(vocabulary, mask)
        return measure(pipe, opened, text, settings, truth)

    places = tqdm(range(len(images)), desc="Measuring", unit="image", file=sys.stderr)
    return each_readable("dinov3seg calibrate", places, measured)
