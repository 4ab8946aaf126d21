# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What `dinov3seg segment` does with videos when its arguments are known to be right: segments, prints and writes."""

import argparse
import contextlib
import sys
from collections import Counter, defaultdict

import numpy as np
from PIL import Image

from ..annotations import AnnotatedImage
from ..annotations.writer import WouldOverwriteError
from ..batches import IMAGE_ERRORS
from ..loading import load_pipeline
from ..model.files import is_of_full_disk
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.text_embeddings import TextEmbeddings
from ..video.reading import Video, open_video
from ..video.segmentation import segment_video
from ..video.writing import VideoWriter, new_video
from ..visualization.colors import label_palette
from ..visualization.legend import MAX_LEGEND_ROWS, with_legend
from ..visualization.pictures import NONE_NAME, Region, beside, overlay, regions_of
from ..visualization.tables import regions_table
from .console import EXIT_ERROR, EXIT_OK, print_error, print_result
from .model_options import settings_of
from .segment_files import Task
from .segment_images import write_files
from .segment_videos import VideoTask


def segment_videos(options: argparse.Namespace) -> int:
    """Segments the videos of `options.tasks`, which `check_videos` adds to the options.

    Returns:
        The exit code.
    """
    pipe = load_pipeline(options.model, options.device, options.dtype)
    text = pipe.encode_labels(options.vocabulary)
    pipe.check_calibration(text, settings_of(options, pipe.model.config.head))
    has_files = {options.output, options.mask, options.json, options.annotations} != {None}
    failed = False
    with options.writer or contextlib.nullcontext():
        for task in options.tasks:
            try:
                regions, num_kept = _segment(task, pipe, text, options)
                failed = failed or num_kept > 0
            except IMAGE_ERRORS as error:
                if not options.several or is_of_full_disk(error):  # which all others would fail on, too
                    raise
                print_error("dinov3seg segment", error)  # an error in one video must not stop the others
                failed = True
                continue
            table = regions_table(regions)
            print_result(table, has_files, task.input.source if options.several else None)
    return EXIT_ERROR if failed else EXIT_OK


def _segment(
    task: VideoTask, pipe: OpenVocabularySegmentationPipeline, text: TextEmbeddings, options: argparse.Namespace
) -> tuple[list[Region], int]:
    """Segments a video and writes its files.

    Returns:
        What all of its frames show together, and the number of frames whose earlier annotations were kept.
    """
    names, palette = options.vocabulary.names, label_palette(options.vocabulary.names)
    pixels: Counter[int] = Counter()
    scores: defaultdict[int, float] = defaultdict(float)
    num_kept = 0
    with open_video(task.input.source) as video, _new_overlay(task, video, options) as writer:
        for result in segment_video(
            pipe,
            video,
            text,
            every=options.every or 1,
            smoothing=options.smoothing or 0.0,
            batch_size=options.batch_size,
            progress=sys.stderr.isatty(),
            **settings_of(options, pipe.model.config.head).given(),
        ):
            frame, labels = task.frame(result.frame.number), result.labeled.label_map
            image = Image.fromarray(result.frame.pixels)
            means = {names[index]: score for index, score in result.labeled.mean_scores(len(names)).items()}
            regions = regions_of(labels, names, means)
            write_files(frame, image, labels, regions, palette, pipe, options, time=round(result.frame.time, 6))
            if options.writer is not None and not (options.skip_existing and _is_annotated(frame, options)):
                maps = (labels, result.labeled.score_map)
                try:
                    options.writer.add(AnnotatedImage(frame.input.file_name, *maps, image=image))
                except WouldOverwriteError as error:
                    print_error("dinov3seg segment", error)  # one frame must not stop the video
                    num_kept += 1
            if writer is not None:
                writer.add(np.asarray(_picture(image, labels, regions, palette, options)), result.frame.time)
            for region in regions:
                pixels[region.index] += region.num_pixels
                scores[region.index] += (region.score or 0.0) * region.num_pixels
    regions = [
        Region(
            index,
            NONE_NAME if index < 0 else names[index],
            count,
            count / pixels.total(),
            None if index < 0 else scores[index] / count,
        )
        for index, count in sorted(pixels.items(), key=lambda item: (item[0] < 0, -item[1]))
    ]
    return regions, num_kept


def _is_annotated(frame: Task, options: argparse.Namespace) -> bool:
    """Whether the annotations of a frame exist in files of their own."""
    files = options.writer.files_of(frame.input.file_name)
    return bool(files) and all(path.exists() for path in files)


def _new_overlay(
    task: VideoTask, video: Video, options: argparse.Namespace
) -> contextlib.AbstractContextManager[VideoWriter | None]:
    if task.overlay is None:
        return contextlib.nullcontext()
    task.overlay.parent.mkdir(parents=True, exist_ok=True)
    rate = None if video.frame_rate is None else video.frame_rate / (options.every or 1)
    return new_video(task.overlay, rate, video.time_base)


def _picture(
    image: Image.Image, label_map: np.ndarray, regions: list[Region], palette: np.ndarray, options: argparse.Namespace
) -> Image.Image:
    """Draws a frame with its overlay, and a legend that has the same rows in all frames."""
    picture = overlay(image, label_map, alpha=options.alpha, palette=palette)
    if options.original:
        picture = beside(image, picture)
    names = options.vocabulary.names
    if len(names) > MAX_LEGEND_ROWS:
        return picture
    found = {region.index: region for region in regions}
    rows = [Region(index, name, 0, 0.0) for index, name in enumerate(names)]
    # in every frame, or a legend would change its size
    is_labeled = options.threshold is None and options.background != "auto" and options.vocabulary.calibration is None
    rows += [] if is_labeled else [Region(-1, NONE_NAME, 0, 0.0)]
    shown = [Region(row.index, row.label, 0, found[row.index].area if row.index in found else 0.0) for row in rows]
    return with_legend(picture, shown, palette=palette)
