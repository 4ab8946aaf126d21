# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The flags for annotations in the formats of other tools, and their checks before a model is loaded."""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..annotations.formats import FORMATS, FORMATS_WITH
from .console import not_negative, positive, print_error, share
from .inputs import ImageInput
from .segment_files import refuse_labels_file, run_of

if TYPE_CHECKING:
    from ..annotations import AnnotationWriter
    from ..model.vocabulary import Vocabulary
    from .segment_files import Task

# Options that need --annotations, by their names, with their defaults.
OPTIONS = {
    "min_area": 0,
    "tolerance": 1.0,
    "ignore_below": None,
    "copy_images": True,
    "image_prefix": "",
    "overwrite": False,
}


def add_annotations(parser: argparse.ArgumentParser) -> None:
    """Adds the flags `--annotations`, `--format` and the options of an export."""
    group = parser.add_argument_group(
        "annotations",
        "For annotation tools and for training. Each connected part of a label is an annotation of its own. One file "
        "for all images (coco, coco-panoptic, cvat, label-studio, geopackage) is written when all images are done; "
        "until then, PATH.journal keeps those that are, for the same command again (not of videos). "
        'Requires the extra "export", for geotiff and geopackage "geo".',
    )
    group.add_argument(
        "--annotations",
        metavar="PATH",
        help="file (coco, coco-panoptic, label-studio: .json; cvat: .xml; geopackage: .gpkg) or folder (others)",
    )
    group.add_argument("--format", choices=FORMATS, help="format of the annotations")
    group.add_argument(
        "--min-area",
        type=positive,
        default=0,
        metavar="N",
        help="leave out parts with fewer pixels, also from masks, where they are ignored (default: keep all)",
    )
    group.add_argument(
        "--tolerance",
        type=not_negative("a number of pixels"),
        default=1.0,
        metavar="PIXELS",
        help="how far polygons may be from the outline (coco, yolo, labelme, geopackage; default: 1; 0: all corners of "
        "all pixels)",
    )
    group.add_argument(
        "--ignore-below",
        type=share,
        metavar="S",
        help="pixels with a lower score have no annotation, and are ignored in masks (default: keep all)",
    )
    group.add_argument(
        "--copy-images",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="store the images beside the annotations (png, yolo, labelme; default: yes)",
    )
    group.add_argument(
        "--image-prefix",
        default="",
        metavar="TEXT",
        help="text before the names of images (coco, coco-panoptic, cvat, label-studio)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files of an image that exist with another content; without it they stay, for example corrections "
        "by hand, and the image is reported (one file for all images is always replaced; "
        "an interrupted run of it begins again, also one with --overwrite)",
    )


def refuse_without_annotations(options: argparse.Namespace) -> None:
    """Checks that no option of annotations is set without `--annotations`: `--mask`, for example, has all parts.

    Raises:
        ValueError: If one is.
    """
    for name, default in OPTIONS.items():
        if getattr(options, name) != default:
            flag = f"--no-{name}" if default is True else f"--{name}"
            flag = flag.replace("_", "-")
            raise ValueError(f"{flag} needs --annotations and --format. Add them, or leave {flag} out.")


def refuse_options_of_other_formats(options: argparse.Namespace) -> None:
    """Checks that no option is set that `--format` does not have.

    Raises:
        ValueError: If one is.
    """
    for name, formats in FORMATS_WITH.items():
        if getattr(options, name) != OPTIONS[name] and options.format not in formats:
            flag = f"--{name}".replace("_", "-")
            raise ValueError(
                f"{flag} does not work with --format {options.format}; expected {', '.join(formats)}. Leave it out."
            )
    if options.format == "parquet" and not options.copy_images:
        raise ValueError(
            "--no-copy-images does not work with --format parquet, whose files hold the images. Leave it out, or use "
            "`dinov3seg label --no-copy-images`."
        )


def open_annotations(
    options: argparse.Namespace, vocabulary: "Vocabulary", images: Sequence[ImageInput]
) -> "AnnotationWriter | None":
    """Opens the writer of the flags of `add_annotations`; `None` without them. Writes nothing.

    Raises:
        ValueError: If a flag is missing or does not fit, two images have the same name, the path cannot be written, or
            a library is missing.
    """
    if options.annotations is None and options.format is None:
        refuse_without_annotations(options)
        return None
    if options.annotations is None or options.format is None:
        got, expected = ("--format", "--annotations") if options.annotations is None else ("--annotations", "--format")
        raise ValueError(f"Got {got} without {expected}; expected both. Add {expected}.")
    refuse_options_of_other_formats(options)
    from ..annotations import ExportOptions, open_writer

    export = ExportOptions(
        min_area=options.min_area,
        tolerance=options.tolerance,
        ignore_below=options.ignore_below,
        copy_images=options.copy_images,
        image_prefix=options.image_prefix,
        overwrite=options.overwrite,
    )
    if options.skip_existing and options.overwrite:
        raise ValueError(
            "Got --skip-existing, which keeps files, and --overwrite, which replaces them; expected one of them. Leave "
            "the other one out."
        )
    writer = open_writer(options.format, options.annotations, vocabulary, export)
    refuse_labels_file(options, [writer.path])
    source_of: dict[object, str] = {}
    for image in images:
        if (first := source_of.setdefault(image.name, image.title)) != image.title:
            raise ValueError(
                f"{first!r} and {image.title!r} have the same name in annotations, {str(image.name)!r}. Rename one of "
                "them, segment them in separate runs, or pass their common folder with --recursive."
            )
    if not options.videos and not writer.resumable:  # of videos, frames are not known; folders need no journal
        options.annotated = writer.resume(run_of(options), {image.file_name: image.identity for image in images})
    if options.skip_existing:
        _check_resumable(options, writer)
    return writer


def _check_resumable(options: argparse.Namespace, writer: "AnnotationWriter") -> None:
    if not writer.resumable:
        raise ValueError(
            f"--skip-existing does not work with videos and --format {options.format}, whose files hold all frames: "
            "they would lack those that were done before. Leave it out, or write png masks, which can be continued."
        )
    if writer.path.is_file() and not options.annotated:
        raise ValueError(
            f"{str(writer.path)!r} is complete, so there is nothing that --skip-existing could go on with. Leave it "
            "out to write the file again, or choose another name."
        )


def warn_of_annotations(options: argparse.Namespace, tasks: Sequence["Task"]) -> None:
    """Prints a line if images have annotations already; whether these would change is known after the work only."""
    if options.skip_existing or options.overwrite:
        return
    if count := sum(any(os.path.exists(path) for path in task.annotations) for task in tasks):
        print_error(
            "dinov3seg segment",
            f"{count} of {len(tasks)} images have annotations already; those that would change are kept, and reported. "
            "--skip-existing leaves such images out, --overwrite replaces their annotations",
        )
