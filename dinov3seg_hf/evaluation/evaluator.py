# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The evaluation of a model on a data set: rows -> pipeline -> counts -> results, one way.

What is kept of an image is how many of its pixels have which label and got which (`metrics/scoring.py`), so that scores
are those of one confusion matrix over the whole set, whatever the number of processes, batches and restarts. Images go
through the pipeline, as users' do, and are scored at their own size: nothing is resized here.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ..compat import without_mixed_precision
from ..data.segmentation import SegmentationDataset
from ..data.streamed import StreamedSegmentationDataset
from ..distributed import Processes
from ..metrics.scoring import ImageCounts
from ..model.fingerprints import sha256_of, weights_fingerprint
from ..model.inference_settings import InferenceSettings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.text_embeddings import TextEmbeddings
from ..model.vocabulary import Vocabulary
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
    """Scores a model on every row of a data set, each once.

    Runs in one process or, started by `accelerate launch`, in several that share out the rows; all of them return the
    same result. The model comes back as it was: its modes, its weights and torch's random numbers are left alone, and
    mixed precision is off meanwhile, so that training and a later evaluation give the same figures.

    Args:
        model: A `Dinov3SegForSemanticSegmentation`, or what `accelerator.prepare` made of it.
        processor: Its `Dinov3SegProcessor`.
        data: The rows. With its `skip_bad`, rows that cannot be read are counted and left out.
        vocabulary: What is prompted: the data's unless given, with other templates or synonyms for instance.
        settings: How images are segmented; `inference="whole"` unless given.
        batch_size: Images at a time.
        num_workers: Processes that read images, for each process of the evaluation.
        accelerator: The `accelerate.Accelerator` of a run in several processes.
        progress: Shows a bar.
        resume_from: A folder in which every scored image is noted; made if need be. An evaluation that was broken off
            goes on there, with any number of processes.
        training_vocabulary: Splits the classes into those with a word of it, seen, and the others.
        num_resamples: Of the bootstrap interval over images.
        benchmark: What the data set is called in the result.
        model_name: What the model is called in the result.

    Raises:
        ValueError: Vocabulary and data differ, no pixel is labeled, the folder holds another evaluation, the weights
            are spread over processes.
        RowError: A row cannot be read.
    """
    vocabulary = _checked_vocabulary(vocabulary, data)
    processes = Processes(accelerator)
    unwrapped = processes.unwrap(model)
    with left_as_found(unwrapped):
        pipe = OpenVocabularySegmentationPipeline(model=unwrapped, processor=processor, device=unwrapped.device)
        settings = (settings or InferenceSettings(inference="whole")).resolved(unwrapped.config, pipe.image_processor)
        protocol = processes.from_main(lambda: describe_protocol(pipe, data, vocabulary, settings))
        weights = processes.from_main(lambda: weights_fingerprint(unwrapped))
        log = None
        if resume_from is not None:
            log = ProgressLog(resume_from, sha256_of([protocol, weights]), processes)
        images = {} if log is None else dict(log.done)

        def score_share() -> list[ImageCounts]:
            text = pipe.encode_labels(vocabulary)
            batches, total = prepared_batches(pipe, data, settings, batch_size, num_workers, processes, images)
            bar = tqdm(desc="Evaluating", unit="image", total=total, disable=not (progress and processes.is_main))
            return _score(batches, bar, log, lambda rows: _count(rows, pipe, text, settings, vocabulary))

        found = processes.gather(score_share)
    images |= {image.index: image for image in found}
    return result_of(
        [images[index] for index in sorted(images)],
        vocabulary,
        training_vocabulary,
        num_resamples,
        protocol,
        {"name": model_name, "fingerprint": weights, "dtype": str(unwrapped.dtype).removeprefix("torch.")},
        benchmark,
    )


def _checked_vocabulary(
    vocabulary: Vocabulary | None, data: SegmentationDataset | StreamedSegmentationDataset
) -> Vocabulary:
    vocabulary = data.vocabulary if vocabulary is None else vocabulary
    if vocabulary.scored_names != data.vocabulary.scored_names:
        raise ValueError(
            f"The vocabulary scores {len(vocabulary.scored_names)} classes ({vocabulary.scored_names[0]!r}, ...), the "
            f"data has {len(data.vocabulary.scored_names)} ({data.vocabulary.scored_names[0]!r}, ...). Give both the "
            "same names."
        )
    return vocabulary


def _score(
    batches: Iterator[list[PreparedRow | UnreadableRow]],
    bar: tqdm,
    log: ProgressLog | None,
    count: Callable[[list[PreparedRow | UnreadableRow]], list[ImageCounts]],
) -> list[ImageCounts]:
    """The counts of all batches, each noted as soon as it is there."""
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
    """A batch of rows -> their counts."""
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
    """Gives every module its mode back, and takes mixed precision and gradients out meanwhile."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with without_mixed_precision(model), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


__all__ = ["evaluate"]
