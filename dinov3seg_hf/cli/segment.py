# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg segment`: segments images by words and writes a table, overlays, label maps and JSON."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from PIL import Image

from ..about import DTYPES, EMBEDDED
from ..loading import load_pipeline, title_of
from ..model.image_input import open_image
from ..model.inference_settings import InferenceSettings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.vocabulary import Vocabulary
from ..visualization.colors import label_palette
from ..visualization.files import IMAGE_SUFFIXES, check_writable, save_image, save_json, save_mask, segments_as_json
from ..visualization.legend import percent, with_legend
from ..visualization.pictures import Region, beside, overlay, regions_of
from ..visualization.tables import aligned_table
from .console import EXIT_ERROR, EXIT_OK, REFINE, REFINE_FEATURES, Parser, print_error, share
from .words import add_words, vocabulary_of

# With more labels, the encoding takes long enough for a progress bar.
MANY_LABELS = 500

EXAMPLES = """\
examples:
  dinov3seg segment scene.png --labels "red circle, blue striped square" --output overlay.png
  dinov3seg segment scene.png --labels "sofa|couch, cat" --mask labels.png --json segments.json
  dinov3seg segment photos/*.jpg --model DIR_OR_HUB_ID --preset ade20k-150 --output overlays/
"""


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg segment`."""
    parser = Parser(
        prog=prog,
        description="Segments images by words. Prints the labels found with area and score; writes overlays, label "
        "maps and JSON.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or HTTP(S) URLs")

    add_words(parser)
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
    files.add_argument("--alpha", type=share, default=0.5, metavar="A", help="opacity of the overlay (default: 0.5)")

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default=EMBEDDED,
        metavar="DIR_OR_HUB_ID",
        help="checkpoint (default: the embedded checkpoint, for drawn scenes)",
    )
    model.add_argument(
        "--inference", choices=("whole", "local-global", "slide"), help="default: the setting of the checkpoint"
    )
    model.add_argument(
        "--head", choices=("full", "dinotxt"), help="trained or zero-shot head (default: the setting of the checkpoint)"
    )
    model.add_argument("--refine-features", action=argparse.BooleanOptionalAction, help=REFINE_FEATURES)
    model.add_argument("--refine", choices=("pixels", "none"), help=REFINE)
    model.add_argument(
        "--threshold",
        type=share,
        metavar="T",
        help='minimum score, 0 to 1; pixels with a lower score are "none of these"',
    )
    model.add_argument("--device", help='for example "cpu", "cuda" or "cuda:1" (default: an accelerator if available)')
    model.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the weights (default: float32 on the CPU, else the dtype of the checkpoint)",
    )
    return parser


@dataclass(frozen=True)
class _Task:
    """One image and its output files."""

    image: str
    overlay: Path | None
    mask: Path | None
    json: Path | None

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.overlay, self.mask, self.json) if path is not None]


def run(options: argparse.Namespace) -> int:
    """Segments the images."""
    # Finds errors in the arguments before a model is loaded.
    vocabulary = vocabulary_of(options)
    tasks = _plan(options)

    pipe = load_pipeline(options.model, options.device, options.dtype)
    settings = InferenceSettings(
        inference=options.inference,
        head=options.head,
        refine_features=options.refine_features,
        refine=options.refine,
        threshold=options.threshold,
    )
    progress = len(vocabulary) > MANY_LABELS and sys.stderr.isatty()
    text = pipe.encode_labels(vocabulary, progress=progress)
    palette = label_palette(vocabulary.names)

    num_failed = 0
    for task in tasks:
        try:
            image = open_image(task.image, max_pixels=pipe.image_processor.max_image_pixels)
            result = pipe(image, text, return_label_map=True, return_masks=False, **settings.given())
            scores = {segment["label"]: segment["score"] for segment in result["segments"]}
            regions = regions_of(result["label_map"], vocabulary.names, scores)
            _write(task, image, result["label_map"], regions, vocabulary, palette, pipe, options)
        except (ValueError, OSError, MemoryError) as error:
            if len(tasks) == 1:
                raise
            print_error("dinov3seg segment", error)  # an error in one image must not stop the others
            num_failed += 1
            continue
        if len(tasks) > 1:
            print(f"{task.image}:")
        print(_table(regions))
        if len(tasks) > 1:
            print()
        sys.stdout.flush()
    return EXIT_ERROR if num_failed else EXIT_OK


def _plan(options: argparse.Namespace) -> list[_Task]:
    """Returns the output files of each image.

    Raises:
        ValueError: If an image does not exist, or a file cannot be written, would replace an image, or would be written
            twice.
    """
    images = options.images
    for image in images:
        if not _is_address(image) and not Path(image).exists():
            raise ValueError(f"Image {image!r} was not found (current directory: {os.getcwd()!r}). Check the path.")
    columns: list[Sequence[Path | None]] = []
    for target, suffixes, ending in (
        (options.output, IMAGE_SUFFIXES, "_overlay.png"),
        (options.mask, (".png",), "_mask.png"),
        (options.json, (".json",), ".json"),
    ):
        if target is None:
            columns.append([None] * len(images))
        elif len(images) > 1 or target.endswith(("/", os.sep)) or Path(target).is_dir():
            folder = Path(target)
            if not folder.is_dir() and (folder.exists() or folder.suffix.lower() in suffixes):
                raise ValueError(
                    f"{target!r} is the name of a file; expected a folder for several files. Choose a folder."
                )
            paths = [folder / f"{_stem(image)}{ending}" for image in images]
            for path in paths if folder.is_dir() else [folder]:  # a folder that can be created is writable
                check_writable(path)
            columns.append(paths)
        else:
            check_writable(target, suffixes)
            columns.append([Path(target)])
    tasks = [_Task(*row) for row in zip(images, *columns)]

    inputs = {Path(image).resolve(): image for image in images if not _is_address(image)}
    owner: dict[Path, str] = {}
    for task in tasks:
        for path in task.files:
            key = path.resolve()
            if key in inputs:
                raise ValueError(f"{str(path)!r} would overwrite the image {inputs[key]!r}. Choose another name.")
            if key in owner:
                raise ValueError(
                    f"{str(path)!r} would be written twice, for {owner[key]!r} and {task.image!r}. Rename one "
                    "of the images, or segment them in separate runs with different output folders."
                )
            owner[key] = task.image
    return tasks


def _is_address(image: str) -> bool:
    return image.startswith(("http://", "https://", "data:image/"))


def _stem(image: str) -> str:
    if image.startswith("data:image/"):
        return "image"
    return Path(urlparse(image).path if _is_address(image) else image).stem or "image"


def _write(
    task: _Task,
    image: Image.Image,
    label_map,
    regions: list[Region],
    vocabulary: Vocabulary,
    palette,
    pipe: OpenVocabularySegmentationPipeline,
    options: argparse.Namespace,
) -> None:
    for path in task.files:
        path.parent.mkdir(exist_ok=True)
    if task.overlay is not None:
        picture = overlay(image, label_map, alpha=options.alpha, palette=palette)
        if options.original:
            picture = beside(image, picture)
        save_image(task.overlay, with_legend(picture, regions, palette=palette))
    if task.mask is not None:
        save_mask(task.mask, label_map, len(vocabulary), palette=palette)
    if task.json is not None:
        content = {
            "image": task.image,
            "height": image.height,
            "width": image.width,
            "model": title_of(options.model),
            "head": options.head or pipe.model.config.head,
            "inference": options.inference or pipe.default_inference,
            "threshold": options.threshold,
            "labels": list(vocabulary.names),
            "segments": segments_as_json(label_map, regions),
        }
        save_json(task.json, content)


def _table(regions: Sequence[Region]) -> str:
    rows = [("label", "area", "score")]
    rows += [
        (region.label, percent(region.area), "" if region.score is None else f"{region.score:.2f}")
        for region in regions
    ]
    return aligned_table(rows)
