# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg segment --tile`: images that are larger than memory, tile by tile, to tiled TIFF."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..checkpoint_names import resolve_checkpoint
from ..extras import require_installed
from ..model.checks import load_json, quoted
from .annotations import refuse_options_of_other_formats, refuse_without_annotations
from .console import EXIT_ERROR, EXIT_OK, Parser, positive, print_error, print_result
from .inputs import find_images
from .model_options import refuse_options_of_other_head
from .segment_files import OVERLAY, refuse_folder_of_images
from .words import vocabulary_of

ENDINGS = (".tif", ".tiff")
# Flags of `segment` that need the whole image in memory, by the names of their options.
WHOLE = {
    "all_frames": "--all-frames",
    "output": "--output",
    "json": "--json",
    "original": "--original",
    "every": "--every",
    "smoothing": "--smoothing",
}
# Flags that need --tile, by the names of their options, with their defaults.
TILES = {"overlap": None, "scale": 1.0, "scores": None, "context": True, "bands": None}


class LargeTask(NamedTuple):
    """An image and the files to write."""

    image: str
    mask: Path
    scores: Path | None

    @property
    def files(self) -> list[Path]:
        return [self.mask] if self.scores is None else [self.mask, self.scores]


def add_tiles(parser: Parser) -> None:
    """Adds the flag `--tile` and the options of tiles."""
    group = parser.add_argument_group(
        "tiles",
        "For images larger than memory, such as maps from above: read, segmented and written tile by tile. --mask is a "
        "tiled TIFF (.tif) with the georeference of the image, or a folder of them, and --format geopackage has its "
        "polygons; other files are not written. Run an interrupted command again to go on. Requires the extra "
        '"large": pip install "dinov3seg_hf[large]".',
    )
    group.add_argument(
        "--tile",
        type=positive,
        nargs="?",
        const=0,
        metavar="PIXELS",
        help="side of a tile with its overlap (default: the size that the image processor resizes images to)",
    )
    group.add_argument(
        "--overlap",
        type=int,
        metavar="PIXELS",
        help="overlap on each side of a tile (default: an eighth of the tile; with --refine pixels at least 80 pixels, "
        "as far as it looks around, divided by S)",
    )
    group.add_argument(
        "--scale", type=float, default=1.0, metavar="S", help="size of tiles for the model: 0.5 halves each side"
    )
    group.add_argument("--scores", metavar="FILE", help="score of each pixel (.tif, 16 bits; 65535 is a score of 1)")
    group.add_argument(
        "--context",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the whole image, shrunk, as the global view of each tile (default: yes)",
    )
    group.add_argument(
        "--bands", type=positive, nargs="+", metavar="N", help="bands that show red, green and blue, numbered from 1"
    )


def refuse_without_tile(options: argparse.Namespace) -> None:
    """Checks that no option of tiles is set without `--tile`.

    Raises:
        ValueError: If one is.
    """
    for name, default in TILES.items():
        if getattr(options, name) != default:
            raise ValueError(f"--{name} needs --tile. Add --tile, or leave --{name} out.")


def check_tiles(options: argparse.Namespace) -> None:
    """Adds the vocabulary and the tasks to the options.

    Raises:
        ValueError: If a label or option is invalid, an image or the checkpoint does not exist, or rasterio is missing.
    """
    from ..visualization.files import check_writable

    require_installed("large", "rasterio", what="--tile")
    given = [flag for name, flag in WHOLE.items() if getattr(options, name)]
    for flag in [*given, *(["--alpha"] if options.alpha != OVERLAY["alpha"] else [])]:
        raise ValueError(f"{flag} does not work with --tile, which writes --mask and --scores. Leave it out.")
    if options.batch_size != 1:
        raise ValueError("--batch-size does not work with --tile, of which the model gets one at a time. Leave it out.")
    if options.inference == "slide":
        raise ValueError("--inference is slide; expected whole or local-global, because tiles already are windows.")
    if options.mask is None:
        raise ValueError("--tile needs --mask, a .tif file or a folder. Add --mask labels.tif.")
    images = find_images(options.images, options.recursive)
    for image in images:
        if image.path is None:
            raise ValueError(f"{image.source!r} is an address; expected a file with --tile. Download it first.")
        if image.is_video:
            raise ValueError(f"{image.source!r} is a video; expected an image with --tile. Leave --tile out.")
    _check_vectors(options)
    options.vocabulary = vocabulary_of(options)
    columns: list[list[Path]] = []
    for target, ending in ((options.mask, "_mask.tif"), (options.scores, "_scores.tif")):
        if target is None:
            continue
        if len(images) > 1 or target.endswith(("/", os.sep)) or Path(target).is_dir():
            refuse_folder_of_images(Path(target), options.images, options.recursive)
            Path(target).mkdir(parents=True, exist_ok=True)
            columns.append([Path(target) / f"{image.name}{ending}" for image in images])
        else:
            columns.append([Path(target)])
        for path in columns[-1]:
            path.parent.mkdir(parents=True, exist_ok=True)
            check_writable(path, ENDINGS)
    files = [path.resolve() for column in columns for path in column]
    inputs = [image.path.resolve() for image in images if image.path is not None]
    if len({*files, *inputs}) < len(files) + len(inputs):
        raise ValueError("Two of the images and written files have the same path. Choose other names or folders.")
    scores = columns[1] if len(columns) > 1 else [None] * len(images)
    options.tasks = [LargeTask(image.source, mask, score) for image, mask, score in zip(images, columns[0], scores)]
    options.masks = columns[0]
    if options.skip_existing:
        todo: list[LargeTask] = []
        done: list[LargeTask] = []
        for task in options.tasks:
            (done if all(path.exists() for path in task.files) else todo).append(task)
        _refuse_other_labels(options, done)
        options.tasks = todo
    if options.tasks:
        resolve_checkpoint(options.model)


