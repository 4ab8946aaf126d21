# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg segment`: segments images and videos by words; writes tables, overlays, label maps and annotations."""

import argparse

from ..checkpoint_names import resolve_checkpoint
from ..file_names import IMAGE_SUFFIXES
from ..resources import EXAMPLE_IMAGE, resource
from .annotations import add_annotations, open_annotations, warn_of_annotations
from .console import EXIT_OK, Parser, positive, print_error, share
from .inputs import find_images, warn_of_frames
from .model_options import add_model, refuse_options_of_other_head
from .segment_files import (
    OVERLAY,
    Task,
    is_done,
    note_of,
    plan_files,
    refuse_other_options,
    refuse_without_output,
)
from .segment_tiles import add_tiles, check_tiles, refuse_without_tile, run_tiles
from .segment_videos import add_videos, check_videos, refuse_without_video
from .words import add_words, vocabulary_of

EXAMPLES = """\
examples:
  dinov3seg segment --example --output overlay.png
  dinov3seg segment scene.png --labels "red circle, blue striped square" --output overlay.png
  dinov3seg segment photo.jpg --model DIR_OR_HUB_ID --labels "sofa|couch, cat" --mask labels.png --json segments.json
  dinov3seg segment photos --recursive --model DIR_OR_HUB_ID --preset ade20k-150 --mask masks/ --skip-existing
  dinov3seg segment photos --model DIR_OR_HUB_ID --labels "cat, dog" --format coco --annotations coco.json --min-area 50
  dinov3seg segment clip.mp4 --model DIR_OR_HUB_ID --labels "road, car, sky" --every 5 --output overlay.mp4
  dinov3seg segment map.tif --model DIR_OR_HUB_ID --labels "forest, field, water" --tile --mask labels.tif

DIR_OR_HUB_ID is a checkpoint for photographs, such as a folder of `dinov3seg convert`. Without --model, the embedded
checkpoint is used, which knows drawn scenes only.
"""
INTERRUPTED = (
    "interrupted; run the same command again to finish, with --skip-existing to keep what is done; annotations in one "
    "file go on anyway without --overwrite, except those of videos, which begin again"
)


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg segment`."""
    parser = Parser(
        prog=prog,
        description="Segments images and videos by words. Prints the labels found with area and score; writes "
        "overlays, label maps and JSON.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help='image or video files, folders, quoted patterns ("photos/*.jpg"), HTTP(S) URLs, or - for standard input',
    )
    parser.add_argument("--recursive", action="store_true", help="search the subfolders of folders, too")
    parser.add_argument(
        "--all-frames",
        action="store_true",
        help="segment each page or frame of TIFF, GIF, WebP and PNG files (default, and for URLs: the first one)",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="skip images whose output files exist, to continue an interrupted run with the same words and options",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=1, metavar="N", help="images that the model gets at once (default: 1)"
    )

    add_words(parser, example=True)
    files = parser.add_argument_group(
        "files",
        "With several images, or if FILE ends in / or is a folder, FILE is a folder for <image>_overlay.png, "
        "<image>_mask.png and <image>.json. The folder is created if it does not exist.",
    )
    files.add_argument("--output", metavar="FILE", help=f"image with overlay and legend ({', '.join(IMAGE_SUFFIXES)})")
    files.add_argument(
        "--mask",
        metavar="FILE",
        help="label map (.png): 8 bits for up to 255 labels (255 is none of these), else 16 bits",
    )
    files.add_argument("--json", metavar="FILE", help="segments with label, score, area, box and mask (.json)")
    files.add_argument("--original", action="store_true", help="put the image beside the overlay")
    files.add_argument(
        "--alpha", type=share, default=OVERLAY["alpha"], metavar="A", help="opacity of the overlay (default: 0.5)"
    )

    add_annotations(parser)
    add_videos(parser)
    add_tiles(parser)
    add_model(parser)
    return parser


def check(options: argparse.Namespace) -> None:
    """Adds the vocabulary, the writer of annotations and the images with their output files to the options.

    Raises:
        ValueError: If a label is invalid, an image or the checkpoint does not exist, or a file cannot be written.
    """
    if options.example == bool(options.images):
        got = "--example and images" if options.example else "no images"
        raise ValueError(f"Got {got}; expected either. Pass images and their labels, or --example alone.")
    if options.example:
        options.images = [str(resource(EXAMPLE_IMAGE))]
    refuse_options_of_other_head(options, options.head)
    if options.tile is not None:
        check_tiles(options)
        return
    refuse_without_tile(options)
    refuse_without_output(options)
    images = find_images(options.images, options.recursive, stdin=True, all_frames=options.all_frames, videos=True)
    options.videos = any(image.is_video for image in images)
    if options.videos:
        check_videos(options, images)
        return
    refuse_without_video(options)
    options.vocabulary = vocabulary_of(options)
    options.note, options.annotated = note_of(options), frozenset()
    options.writer = open_annotations(options, options.vocabulary, images)
    options.tasks = plan_files(options, images, options.writer)
    options.several = len(images) > 1
    if options.skip_existing or options.annotated:
        todo: list[Task] = []
        done: list[Task] = []
        for task in options.tasks:
            (done if is_done(task, options) else todo).append(task)
        refuse_other_options(options, done)
        if len(todo) < len(images):
            print_error("dinov3seg segment", f"{len(images) - len(todo)} of {len(images)} images were done before")
        options.tasks = todo
    if options.tasks:
        resolve_checkpoint(options.model)
    warn_of_annotations(options, options.tasks)
    if not options.all_frames:
        warn_of_frames([task.input for task in options.tasks])


def run(options: argparse.Namespace) -> int:
    """Segments the images."""
    if options.tile is not None:
        return run_tiles(options)
    if not options.tasks:
        if options.writer is not None:
            options.writer.close()  # an interrupted run can have left the writing of its file
        return EXIT_OK
    if options.videos:
        from .segment_frames import segment_videos

        return segment_videos(options)
    from .segment_images import segment_images

    return segment_images(options)
