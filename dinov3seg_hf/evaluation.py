# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The evaluation of a model on a data set: scores, how sure they are, and all that they depend on.

What is kept of an image is how many of its pixels have which label and got which (`scoring.py`), so that scores are
those of one confusion matrix over the whole set, whatever the number of processes, batches and restarts. Images go
through the pipeline, as users' do, and are scored at their own size: nothing is resized here.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .benchmarks import BENCHMARKS, PUBLISHED
from .data import RowError, SegmentationDataset, StreamedSegmentationDataset
from .files import write_whole
from .pipeline import Inference, OpenVocabularySegmentationPipeline
from .scoring import CONFIDENCE, ConfusionMatrix, ImageCounts, bootstrap_intervals
from .vocabulary import Vocabulary
from .weights import weights_fingerprint

# How results are told apart; raise it when scores of equal label maps change.
RESULTS_VERSION = 1


# --- results ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What came out of an evaluation; scores lie between 0 and 1.

    Attributes:
        scores: mean_iou, mean_accuracy, overall_accuracy, frequency_weighted_iou, mean_iou_low and mean_iou_high (the
            bootstrap interval over images); with a training vocabulary also seen_mean_iou, unseen_mean_iou and their
            harmonic_mean. NaN where no class has a pixel.
        per_class: For each scored class label, name, iou, accuracy, truth_pixels, predicted_pixels and seen (`None`
            without a training vocabulary).
        num_images, num_skipped: How many rows were scored, and how many could not be read.
        skipped: Why, of the first hundred.
        protocol: All that decides what is measured, but for the weights: data, vocabulary, templates, sizes, windows,
            versions.
        protocol_fingerprint: SHA-256 (hex) over it.
        model: The fingerprint of the weights and where they came from.
        benchmark: What the data set is called, if it is known.
        confusion: int64 `(C, C + 1)`, true class by predicted class, the last column for none of them.
    """

    scores: dict[str, float]
    per_class: list[dict[str, Any]]
    num_images: int
    num_skipped: int
    skipped: list[str]
    protocol: dict[str, Any]
    protocol_fingerprint: str
    model: dict[str, Any]
    benchmark: str | None
    confusion: np.ndarray = dataclasses.field(repr=False)

    def to_json(self, confusion: bool = False) -> str:
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        matrix = content.pop("confusion")
        if self.benchmark in PUBLISHED:
            content["published_mean_iou_percent"] = PUBLISHED[self.benchmark]
        if confusion:
            content["confusion"] = matrix.tolist()
        return json.dumps(_without_nan({"version": RESULTS_VERSION, **content}), ensure_ascii=False, indent=1) + "\n"

    def save(self, path: str | os.PathLike, confusion: bool = False) -> None:
        """Writes a JSON file, whole or not at all; NaN is written as null.

        Args:
            path: Such as `results.json`.
            confusion: Also the confusion matrix, C x (C + 1) numbers.

        Raises:
            ValueError: The path cannot be written.
        """
        write_whole(path, self.to_json(confusion).encode())

    def table(self) -> str:
        """Scores in percent as text, beside the published ones where there are any."""
        return results_table([self])

    def class_table(self) -> str:
        """IoU and accuracy of each class in percent as text."""
        rows = [["class", "IoU", "Acc", "pixels", ""]]
        for row in self.per_class:
            unseen = "unseen" if row["seen"] is False else ""
            rows.append(
                [row["name"], _percent(row["iou"]), _percent(row["accuracy"]), f"{row['truth_pixels']:,}", unseen]
            )
        return _aligned(rows)


def results_table(results: Sequence[EvaluationResult]) -> str:
    """Results of several data sets in percent, one a row, beside the published ones where there are any."""
    rows = [["", "mIoU", f"{100 * CONFIDENCE:.0f} % interval", "mAcc", "aAcc", "fwIoU", "images"]]
    split = any("harmonic_mean" in result.scores for result in results)
    rows[0] += ["seen", "unseen", "harmonic"] if split else []
    published = any(result.benchmark in PUBLISHED for result in results)
    rows[0] += ["dinov3.seg (paper)", "best elsewhere"] if published else []
    for result in results:
        scores = result.scores
        row = [
            BENCHMARKS[result.benchmark].title if result.benchmark in BENCHMARKS else result.benchmark or "data set",
            _percent(scores["mean_iou"]),
            f"{_percent(scores['mean_iou_low'])} to {_percent(scores['mean_iou_high'])}",
            *(_percent(scores[name]) for name in ("mean_accuracy", "overall_accuracy", "frequency_weighted_iou")),
            f"{result.num_images:,}" + (f" ({result.num_skipped:,} skipped)" if result.num_skipped else ""),
        ]
        names = ("seen_mean_iou", "unseen_mean_iou", "harmonic_mean")
        row += [_percent(scores.get(name)) for name in names] if split else []
        if published:
            known = PUBLISHED.get(result.benchmark)
            row += (
                ["-", "-"]
                if known is None
                else [f"{known['dinov3.seg (paper)']:.2f}", f"{known['best elsewhere']:.1f} {known['by']}"]
            )
        rows.append(row)
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _percent(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def _without_nan(content: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content


# --- evaluating -------------------------------------------------------------------------------------------------------


def evaluate(
    model: nn.Module,
    processor: Any,
    data: SegmentationDataset | StreamedSegmentationDataset,
    vocabulary: Vocabulary | None = None,
    *,
    inference: Inference = "whole",
    head: Literal["full", "dinotxt"] | None = None,
    patch_source: Literal["head", "backbone"] | None = None,
    temperature: float | None = None,
    size: dict[str, int] | None = None,
    window_size: int | None = None,
    window_stride: int | None = None,
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
        inference, head, patch_source, temperature, size, window_size, window_stride: As for a call of the pipeline.
        batch_size: Images at a time.
        num_workers: Processes that read images, for each process of the evaluation.
        accelerator: The `accelerate.Accelerator` of a run in several processes.
        progress: Shows a bar.
        resume_from: A folder in which every scored image is noted; made if need be. An evaluation that was broken off
            goes on there, with any number of processes.
        training_vocabulary: Splits the classes into those with a word of it, seen, and the others.
        num_resamples: Of the bootstrap interval over images.
        benchmark, model_name: What data and model are called in the result.

    Raises:
        ValueError: Vocabulary and data differ, no pixel is labeled, the folder holds another evaluation, the weights
            are spread over processes.
        RowError: A row cannot be read.
    """
    vocabulary = data.vocabulary if vocabulary is None else vocabulary
    if vocabulary.scored_names != data.vocabulary.scored_names:
        raise ValueError(
            f"The vocabulary scores {len(vocabulary.scored_names)} classes ({vocabulary.scored_names[0]!r}, ...), the "
            f"data has {len(data.vocabulary.scored_names)} ({data.vocabulary.scored_names[0]!r}, ...). Give both the "
            "same names."
        )
    processes = _Processes(accelerator)
    unwrapped = processes.unwrap(model)
    with _as_found(unwrapped):
        pipe = OpenVocabularySegmentationPipeline(model=unwrapped, processor=processor, device=unwrapped.device)
        settings = {
            "inference": inference,
            "head": pipe.model.config.head if head is None else head,
            "patch_source": pipe.model.config.patch_source if patch_source is None else patch_source,
            "temperature": temperature,
            "size": size,
            "window_size": window_size,
            "window_stride": window_stride,
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        preprocess, forward, _ = pipe._sanitize_parameters(**settings)

        protocol = processes.from_main(lambda: _protocol(pipe, data, vocabulary, settings))
        weights = processes.from_main(lambda: weights_fingerprint(unwrapped))
        key = _sha256_of([protocol, weights])
        log = _ProgressLog(resume_from, key, processes) if resume_from is not None else None
        done = {} if log is None else log.done

        error, found = None, []
        try:
            forward["text"] = pipe.encode_labels(vocabulary)
            found = _score_rows(
                pipe, data, vocabulary, preprocess, forward, batch_size, num_workers, processes, progress, done, log
            )
        except Exception as caught:
            if processes.count == 1:
                raise
            error = caught
    images = processes.gather(found, error)
    images = {image.index: image for image in (*done.values(), *images)}
    return _result(
        [images[index] for index in sorted(images)],
        vocabulary,
        training_vocabulary,
        num_resamples,
        protocol,
        {"name": model_name, "fingerprint": weights, "dtype": str(unwrapped.dtype).removeprefix("torch.")},
        benchmark,
    )


def _score_rows(
    pipe: OpenVocabularySegmentationPipeline,
    data: SegmentationDataset | StreamedSegmentationDataset,
    vocabulary: Vocabulary,
    preprocess: dict[str, Any],
    forward: dict[str, Any],
    batch_size: int,
    num_workers: int,
    processes: "_Processes",
    progress: bool,
    done: dict[int, ImageCounts],
    log: "_ProgressLog | None",
) -> list[ImageCounts]:
    """This process's share of the rows that are not done."""
    if isinstance(data, StreamedSegmentationDataset):
        rows = (_prepared(pipe, preprocess, item) for item in _streamed(data, processes, done))
        batches, total = _in_batches(rows, batch_size), None
    else:
        mine = [index for index in range(len(data)) if index not in done][processes.rank :: processes.count]
        loader = DataLoader(
            _Rows(data, mine, partial(_prepared, pipe, preprocess)),
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # without one it draws from torch's own, and training would go on otherwise
        )
        batches, total = iter(loader), len(mine)
    bar = tqdm(desc="Evaluating", unit="image", total=total, disable=not (progress and processes.is_main))
    num_classes = len(vocabulary.scored_names)
    found = []
    with bar:
        for batch in batches:
            readable = [row for row in batch if not isinstance(row[0], str)]
            outputs = pipe.forward([row[0] for row in readable], **forward)["outputs"] if readable else []
            counted = [ImageCounts.bad(index, reason) for reason, _, index in batch if isinstance(reason, str)]
            for (_, labels, index), output in zip(readable, outputs):
                predictions = vocabulary.to_scored(output["label_map"].numpy())
                counted.append(ImageCounts.of(index, predictions, labels, num_classes))
            if log is not None:
                log.write(counted)
            found += counted
            bar.update(len(batch))
    return found


def _prepared(
    pipe: OpenVocabularySegmentationPipeline, preprocess: dict[str, Any], item: dict[str, Any] | tuple[int, str]
) -> tuple[dict[str, Any] | str, np.ndarray | None, int]:
    """An item of a data set -> (inputs of the model, labels, index); or, of a bad row, (why, None, index)."""
    if isinstance(item, tuple):
        return item[1], None, item[0]
    return pipe.preprocess(item["image"], **preprocess), item["labels"], item["index"]


class _Rows(torch.utils.data.Dataset):
    """Some rows of a data set, ready for the model."""

    def __init__(self, data: SegmentationDataset, indices: Sequence[int], prepare: Any):
        self.data, self.indices, self.prepare = data, indices, prepare

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Any, np.ndarray | None, int]:
        index = self.indices[place]
        try:
            return self.prepare(self.data.read(index))
        except RowError as error:
            if not self.data.skip_bad:
                raise
            return self.prepare((index, str(error)))


