# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Evaluates a model on a data set: rows -> pipeline -> counts -> results.

For each image, only the number of pixels of each pair of label and prediction is stored (`metrics/scoring.py`). The
scores are those of one confusion matrix over the whole data set, so they do not depend on the number of processes,
batches and restarts. Images go through the same pipeline as user images and are scored at their original size: this
module does not resize anything.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ..compat import without_mixed_precision
from ..data.segmentation import SegmentationDataset
from ..data.streamed import StreamedSegmentationDataset
from ..distributed import Processes
from ..metrics.scoring import ImageCounts
from ..model.checks import checked_integer, items_of, quoted
from ..model.fingerprints import sha256_of, weights_fingerprint
from ..model.inference_settings import InferenceSettings, checked_settings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.text_embeddings import TextEmbeddings
from ..model.vocabulary import Vocabulary, as_vocabulary
from .progress_log import ProgressLog
from .protocol import describe_protocol
from .results import EvaluationResult, result_of
from .rows import PreparedRow, UnreadableRow, prepared_batches


def evaluate(
    model: nn.Module,
    processor: Any,
    data: SegmentationDataset | StreamedSegmentationDataset,
    vocabulary: Vocabulary | None = None,
    *,
    settings: InferenceSettings | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    accelerator: Any = None,
    progress: bool = True,
    resume_from: str | os.PathLike | None = None,
    training_vocabulary: Vocabulary | Iterable[str] | None = None,
    num_resamples: int = 1000,
    benchmark: str | None = None,
    model_name: str | None = None,
) -> EvaluationResult:
    """Scores a model on every row of a data set, once per row.

    Runs in one process, or in several processes started by `accelerate launch`, which share the rows; all processes
    return the same result. The model does not change: modes, weights and torch's random state stay the same. Mixed
    precision is off during the evaluation, so that training and a later evaluation give the same scores.

    Args:
        model: A `Dinov3SegForSemanticSegmentation`, or the model that `accelerator.prepare` returned for it.
        processor: The `Dinov3SegProcessor` of the model.
        data: The rows. If its `skip_bad` is set, rows that cannot be read are counted and skipped.
        vocabulary: The prompted classes, for example with other templates or synonyms. Default: that of `data`.
        settings: Inference settings. Default: those of the checkpoint. Without `background`, every pixel gets a label,
            also with a calibrated vocabulary, because masks say nothing about pixels without a class.
        batch_size: Number of images per batch.
        num_workers: Number of processes that read images, per process of the evaluation (stored data sets only).
        accelerator: The `accelerate.Accelerator` of a run in several processes.
        progress: Whether to show a progress bar.
        resume_from: Folder that stores the counts of every scored image; created if it does not exist. An interrupted
            evaluation resumes from this folder, with any number of processes.
        training_vocabulary: Splits the classes into seen classes (with a word of this vocabulary) and unseen classes.
        num_resamples: Number of resamples of the bootstrap interval over images.
        benchmark: Name of the data set in the result.
        model_name: Name of the model in the result.

    Raises:
        ValueError: If an argument is invalid, the classes of vocabulary and data differ, no pixel is labeled, the
            folder contains another evaluation, or the weights are sharded across processes.
        RowError: If a row cannot be read and `skip_bad` of `data` is not set.
    """
    _check_numbers(batch_size=(batch_size, 1), num_workers=(num_workers, 0), num_resamples=(num_resamples, 0))
    vocabulary, training = _checked_vocabulary(vocabulary, data), _checked_training(training_vocabulary)
    processes = Processes(accelerator)
    unwrapped = processes.unwrap(model)
    with left_as_found(unwrapped):
        pipe = OpenVocabularySegmentationPipeline(model=unwrapped, processor=processor, device=unwrapped.device)
        settings = checked_settings(settings, InferenceSettings()).resolved(unwrapped.config, pipe.image_processor)
        protocol = processes.from_main(lambda: describe_protocol(pipe, data, vocabulary, settings))
        weights = processes.from_main(lambda: weights_fingerprint(unwrapped))
        # values of the configuration without tensors, such as a scale, change the scores, too
        parts = [protocol, weights, pipe.model.config.to_json_string()]
        log = None if resume_from is None else _open_log(resume_from, parts, data, processes)
        images = {} if log is None else dict(log.done)

        def score_share() -> list[ImageCounts]:
            words = vocabulary if settings.background == "auto" else replace(vocabulary, calibration=None)
            text = pipe.encode_labels(words)
            batches, total = prepared_batches(pipe, data, settings, batch_size, num_workers, processes, images)
            bar = tqdm(desc="Evaluating", unit="image", total=total, disable=not (progress and processes.is_main))
            return _score(batches, bar, log, lambda rows: _count(rows, pipe, text, settings, vocabulary))

        found = processes.gather(score_share)
    images |= {image.index: image for image in found}
    # an earlier evaluation may have read more rows of the stream
    end = data.num_rows if isinstance(data, StreamedSegmentationDataset) else None
    return result_of(
        [images[index] for index in sorted(images) if end is None or index < end],
        vocabulary,
        training,
        num_resamples,
        protocol,
        {"name": model_name, "fingerprint": weights, "dtype": str(unwrapped.dtype).removeprefix("torch.")},
        benchmark,
    )


