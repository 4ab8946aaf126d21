# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Mean intersection over union as an `evaluate.Metric` that stores counts instead of label maps.

Each label map is immediately added to one confusion matrix of integers, so memory does not grow with the number of
images. Label maps are never resized. The metric loads without a network connection:
`evaluate.load("path/to/mean_iou.py", num_labels=150)`, or `MeanIoU(num_labels=150)`. In several processes
(`torch.distributed`, for example started by `accelerate launch`), the counts are summed exactly.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from .scoring import ConfusionMatrix

DESCRIPTION = "Intersection over union of semantic segmentation: mean over classes, value per class, and accuracies."

CITATION = ""

INPUTS = """
Args:
    num_labels: Number of classes C; labels are 0 .. C-1.
    ignore_index: Ground-truth pixels with this value are ignored, like all values outside 0 .. C-1.
    label_names: Names of the C classes. Default: "0", "1", ...

    predictions: Label maps, integers (H, W). Values outside 0 .. C-1 count as wrong for the ground-truth class.
    references: Ground-truth label maps, each of the same size as its prediction.
    return_confusion_matrix: Whether to return the confusion matrix as well.

Returns:
    mean_iou, mean_accuracy, overall_accuracy, frequency_weighted_iou: Scores between 0 and 1; the means do not include
    classes without ground-truth pixels.
    per_category_iou, per_category_accuracy: Values by class name; NaN for classes without ground-truth pixels.
    confusion_matrix: int64 (C, C + 1), ground-truth class by predicted class; the last column counts predictions
    outside 0 .. C-1.
"""


class MeanIoU(evaluate.Metric):
    """The mean IoU metric; see `INPUTS`.

    Args:
        num_labels, ignore_index, label_names: See `INPUTS`. `num_labels` must be set before label maps are added.
            Default of `num_labels`: the number of `label_names`.
        **kwargs: Passed to `evaluate.Metric`.

    Raises:
        ValueError: If `num_labels` is less than 1, or `label_names` are not `num_labels` different names.
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
                f"label_names has {len(label_names)} names, {len(set(label_names))} of them different; expected "
                f"{num_labels} different names. Pass a different name for each class."
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
        """Adds one predicted label map and its ground truth, integers `(H, W)`.

        Raises:
            ValueError: If the sizes differ, a label map does not contain integers, or `num_labels` is not set.
        """
        self._refuse(kwargs)
        if self.num_labels is None:
            raise ValueError(
                "num_labels is None; expected the number of classes. Pass num_labels when you create or load the "
                "metric."
            )
        if self._matrix is None:
            self._matrix = ConfusionMatrix(self.num_labels)
        prediction, reference = _array(prediction), _array(reference)
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_labels:
            reference = np.where(reference == self.ignore_index, -1, reference.astype(np.int64, copy=False))
        self._matrix.update(prediction, reference)

    def add_batch(
        self, *, predictions: Iterable[Any] | None = None, references: Iterable[Any] | None = None, **kwargs: Any
    ) -> None:
        """Adds predicted label maps and their ground truths. The sizes may differ between pairs.

        Raises:
            ValueError: If an argument is missing, the numbers of label maps differ, or `add` raises an error.
        """
        self._refuse(kwargs)
        if predictions is None or references is None:
            missing = "predictions" if predictions is None else "references"
            raise ValueError(f"{missing} is None; expected label maps. Pass both predictions and references.")
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
        """Computes the scores of the label maps that all processes added since the last call; see `INPUTS`.

        Args:
            predictions: Label maps to add first; requires `references`.
            references: Ground truths of `predictions`.
            num_labels: Replaces the number of classes of the metric. Only allowed before label maps are added.
            ignore_index: Replaces the `ignore_index` of the metric. Only allowed before label maps are added.
            label_names: Replaces the names of the metric. Only allowed before label maps are added.
            return_confusion_matrix: Whether to return the confusion matrix as well.
            **kwargs: Not supported; other options raise an error.

        Raises:
            ValueError: If nothing was added, `num_labels`, `ignore_index` or `label_names` are passed after label maps
                were added, or `add_batch` raises an error.
        """
        self._refuse(kwargs)
        if (num_labels, ignore_index, label_names) != (None, None, None):
            if self._matrix is not None:
                raise ValueError(
                    "num_labels, ignore_index and label_names cannot change after label maps were added. Pass these "
                    "options when you create or load the metric."
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

    def _compute(self, **kwargs: Any) -> dict[str, Any]:  # required by the base class; not used by `compute`
        raise NotImplementedError

    def _sum_over_processes(self) -> ConfusionMatrix:
        distributed = torch.distributed
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        if not several and self.num_process > 1:
            raise ValueError(
                f"num_process is {self.num_process}, but torch.distributed, which sums the counts of the processes, is "
                "not initialized. Start the processes with accelerate launch or torchrun."
            )
        if self.num_labels is None or (self._matrix is None and not several):
            raise ValueError("Nothing was added to the metric. Add label maps, or pass predictions and references.")
        matrix = self._matrix or ConfusionMatrix(self.num_labels)  # some processes may not have received an image
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
        raise ValueError(
            f"A label map has dtype {array.dtype} and shape {array.shape}; expected integers of shape (height, width)."
        )
    return array