def _streamed(
    data: StreamedSegmentationDataset, processes: "_Processes", done: dict[int, ImageCounts]
) -> Iterator[dict[str, Any] | tuple[int, str]]:
    for index, item in data.rows(processes.rank, processes.count, without=done):
        if isinstance(item, RowError):
            if not data.skip_bad:
                raise item
            yield index, str(item)
        else:
            yield item


def _in_batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextlib.contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    """Gives every module its mode back, and takes mixed precision out meanwhile (accelerate wraps `forward` in it)."""
    modes = [(module, module.training) for module in model.modules()]
    wrapped = model.__dict__.pop("forward", None) if "_original_forward" in model.__dict__ else None
    try:
        with torch.no_grad():
            yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped
        for module, mode in modes:
            module.training = mode


class _Processes:
    """One process, or those of an accelerator."""

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator
        self.count = 1 if accelerator is None else accelerator.num_processes
        self.rank = 0 if accelerator is None else accelerator.process_index

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def unwrap(self, model: nn.Module) -> nn.Module:
        if self._accelerator is not None:
            kind = self._accelerator.distributed_type.value
            if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP") and self.count > 1:
                raise ValueError(
                    f"The weights are spread over {self.count} processes ({kind}), which evaluation is not made for. "
                    "Save them and run scripts/evaluate.py, or evaluate a copy of accelerator.get_state_dict(model)."
                )
            model = self._accelerator.unwrap_model(model)
        return model

    def from_main(self, compute: Any) -> Any:
        """What the main process computes."""
        if self.count == 1:
            return compute()
        from accelerate.utils import broadcast_object_list

        value, error = None, None
        if self.is_main:
            try:
                value = compute()
            except Exception as caught:
                error = caught
        value, error = broadcast_object_list([value, error])
        if error is not None:
            raise error
        return value

    def gather(self, found: list[ImageCounts], error: Exception | None) -> list[ImageCounts]:
        """All processes' images, everywhere; one that failed lets all fail, instead of wait for it."""
        if self.count == 1:
            return found
        from accelerate.utils import gather_object

        gathered = gather_object([(found, None if error is None else f"{type(error).__name__}: {error}")])
        if error is not None:
            raise error
        for rank, (_, reason) in enumerate(gathered):
            if reason is not None:
                raise RuntimeError(f"Process {rank} could not go on: {reason}")
        return [image for images, _ in gathered for image in images]