def _refuse_other_labels(options: argparse.Namespace, done: Sequence[LargeTask]) -> None:
    """Checks that finished label maps have the labels of this run, as far as they say which ones."""
    import rasterio

    for task in done:
        try:
            # as `large.rasters.open_local`, which would import torch: no other format, and no address
            with rasterio.open(task.mask.absolute(), driver="GTiff") as file:
                noted = load_json(file.tags().get("labels", ""))
        except (ValueError, rasterio.errors.RasterioError):  # not a file of this command
            continue
        if noted != list(options.vocabulary.names):
            raise ValueError(
                f"{str(task.mask)!r} exists, and has the labels {quoted(noted)}; expected those of this run, because "
                "--skip-existing keeps the file. Repeat the labels of the earlier run, choose other files, or leave "
                "out --skip-existing."
            )


def _check_vectors(options: argparse.Namespace) -> None:
    """Checks the flags of annotations: tiles are written as polygons only, from the finished label maps."""
    from ..visualization.files import check_writable

    if options.annotations is None and options.format is None:
        refuse_without_annotations(options)
        return
    if options.format != "geopackage" or options.annotations is None:
        raise ValueError(
            f"--format is {options.format} and --annotations is {options.annotations}; expected geopackage and a .gpkg "
            "file with --tile. Add both, or leave both out."
        )
    refuse_options_of_other_formats(options)
    if options.ignore_below is not None:
        raise ValueError("--ignore-below does not work with --tile. Use --threshold, which also changes --mask.")
    require_installed("geo", "pyogrio", "scipy", "shapely", what="--format geopackage")
    check_writable(options.annotations, (".gpkg",))


def run_tiles(options: argparse.Namespace) -> int:
    """Segments the images, prints what they show, writes polygons, and returns the exit code."""
    failed = _segment(options) if options.tasks else 0
    if options.annotations is not None:
        from ..annotations import vectorize

        masks = [mask for mask in options.masks if mask.exists()]  # also those of an earlier run
        vectorize(masks, options.annotations, min_area=options.min_area, tolerance=options.tolerance)
    return EXIT_ERROR if failed else EXIT_OK


def _segment(options: argparse.Namespace) -> int:
    """Segments the images, and returns the number of those that failed."""
    from ..large.segmentation import segment_large
    from ..loading import load_pipeline
    from ..model.files import is_of_full_disk
    from ..visualization.pictures import NONE_NAME, Region
    from ..visualization.tables import regions_table

    pipe = load_pipeline(options.model, options.device, options.dtype)
    refuse_options_of_other_head(options, options.head or pipe.model.config.head)
    text = pipe.encode_labels(options.vocabulary, progress=sys.stderr.isatty())
    names = ("inference", "head", "refine_features", "refine", "threshold", "background", "active_classes")
    failed = 0
    for task in options.tasks:
        try:
            result = segment_large(
                pipe,
                task.image,
                text,
                task.mask,
                scores=task.scores,
                tile=options.tile or None,
                overlap=options.overlap,
                scale=options.scale,
                context=options.context,
                bands=options.bands,
                **{name: getattr(options, name) for name in names},
            )
        except (ValueError, OSError, MemoryError) as error:
            if len(options.tasks) == 1 or is_of_full_disk(error):  # which all others would fail on, too
                raise
            print_error("dinov3seg segment", error)  # an error in one image must not stop the others
            failed += 1
            continue
        total = result.size[0] * result.size[1]
        regions = [
            Region(text.names.index(name), name, count, count / total, result.scores[name])
            for name, count in result.num_pixels.items()
        ]
        if result.num_none:
            regions.append(Region(-1, NONE_NAME, result.num_none, result.num_none / total))
        table = regions_table(regions)
        print_result(table, has_files=True, title=task.image if len(options.tasks) > 1 else None)
    return failed
