# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Mean intersection over union as an `evaluate.Metric` that keeps counts and no label maps.

Label maps are added to one confusion matrix of integers as they come, so that memory does not grow with the number of
images, and are never resized. Loads without a network: `evaluate.load("path/to/mean_iou.py", num_labels=150)`, or
`MeanIoU(num_labels=150)`. In several processes (`torch.distributed`, as `accelerate launch` starts it) the counts are
added up exactly.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from .scoring import ConfusionMatrix

DESCRIPTION = "Intersection over union of semantic segmentation: the mean over classes, each class, accuracies."

CITATION = ""

INPUTS = """
Args:
    num_labels: C; a label is one of 0 .. C-1.
    ignore_index: Ground-truth pixels of this value do not count; nor do others outside 0 .. C-1.
    label_names: The names of the C classes; by default "0", "1", ...

    predictions: Label maps, integers (H, W). Values outside 0 .. C-1 are wrong for whatever the true class is.
    references: Ground-truth label maps, each of its prediction's size.
    return_confusion_matrix: Also the confusion matrix.

Returns:
    mean_iou, mean_accuracy, overall_accuracy, frequency_weighted_iou: between 0 and 1; a class without a ground-truth
    pixel drops out of the means.
    per_category_iou, per_category_accuracy: name -> value, NaN for a class without a ground-truth pixel.
    confusion_matrix: int64 (C, C + 1), true class by predicted class; the last column is for none of the classes.
"""


class MeanIoU(evaluate.Metric):
    """The metric; see `INPUTS`.

    Args:
        num_labels, ignore_index, label_names: See there; the first is needed before anything is added.
        **kwargs: Those of `evaluate.Metric`.

    Raises:
        ValueError: If a number is missing or out of range.
    """

    def __init__(
        self,
        *args: Any,
        num_labels: int | None = None,
        ignore_index: int | None = None,
        label_names: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if num_labels is None and label_names is not None:
            num_labels = len(label_names)
        self._configure(num_labels, ignore_index, label_names)

    def _configure(self, num_labels: int | None, ignore_index: int | None, label_names: Sequence[str] | None) -> None:
        if num_labels is not None and num_labels < 1:
            raise ValueError(f"num_labels is {num_labels}; expected at least one class.")
        if label_names is not None and (len(label_names) != num_labels or len(set(label_names)) != num_labels):
            raise ValueError(
                f"Got {len(label_names)} label names, {len(set(label_names))} of them different, for {num_labels} "
                "classes; pass a different name per class."
            )
        self.num_labels, self.ignore_index, self.label_names = num_labels, ignore_index, label_names
        self._matrix: ConfusionMatrix | None = None

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.List(datasets.List(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": label_map, "references": label_map}),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one label map and its ground truth, integers `(H, W)`.

        Raises:
            ValueError: If their sizes differ, or they hold no integers.
        """
        self._refuse(kwargs)
        if self.num_labels is None:
            raise ValueError("The number of classes is not known: give num_labels when the metric is made or loaded.")
        if self._matrix is None:
            self._matrix = ConfusionMatrix(self.num_labels)
        prediction, reference = _array(prediction), _array(reference)
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_labels:
            reference = np.where(reference == self.ignore_index, -1, reference.astype(np.int64, copy=False))
        self._matrix.update(prediction, reference)

    def add_batch(
        self, *, predictions: Iterable[Any] | None = None, references: Iterable[Any] | None = None, **kwargs: Any
    ) -> None:
        """Adds label maps and their ground truths; sizes may differ from pair to pair.

        Raises:
            ValueError: If there are more of the one than of the other, or only the one; otherwise as `add`.
        """
        self._refuse(kwargs)
        if predictions is None or references is None:
            missing = "predictions" if predictions is None else "references"
            raise ValueError(f"There are no {missing}; expected label maps and their ground truths. Pass both.")
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(
        self,
        *,
        predictions: Iterable[Any] | None = None,
        references: Iterable[Any] | None = None,
        num_labels: int | None = None,
        ignore_index: int | None = None,
        label_names: Sequence[str] | None = None,
        return_confusion_matrix: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Scores of all that was added since the last time, in all processes; see `INPUTS`.

        Args:
            predictions: Label maps, added first, where given; together with their ground truths.
            references: The ground truths.
            num_labels: C, in place of the metric's, where nothing was added before.
            ignore_index: In place of the metric's, likewise.
            label_names: In place of the metric's, likewise.
            return_confusion_matrix: Also the confusion matrix.
            **kwargs: Refused, for there are no other options.

        Raises:
            ValueError: If nothing was added, or other classes are asked for than were counted; otherwise as
                `add_batch`.
        """
        self._refuse(kwargs)
        if (num_labels, ignore_index, label_names) != (None, None, None):
            if self._matrix is not None:
                raise ValueError(
                    "Label maps have been added already: give num_labels, ignore_index and label_names before, when "
                    "the metric is made or loaded."
                )
            self._configure(
                self.num_labels if num_labels is None else num_labels,
                self.ignore_index if ignore_index is None else ignore_index,
                self.label_names if label_names is None else label_names,
            )
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        matrix = self._sum_over_processes()
        self._matrix = None
        names = self.label_names or [str(label) for label in range(matrix.num_classes)]
        results: dict[str, Any] = matrix.scores()
        results["per_category_iou"] = dict(zip(names, matrix.iou().tolist()))
        results["per_category_accuracy"] = dict(zip(names, matrix.accuracy().tolist()))
        if return_confusion_matrix:
            results["confusion_matrix"] = matrix.counts
        return results

    def _compute(self, **kwargs: Any) -> dict[str, Any]:  # the base class wants one; `compute` does without
        raise NotImplementedError

    def _sum_over_processes(self) -> ConfusionMatrix:
        distributed = torch.distributed
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        if not several and self.num_process > 1:
            raise ValueError(
                f"The metric is made for {self.num_process} processes, but torch.distributed, which adds their counts, "
                "is not initialized. Start them by accelerate launch or torchrun."
            )
        if self.num_labels is None or (self._matrix is None and not several):
            raise ValueError("Nothing was added: add label maps, or pass predictions and references.")
        matrix = self._matrix or ConfusionMatrix(self.num_labels)  # a process may have had no image
        if several:
            on_gpu = distributed.get_backend() == "nccl"
            counts = torch.from_numpy(matrix.counts).to("cuda" if on_gpu else "cpu")
            distributed.all_reduce(counts)
            matrix.counts = counts.cpu().numpy()
        return matrix

    @staticmethod
    def _refuse(kwargs: dict[str, Any]) -> None:
        if kwargs:
            raise ValueError(f"Unknown options of the metric: {', '.join(map(repr, kwargs))}. Check the spelling.")


def _array(label_map: Any) -> np.ndarray:
    if isinstance(label_map, torch.Tensor):
        label_map = label_map.detach().cpu()
    array = np.asarray(label_map)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(f"A label map is {array.dtype} of shape {array.shape}; expected integers (height, width).")
    return array