class _ProgressLog:
    """Scored images, a line each, in one file for each process and start; a line cut off counts for nothing."""

    def __init__(self, folder: str | os.PathLike, key: str, processes: _Processes):
        self.done: dict[int, ImageCounts] = {}
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # all read before any writes, so that all see the same images done
            for path in processes.from_main(lambda: sorted(folder.glob("scored-*.jsonl"))):
                self._read(path, key)
        except OSError as error:
            raise ValueError(f"{str(folder)!r} cannot be used: {error.strerror}. Choose another folder.") from error
        self._path = folder / f"scored-{uuid.uuid4().hex}.jsonl"
        self._key = key

    def _read(self, path: Path, key: str) -> None:
        lines = path.read_bytes().split(b"\n")[:-1]  # the last is empty, or cut off
        if not lines:
            return
        if json.loads(lines[0]).get("evaluation") != key:
            raise ValueError(
                f"{str(path.parent)!r} holds another evaluation: of other weights, data, vocabulary, settings or "
                "versions. Choose another folder, or delete it."
            )
        for line in lines[1:]:
            image = ImageCounts.from_json(line)
            self.done[image.index] = image

    def write(self, images: Sequence[ImageCounts]) -> None:
        lines = [image.to_json() for image in images]
        try:
            if not self._path.exists():
                lines.insert(0, json.dumps({"evaluation": self._key}))
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise ValueError(
                f"{str(self._path)!r} cannot be written: {error.strerror}. Make room and start again; it goes on here."
            ) from error


