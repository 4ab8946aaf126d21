# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg segment`: segments images by words and writes a table, overlays, label maps, JSON and annotations."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..about import DTYPES, EMBEDDED
from ..annotations import AnnotatedImage, AnnotationWriter
from ..loading import load_pipeline, title_of
from ..model.image_input import open_image
from ..model.inference_settings import InferenceSettings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.text_embeddings import TextEmbeddings
from ..model.vocabulary import Vocabulary
from ..visualization.colors import label_palette
from ..visualization.files import IMAGE_SUFFIXES, check_writable, save_image, save_json, save_mask, segments_as_json
from ..visualization.legend import percent, with_legend
from ..visualization.pictures import Region, beside, overlay, regions_of
from ..visualization.tables import aligned_table
from .annotations import add_annotations, open_annotations
from .console import BACKGROUND, EXIT_ERROR, EXIT_OK, REFINE, REFINE_FEATURES, Parser, positive, print_error, share
from .inputs import ImageInput, find_images, is_address
from .words import add_words, vocabulary_of

# With more labels, the encoding takes long enough for a progress bar.
MANY_LABELS = 500
# With more images, the failed ones are listed again at the end.
MANY_IMAGES = 20

EXAMPLES = """\
examples:
  dinov3seg segment scene.png --labels "red circle, blue striped square" --output overlay.png
  dinov3seg segment scene.png --labels "sofa|couch, cat" --mask labels.png --json segments.json
  dinov3seg segment photos --recursive --model DIR_OR_HUB_ID --preset ade20k-150 --mask masks/ --skip-existing
  dinov3seg segment photos --labels "cat, dog" --format coco --annotations coco.json --min-area 50
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
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help='image files, folders, quoted patterns ("photos/*.jpg") or HTTP(S) URLs',
    )
    parser.add_argument("--recursive", action="store_true", help="search the subfolders of folders, too")
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out images whose files exist, to continue an interrupted run",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=1, metavar="N", help="images that the model gets at once (default: 1)"
    )

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

    add_annotations(parser)
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
    model.add_argument("--background", choices=("auto", "never"), help=BACKGROUND)
    model.add_argument("--device", help='for example "cpu", "cuda" or "cuda:1" (default: an accelerator if available)')
    model.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the weights (default: float32 on the CPU, else the dtype of the checkpoint)",
    )
    return parser


@dataclass(frozen=True)
class _Task:
    """One image and its output files.

    Attributes:
        image: The path or address.
        file_name: The name in annotations.
        overlay, mask, json: The files to write.
        annotations: The files that exist once the annotations of the image are written.
    """

    image: str
    file_name: str
    overlay: Path | None
    mask: Path | None
    json: Path | None
    annotations: tuple[Path, ...] = ()

    @property
    def files(self) -> list[Path]:
        return [*(path for path in (self.overlay, self.mask, self.json) if path is not None), *self.annotations]


def run(options: argparse.Namespace) -> int:
    """Segments the images."""
    # Finds errors in the arguments before a model is loaded.
    vocabulary = vocabulary_of(options)
    images = find_images(options.images, options.recursive)
    writer = open_annotations(options, vocabulary, images)
    tasks = _plan(options, images, writer)
    several = len(tasks) > 1
    if options.skip_existing:
        todo = [task for task in tasks if not all(path.exists() for path in task.files)]
        if len(todo) < len(tasks):
            print_error("dinov3seg segment", f"{len(tasks) - len(todo)} of {len(tasks)} images were done before")
        tasks = todo
        if not tasks:
            return EXIT_OK

    pipe = load_pipeline(options.model, options.device, options.dtype)
    settings = InferenceSettings(
        inference=options.inference,
        head=options.head,
        refine_features=options.refine_features,
        refine=options.refine,
        threshold=options.threshold,
        background=options.background,
    )
    progress = len(vocabulary) > MANY_LABELS and sys.stderr.isatty()
    text = pipe.encode_labels(vocabulary, progress=progress)
    palette = label_palette(vocabulary.names)

    failed: list[str] = []
    # a bar only where somebody watches; one image needs none
    bar = tqdm(total=len(tasks), desc="Segmenting", unit="image", file=sys.stderr, disable=None if several else True)
    with writer or contextlib.nullcontext(), bar:
        for first in range(0, len(tasks), options.batch_size):
            batch = tasks[first : first + options.batch_size]
            for task, result in _segmented(pipe, batch, text, settings):
                try:
                    if isinstance(result, Exception):
                        raise result
                    image, answer = result
                    scores = {segment["label"]: segment["score"] for segment in answer["segments"]}
                    regions = regions_of(answer["label_map"], vocabulary.names, scores)
                    _write(task, image, answer["label_map"], regions, vocabulary, palette, pipe, options)
                    if writer is not None:
                        maps = (answer["label_map"], answer["score_map"])
                        writer.add(AnnotatedImage(task.file_name, *maps, source=task.image, image=image))
                except (ValueError, OSError, MemoryError) as error:
                    if not several:
                        raise
                    with bar.external_write_mode(file=sys.stderr):
                        print_error("dinov3seg segment", error)  # an error in one image must not stop the others
                    failed.append(task.image)
                    continue
                with bar.external_write_mode(file=sys.stdout):
                    print(f"{task.image}:\n{_table(regions)}\n" if several else _table(regions), flush=True)
            bar.update(len(batch))
    if several and failed and len(tasks) > MANY_IMAGES:  # the errors are far above
        print_error("dinov3seg segment", f"{len(failed)} of {len(tasks)} images failed: {', '.join(failed)}")
    return EXIT_ERROR if failed else EXIT_OK


def _segmented(
    pipe: OpenVocabularySegmentationPipeline, tasks: Sequence[_Task], text: TextEmbeddings, settings: InferenceSettings
) -> Iterator[tuple[_Task, tuple[Image.Image, dict[str, Any]] | Exception]]:
    """Yields each task with its image and result, or with its error; one bad image does not spoil the batch."""
    opened: list[tuple[_Task, Image.Image]] = []
    for task in tasks:
        try:
            opened.append((task, open_image(task.image, max_pixels=pipe.image_processor.max_image_pixels)))
        except (ValueError, OSError, MemoryError) as error:
            yield task, error
    options = {"return_label_map": True, "return_masks": False, **settings.given()}
    try:
        answers = pipe([image for _, image in opened], text, batch_size=max(1, len(opened)), **options)
    except (ValueError, OSError, MemoryError) as error:
        if len(opened) == 1:
            yield opened[0][0], error
        else:  # one by one, to find the image that does not fit
            for task, _ in opened:
                yield from _segmented(pipe, [task], text, settings)
        return
    yield from ((task, (image, answer)) for (task, image), answer in zip(opened, answers))


def _plan(options: argparse.Namespace, images: Sequence[ImageInput], writer: AnnotationWriter | None) -> list[_Task]:
    """Returns the output files of each image.

    Raises:
        ValueError: If a file cannot be written, would replace an image, or would be written twice.
    """
    if options.skip_existing and {options.output, options.mask, options.json, options.annotations} == {None}:
        raise ValueError(
            "--skip-existing needs files to look for; expected --output, --mask, --json or --annotations with a folder."
        )
    if writer is not None and writer.picture_folder is not None:
        _refuse_folder_of_images(writer.picture_folder, options.images, options.recursive)
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
            _refuse_folder_of_images(folder, options.images, options.recursive)
            paths = [folder / f"{image.name}{ending}" for image in images]
            # a folder that can be created is writable
            for path in [path for path in paths if path.parent == folder] if folder.is_dir() else [folder]:
                check_writable(path)
            columns.append(paths)
        else:
            check_writable(target, suffixes)
            columns.append([Path(target)])
    done = [() if writer is None else tuple(writer.files_of(image.file_name)) for image in images]
    tasks = [_Task(image.source, image.file_name, *files) for image, *files in zip(images, *columns, done)]

    inputs = {image.path.resolve(): image.source for image in images if image.path is not None}
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


def _refuse_folder_of_images(folder: Path, given: Sequence[str], recursive: bool) -> None:
    """Raises an error if the written pictures would be images of the next run."""
    for item in given:
        searched = Path(item).resolve()
        if not is_address(item) and searched.is_dir():
            place = folder.resolve()
            if place == searched or (recursive and place.is_relative_to(searched)):
                raise ValueError(
                    f"The files in {str(folder)!r} would lie among the images of {item!r}, and be segmented themselves "
                    "the next time. Choose another folder."
                )


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
    for path in set(task.files) - set(task.annotations):
        path.parent.mkdir(parents=True, exist_ok=True)
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
            "background": options.background or ("never" if vocabulary.calibration is None else "auto"),
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