def _check_numbers(**numbers: tuple[Any, int]) -> None:
    for name, (value, least) in numbers.items():
        checked_integer(value, name, least)


def _checked_vocabulary(
    vocabulary: Vocabulary | None, data: SegmentationDataset | StreamedSegmentationDataset
) -> Vocabulary:
    if not isinstance(getattr(data, "vocabulary", None), Vocabulary):
        raise ValueError(
            f"The data is of type {type(data).__name__}; expected a SegmentationDataset, which knows the classes of "
            "its masks. Pass SegmentationDataset(dataset, vocabulary)."
        )
    vocabulary = data.vocabulary if vocabulary is None else as_vocabulary(vocabulary)
    if vocabulary.scored_names != data.vocabulary.scored_names:
        raise ValueError(
            f"The vocabulary has {len(vocabulary.scored_names)} scored classes ({vocabulary.scored_names[0]!r}, ...); "
            f"expected the {len(data.vocabulary.scored_names)} classes of the data "
            f"({data.vocabulary.scored_names[0]!r}, ...). Use the same class names for both."
        )
    return vocabulary


def _checked_training(words: Any) -> Vocabulary | list[str] | None:
    """Returns the words of a training; a string is the names, separated by commas, and not its letters."""
    if words is None or isinstance(words, Vocabulary):
        return words
    if isinstance(words, str):
        return as_vocabulary(words)
    listed = items_of(words)
    if listed is None or not all(isinstance(word, str) for word in listed):
        raise ValueError(
            f"training_vocabulary is {quoted(words)}; expected a vocabulary or a list of names. Pass the classes that "
            "the model was trained with."
        )
    return listed


def _open_log(
    folder: str | os.PathLike,
    parts: list[Any],
    data: SegmentationDataset | StreamedSegmentationDataset,
    processes: Processes,
) -> ProgressLog:
    """Opens the log of the evaluation that `parts` describe."""
    if isinstance(data, StreamedSegmentationDataset):  # the protocol has no fingerprint of its rows
        parts = [*parts, processes.from_main(data.fingerprint_of_start)]
    return ProgressLog(folder, sha256_of(parts), processes)


def _score(
    batches: Iterator[list[PreparedRow | UnreadableRow]],
    bar: tqdm,
    log: ProgressLog | None,
    count: Callable[[list[PreparedRow | UnreadableRow]], list[ImageCounts]],
) -> list[ImageCounts]:
    """Counts all batches and immediately writes the counts of each batch to the log."""
    found = []
    with bar:
        for batch in batches:
            counts = count(batch)
            if log is not None:
                log.write(counts)
            found += counts
            bar.update(len(batch))
    return found


def _count(
    rows: list[PreparedRow | UnreadableRow],
    pipe: OpenVocabularySegmentationPipeline,
    text: TextEmbeddings,
    settings: InferenceSettings,
    vocabulary: Vocabulary,
) -> list[ImageCounts]:
    """Segments a batch of rows and returns their counts."""
    counts = [ImageCounts.bad(row.index, row.problem) for row in rows if isinstance(row, UnreadableRow)]
    readable = [row for row in rows if isinstance(row, PreparedRow)]
    if readable:
        labeled = pipe.segment_prepared([row.image for row in readable], text, settings)
        for row, image in zip(readable, labeled):
            predictions = vocabulary.to_scored(image.label_map)
            counts.append(ImageCounts.of(row.index, predictions, row.labels, len(vocabulary.scored_names)))
    return counts


@contextlib.contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Disables mixed precision and gradients inside the context, and restores the mode of every module afterwards."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"The model is of type {type(model).__name__}; expected a Dinov3SegForSemanticSegmentation.")
    modes = [(module, module.training) for module in model.modules()]
    try:
        with without_mixed_precision(model), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


__all__ = ["evaluate"]