def _protocol(
    pipe: OpenVocabularySegmentationPipeline, data: Any, vocabulary: Vocabulary, settings: dict[str, Any]
) -> dict[str, Any]:
    """All that decides what is measured, but for the weights."""
    import transformers

    from . import __version__

    processor = pipe.image_processor.to_dict()
    image_options = ("size", "size_divisor", "resample", "do_resize", "do_rescale", "rescale_factor", "do_normalize")
    image_options += ("image_mean", "image_std", "window_size", "window_stride")
    return {
        "data": {
            "fingerprint": data.fingerprint,
            "protocol": data.protocol,
            "columns": list(data.columns),
            "num_rows": len(data) if isinstance(data, SegmentationDataset) else None,
        },
        "vocabulary": {
            "num_classes": len(vocabulary),
            "num_scored": len(vocabulary.scored_names),
            "fingerprint": vocabulary.fingerprint,
            "ignore_label": vocabulary.ignore_label,
            "background_from": vocabulary.background_from,
        },
        "templates": list(vocabulary.templates),
        "inference": settings,
        "image_processor": {name: _plain(processor[name]) for name in image_options if name in processor},
        "versions": {
            "dinov3seg_hf": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, float, str, type(None))) else int(value)


def _sha256_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- scores -----------------------------------------------------------------------------------------------------------


