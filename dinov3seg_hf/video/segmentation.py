# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Segments the frames of a video, one batch after the other."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tqdm import tqdm

from ..model.checks import checked_integer
from ..model.image_stages import LabeledImage
from ..model.inference_settings import InferenceSettings
from ..model.labeling import ScoreMaps
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.pipeline_labels import Labels
from ..model.text_embeddings import TextEmbeddings
from .reading import Frame, Video, open_video
from .smoothing import MovingAverage


@dataclass(frozen=True, eq=False)
class SegmentedFrame:
    """A frame and its labels.

    Attributes:
        frame: The frame.
        labeled: Its label map, int32 `(H, W)` with -1 for no label, and score map, float32 `(H, W)`.
    """

    frame: Frame
    labeled: LabeledImage


def segment_video(
    pipe: OpenVocabularySegmentationPipeline,
    video: str | os.PathLike[str] | Video,
    candidate_labels: Labels | None = None,
    *,
    every: int = 1,
    smoothing: float = 0.0,
    batch_size: int = 1,
    progress: bool = True,
    **options: Any,
) -> Iterator[SegmentedFrame]:
    """Segments a video frame by frame, while the results are read. Memory is that of one batch.

    Each frame is segmented for itself; with `smoothing`, its score maps are averaged with those of the frames before,
    by an exponential moving average. Nothing is tracked, so what moves gets a lag.

    Example:

    ```python
    >>> for result in segment_video(pipe, "clip.mp4", ["road", "car", "sky"], every=5):
    ...     print(result.frame.time, (result.labeled.label_map == 1).mean())
    ```

    Args:
        pipe: The pipeline.
        video: A file that FFmpeg reads, or an open one (`open_video`).
        candidate_labels: See the pipeline.
        every: Segments every n-th frame. All frames are decoded.
        smoothing: The time in seconds in which the weight of a frame falls to 37 %. 0: no average.
        batch_size: Number of frames that the model gets at once.
        progress: Whether to show a progress bar on stderr.
        **options: Options of `InferenceSettings`.

    Returns:
        The segmented frames, in their order, computed while they are read.

    Raises:
        ValueError: If an option is invalid, or the labels are calibrated for other options; while the results are read,
            if the video or a frame cannot be decoded.
        MemoryError: While the results are read, if the labels need too much memory for a frame of this size.
    """
    for name, value in (("every", every), ("batch_size", batch_size)):
        checked_integer(value, name, least=1)
    average = MovingAverage(smoothing)
    settings = pipe.settings.updated(**options)
    text = pipe.encode_labels(candidate_labels)
    pipe.check_calibration(text, settings)
    return _segmented(pipe, video, text, settings, average, every, batch_size, progress)


def _segmented(
    pipe: OpenVocabularySegmentationPipeline,
    video: str | os.PathLike[str] | Video,
    text: TextEmbeddings,
    settings: InferenceSettings,
    average: MovingAverage,
    every: int,
    batch_size: int,
    progress: bool,
) -> Iterator[SegmentedFrame]:
    with nullcontext(video) if isinstance(video, Video) else open_video(video) as opened:
        total = None if opened.num_frames is None else -(-opened.num_frames // every)
        frames = opened.frames(every)
        with tqdm(total=total, desc="Segmenting", unit="frame", disable=not progress) as bar:
            while batch := list(islice(frames, batch_size)):

                def smoothed(index: int, maps: ScoreMaps, batch: list[Frame] = batch) -> ScoreMaps:
                    return average.update(maps, batch[index].time)

                prepared = [pipe.prepare(frame.pixels, settings) for frame in batch]
                for frame, labeled in zip(batch, pipe.segment_prepared(prepared, text, settings, adjust_maps=smoothed)):
                    yield SegmentedFrame(frame, labeled)
                    bar.update()
