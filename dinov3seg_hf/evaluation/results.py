# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The result of an evaluation: scores, bootstrap intervals, tables and the JSON file."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..data.benchmarks import BENCHMARKS, PUBLISHED
from ..metrics.scoring import CONFIDENCE, ConfusionMatrix, ImageCounts, bootstrap_intervals
from ..model.files import write_atomically
from ..model.fingerprints import sha256_of
from ..model.vocabulary import Vocabulary, word_key
from ..visualization.tables import aligned_table
from .protocol import describe_view

# The version of results; increase it if the scores of equal label maps change.
RESULTS_VERSION = 1


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation; scores lie between 0 and 1.

    Attributes:
        scores: mean_iou, mean_iou_mmseg (in which classes without pixels count if they are predicted), mean_accuracy,
            overall_accuracy, frequency_weighted_iou, mean_iou_low and mean_iou_high (the bootstrap interval over
            images). With a training vocabulary also seen_mean_iou and unseen_mean_iou, their
            intervals (_low, _high) and their harmonic_mean. NaN if no class has a pixel.
        per_class: The label, name, iou, accuracy, truth_pixels, predicted_pixels and seen of each scored class (seen is
            `None` without a training vocabulary).
        num_images, num_skipped: Number of rows that were scored, and number of rows that could not be read.
        skipped: Reasons for the first 100 skipped rows.
        protocol: Everything that affects the scores, except the weights: data, vocabulary, templates, sizes, windows,
            versions.
        protocol_fingerprint: SHA-256 (hex) of the protocol.
        model: Name of the model, fingerprint of its weights and dtype.
        benchmark: Name of the data set, if known.
        confusion: int64 `(C, C + 1)` for C classes: ground-truth class by predicted class; the last column counts
            predictions that are not a class.
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
        return json.dumps(without_nan({"version": RESULTS_VERSION, **content}), ensure_ascii=False, indent=1) + "\n"

    def save(self, path: str | os.PathLike, confusion: bool = False) -> None:
        """Writes the result atomically as a JSON file; NaN is written as null.

        Args:
            path: Path of the file, such as `results.json`.
            confusion: Whether to include the confusion matrix, C x (C + 1) numbers.

        Raises:
            ValueError: If the path cannot be written.
        """
        write_atomically(path, self.to_json(confusion).encode())

    @property
    def view(self) -> str:
        """The inference mode and the size of the images; see `describe_view`."""
        return describe_view(self.protocol)

    def table(self) -> str:
        """The scores in percent as a text table, with published scores if available."""
        return results_table([self])

    def class_table(self) -> str:
        """The IoU and accuracy of each class in percent as a text table."""
        rows = [["class", "IoU", "Acc", "pixels", ""]]
        for row in self.per_class:
            unseen = "unseen" if row["seen"] is False else ""
            rows.append(
                [row["name"], _percent(row["iou"]), _percent(row["accuracy"]), f"{row['truth_pixels']:,}", unseen]
            )
        return aligned_table(rows)


def results_table(results: Sequence[EvaluationResult]) -> str:
    """The results in percent as a text table, one data set per row, with published scores if available."""
    rows = [["", "mIoU", f"{100 * CONFIDENCE:.0f} % interval", "mAcc", "aAcc", "fwIoU", "images", "inference"]]
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
            result.view,
        ]
        names = ("seen_mean_iou", "unseen_mean_iou", "harmonic_mean")
        row += [_percent(scores.get(name)) for name in names] if split else []
        if published:
            known = None if result.benchmark is None else PUBLISHED.get(result.benchmark)
            row += (
                ["-", "-"]
                if known is None
                else [f"{known['dinov3.seg (paper)']:.2f}", f"{known['best elsewhere']:.1f} {known['by']}"]
            )
        rows.append(row)
    return aligned_table(rows)