def seen_classes(vocabulary: Vocabulary, training: Vocabulary | Iterable[str]) -> list[bool]:
    """For each scored class whether one of its words is a word of the training vocabulary, whatever the letter case."""
    words = training.synonyms if isinstance(training, Vocabulary) else [[name] for name in training]
    known = {_key(word) for of_class in words for word in of_class}
    if isinstance(training, Vocabulary):
        known |= set(map(_key, training.names))
    classes = list(vocabulary.synonyms)
    if vocabulary.background_from is not None:
        background = [word for of_class in classes[vocabulary.background_from :] for word in of_class]
        classes = [*classes[: vocabulary.background_from], background]
    return [any(_key(word) in known for word in of_class) for of_class in classes]


def _key(word: str) -> str:
    return " ".join(word.casefold().split())


def _result(
    images: list[ImageCounts],
    vocabulary: Vocabulary,
    training: Vocabulary | Iterable[str] | None,
    num_resamples: int,
    protocol: dict[str, Any],
    model: dict[str, Any],
    benchmark: str | None,
) -> EvaluationResult:
    names = vocabulary.scored_names
    matrix = ConfusionMatrix(len(names))
    scored = [image for image in images if image.skipped is None]
    for image in scored:
        matrix.add(image.labels, image.predictions, image.counts)
    if not matrix.counts.any():
        raise ValueError(
            f"None of the {len(images)} images has a labeled pixel: check the mask column, and that the vocabulary is "
            "the one its masks were made with."
        )
    groups = {"mean_iou": range(len(names))}
    seen = None if training is None else seen_classes(vocabulary, training)
    if seen is not None:
        groups["seen_mean_iou"] = [label for label, is_seen in enumerate(seen) if is_seen]
        groups["unseen_mean_iou"] = [label for label, is_seen in enumerate(seen) if not is_seen]
    scores = matrix.scores()
    for name, (low, high) in bootstrap_intervals(scored, len(names), groups, num_resamples).items():
        scores[name] = matrix.mean_iou(groups[name])
        scores[f"{name}_low"], scores[f"{name}_high"] = low, high
    if seen is not None:
        pair = scores["seen_mean_iou"], scores["unseen_mean_iou"]
        # NaN stays NaN: with one side alone there is nothing to balance
        scores["harmonic_mean"] = 2 * pair[0] * pair[1] / sum(pair) if sum(pair) != 0 else 0.0

    iou, accuracy = matrix.iou(), matrix.accuracy()
    truth, predicted = matrix.counts.sum(axis=1), matrix.counts.sum(axis=0)
    per_class = [
        {
            "label": label,
            "name": name,
            "iou": float(iou[label]),
            "accuracy": float(accuracy[label]),
            "truth_pixels": int(truth[label]),
            "predicted_pixels": int(predicted[label]),
            "seen": None if seen is None else seen[label],
        }
        for label, name in enumerate(names)
    ]
    skipped = [image.skipped for image in images if image.skipped is not None]
    return EvaluationResult(
        scores=scores,
        per_class=per_class,
        num_images=len(scored),
        num_skipped=len(skipped),
        skipped=skipped[:100],
        protocol=protocol,
        protocol_fingerprint=_sha256_of(protocol),
        model=model,
        benchmark=benchmark,
        confusion=matrix.counts,
    )


__all__ = [
    "ConfusionMatrix",
    "EvaluationResult",
    "ImageCounts",
    "bootstrap_intervals",
    "evaluate",
    "results_table",
    "seen_classes",
    "weights_fingerprint",
]
