# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What `dinov3seg segment` does when its arguments are known to be right: segments, prints and writes."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..annotations import AnnotatedImage
from ..annotations.writer import is_text
from ..batches import IMAGE_ERRORS, segment_each
from ..loading import load_pipeline
from ..model.files import is_of_full_disk
from ..model.image_stages import EncodedImage, LabeledImage, PreparedImage
from ..model.inference_settings import InferenceSettings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.text_embeddings import TextEmbeddings
from ..visualization.colors import label_palette
from ..visualization.files import save_image, save_json, save_mask, segments_as_json
from ..visualization.legend import with_legend
from ..visualization.pictures import Region, beside, overlay, regions_of
from ..visualization.tables import regions_table
from .console import EXIT_ERROR, EXIT_OK, print_error, print_result
from .model_options import settings_of
from .segment_files import Task, has_annotations, noted_options

# With more labels, the encoding takes long enough for a progress bar.
MANY_LABELS = 500
# With more images, the failed ones are listed again at the end.
MANY_IMAGES = 20


def segment_images(options: argparse.Namespace) -> int:
    """Segments the images of `options.tasks`, which `check` in `segment.py` adds to the options.

    Returns:
        The exit code.
    """
    tasks, vocabulary, writer = options.tasks, options.vocabulary, options.writer
    several = options.several
    pipe = load_pipeline(options.model, options.device, options.dtype)
    settings = settings_of(options, pipe.model.config.head)
    progress = len(vocabulary) > MANY_LABELS and sys.stderr.isatty()
    text = pipe.encode_labels(vocabulary, progress=progress)
    pipe.check_calibration(text, settings)
    palette = label_palette(vocabulary.names)

    # an image of 108 megapixels takes 432 MB, and so do its scores
    kept = _Kept(images=options.output is not None or writer is not None, scores=writer is not None)
    has_files = writer is not None or any(task.files for task in tasks)
    failed: list[str] = []
    # a bar only where somebody watches; one image needs none
    bar = tqdm(total=len(tasks), desc="Segmenting", unit="image", file=sys.stderr, disable=None if several else True)
    with writer or contextlib.nullcontext(), bar:
        for first in range(0, len(tasks), options.batch_size):
            batch = tasks[first : first + options.batch_size]
            for task, result in _segmented(pipe, batch, text, settings, kept):
                try:
                    if isinstance(result, Exception):
                        raise result
                    regions = regions_of(result.label_map, vocabulary.names, result.mean_scores)
                    write_files(task, result.image, result.label_map, regions, palette, pipe, options)
                    if writer is not None and not has_annotations(task, options):
                        maps, source = (result.label_map, result.score_map), task.input.stored_source
                        writer.add(AnnotatedImage(task.input.file_name, *maps, source=source, image=result.image))
                except IMAGE_ERRORS as error:
                    if not several or is_of_full_disk(error):  # which all others would fail on, too
                        raise
                    with bar.external_write_mode(file=sys.stderr):
                        print_error("dinov3seg segment", error)  # an error in one image must not stop the others
                    failed.append(task.image)
                    continue
                with bar.external_write_mode(file=sys.stdout):
                    table = regions_table(regions)
                    print_result(table, has_files, task.image if several else None)
            bar.update(len(batch))
    if several and failed and len(tasks) > MANY_IMAGES:  # the errors are far above
        print_error("dinov3seg segment", f"{len(failed)} of {len(tasks)} images failed: {', '.join(failed)}")
    return EXIT_ERROR if failed else EXIT_OK


class _Kept(NamedTuple):
    """Which large arrays of an image are kept until its files are written."""

    images: bool
    scores: bool


class _Result(NamedTuple):
    """The result of an image: the image and the scores of its pixels, if they are kept, and the labels."""

    image: Image.Image | None
    label_map: np.ndarray
    score_map: np.ndarray | None
    mean_scores: dict[str, float]


def _segmented(
    pipe: OpenVocabularySegmentationPipeline,
    tasks: Sequence[Task],
    text: TextEmbeddings,
    settings: InferenceSettings,
    kept: _Kept,
) -> Iterator[tuple[Task, _Result | Exception]]:
    """Yields each task with its result, or with its error; one bad image does not spoil the batch."""
    opened: list[tuple[Task, Image.Image | None]] = []
    prepared: list[PreparedImage | EncodedImage] = []
    for task in tasks:
        try:
            image, source = None, task.input.stored_source
            if kept.images or source is None:
                image = task.input.open(pipe.image_processor.max_image_pixels)
            prepared.append(pipe.prepare(source if image is None else image, settings))
            opened.append((task, image if kept.images else None))
        except IMAGE_ERRORS as error:
            yield task, error
    results = [  # what is not kept is not held while files are written
        (task, _result_of(answer, image, text, kept))
        for (task, image), answer in zip(opened, segment_each(pipe, prepared, text, settings))
    ]
    yield from results


def _result_of(
    answer: LabeledImage | Exception, image: Image.Image | None, text: TextEmbeddings, kept: _Kept
) -> _Result | Exception:
    if isinstance(answer, Exception):
        return answer
    scores = {text.names[index]: score for index, score in answer.mean_scores(len(text)).items()}
    return _Result(image, answer.label_map, answer.score_map if kept.scores else None, scores)


def write_files(
    task: Task,
    image: Image.Image | None,
    label_map: np.ndarray,
    regions: list[Region],
    palette: np.ndarray,
    pipe: OpenVocabularySegmentationPipeline,
    options: argparse.Namespace,
    **facts: float,
) -> None:
    """Writes the overlay, the mask and the JSON file of an image, as far as the task has them.

    Args:
        task: The image and its files.
        image: The image, for the overlay.
        label_map: int32 `(H, W)`.
        regions: The regions of the label map.
        palette: The colors of the labels, uint8 `(C, 3)`.
        pipe: The pipeline that made it.
        options: The options of the command.
        **facts: More values of the JSON file.
    """
    vocabulary = options.vocabulary
    if task.json is not None and not is_text(task.image):
        raise ValueError(
            f"The name of {task.image!r} is not UTF-8, and JSON stores names as text. Rename the file, or leave out "
            "--json."
        )
    for path in set(task.files) - set(task.annotations):
        path.parent.mkdir(parents=True, exist_ok=True)
    if task.overlay is not None:
        assert image is not None  # kept for the overlay
        picture = overlay(image, label_map, alpha=options.alpha, palette=palette)
        if options.original:
            picture = beside(image, picture)
        save_image(task.overlay, with_legend(picture, regions, palette=palette), note=options.note)
    if task.mask is not None:
        save_mask(task.mask, label_map, len(vocabulary), palette=palette, note=options.note)
    if task.json is not None:
        noted = noted_options(options)
        content = {
            "image": task.image,
            "height": label_map.shape[0],
            "width": label_map.shape[1],
            **facts,
            "model": noted["model"],
            "head": options.head or pipe.model.config.head,
            "inference": options.inference or pipe.default_inference,
            **noted,
            "segments": segments_as_json(label_map, regions),
        }
        save_json(task.json, content)