def _percent(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def without_nan(content: Any) -> Any:
    """Replaces NaN and infinity by `None`, because JSON does not support these values."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content


def seen_classes(vocabulary: Vocabulary, training: Vocabulary | Iterable[str]) -> list[bool]:
    """Returns for each scored class whether one of its words is in the training vocabulary; letter case is ignored."""
    words: Iterable[Iterable[str]] = (
        training.synonyms if isinstance(training, Vocabulary) else [[name] for name in training]
    )
    known = {word_key(word) for of_class in words for word in of_class}
    if isinstance(training, Vocabulary):
        known |= set(map(word_key, training.names))
    classes = list(vocabulary.synonyms)
    if vocabulary.background_from is not None:
        background = tuple(word for of_class in classes[vocabulary.background_from :] for word in of_class)
        classes = [*classes[: vocabulary.background_from], background]
    return [any(word_key(word) in known for word in of_class) for of_class in classes]


def result_of(
    images: list[ImageCounts],
    vocabulary: Vocabulary,
    training: Vocabulary | Iterable[str] | None,
    num_resamples: int,
    protocol: dict[str, Any],
    model: dict[str, Any],
    benchmark: str | None,
) -> EvaluationResult:
    """Computes the result of an evaluation from the counts of all images.

    Args:
        images: Counts of the images, in the order of their rows.
        vocabulary: The prompted classes.
        training: Vocabulary that the model was trained with. `None`: classes are not split into seen and unseen.
        num_resamples: Number of resamples of the bootstrap.
        protocol: Everything that affects the scores, except the weights.
        model: Name of the model, fingerprint of its weights and dtype.
        benchmark: Name of the data set; `None` if unknown.

    Raises:
        ValueError: If no pixel is labeled.
    """
    matrix = ConfusionMatrix(len(vocabulary.scored_names))
    scored = [image for image in images if image.skipped is None]
    for image in scored:
        matrix.add(image.labels, image.predictions, image.counts)
    if not matrix.counts.any():
        raise ValueError(
            f"The {len(images)} images do not contain any labeled pixel. Check the mask column, and pass the "
            "vocabulary that the masks were made with."
        )
    seen = None if training is None else seen_classes(vocabulary, training)
    skipped = [image.skipped for image in images if image.skipped is not None]
    return EvaluationResult(
        scores=_scores_of(matrix, scored, seen, num_resamples),
        per_class=_class_rows(matrix, vocabulary.scored_names, seen),
        num_images=len(scored),
        num_skipped=len(skipped),
        skipped=skipped[:100],
        protocol=protocol,
        protocol_fingerprint=sha256_of(protocol),
        model=model,
        benchmark=benchmark,
        confusion=matrix.counts,
    )


def _scores_of(
    matrix: ConfusionMatrix, images: list[ImageCounts], seen: list[bool] | None, num_resamples: int
) -> dict[str, float]:
    groups: dict[str, Sequence[int]] = {"mean_iou": range(matrix.num_classes)}
    if seen is not None:
        groups["seen_mean_iou"] = [label for label, is_seen in enumerate(seen) if is_seen]
        groups["unseen_mean_iou"] = [label for label, is_seen in enumerate(seen) if not is_seen]
    scores = matrix.scores()
    for name, (low, high) in bootstrap_intervals(images, matrix.num_classes, groups, num_resamples).items():
        scores[name] = matrix.mean_iou(groups[name])
        scores[f"{name}_low"], scores[f"{name}_high"] = low, high
    if seen is not None:
        pair = scores["seen_mean_iou"], scores["unseen_mean_iou"]
        # NaN stays NaN: the harmonic mean needs both scores
        scores["harmonic_mean"] = 2 * pair[0] * pair[1] / sum(pair) if sum(pair) != 0 else 0.0
    return scores


def _class_rows(matrix: ConfusionMatrix, names: Sequence[str], seen: list[bool] | None) -> list[dict[str, Any]]:
    iou, accuracy = matrix.iou(), matrix.accuracy()
    truth, predicted = matrix.counts.sum(axis=1), matrix.counts.sum(axis=0)
    return [
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


__all__ = ["EvaluationResult", "results_table", "seen_classes"]
