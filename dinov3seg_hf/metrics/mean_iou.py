# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Mean intersection over union as an `evaluate.Metric` that stores counts instead of label maps.

Each label map is immediately added to one confusion matrix of integers, so memory does not grow with the number of
images. Label maps are never resized. The metric loads without a network connection:
`evaluate.load("path/to/mean_iou.py", num_labels=150)`, or `MeanIoU(num_labels=150)`. In several processes
(`torch.distributed`, for example started by `accelerate launch`), the counts are summed exactly.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from .references import ReferenceOptions
from .scoring import ConfusionMatrix, checked_pair

DESCRIPTION = "Intersection over union of semantic segmentation: mean over classes, value per class, and accuracies."

CITATION = ""

INPUTS = """
Args:
    num_labels: Number of classes C; labels are 0 .. C-1.
    ignore_index: Ground-truth pixels with this value are ignored, like all values outside 0 .. C-1.
    label_names: Names of the C classes. Default: no names.
    label_map: New values of ground-truth values, applied first.
    reduce_labels: Whether 0 and 255 in the ground truth are ignored and all other values are reduced by 1.
    nan_to_num: The number to return in place of NaN. Default: NaN.

    predictions: Label maps, integers (H, W). Values outside 0 .. C-1 count as wrong for the ground-truth class.
    references: Ground-truth label maps, each of the same size as its prediction.
    return_confusion_matrix: Whether to return the confusion matrix as well.

Returns:
    mean_iou, mean_accuracy, overall_accuracy, frequency_weighted_iou: Scores between 0 and 1; the means do not include
    classes without ground-truth pixels.
    mean_iou_mmseg: The mean IoU in which such classes count with 0 if they are predicted, as in mmseg and `evaluate`.
    per_category_iou, per_category_accuracy: float64 (C,), or values by class name with `label_names`; NaN for classes
    without ground-truth pixels.
    confusion_matrix: int64 (C, C + 1), ground-truth class by predicted class; the last column counts predictions
    outside 0 .. C-1.
"""


# One count for each pair of classes, 8 bytes each.
MAX_LABELS = 20_000


class MeanIoU(evaluate.Metric):
    """The mean IoU metric; see `INPUTS`.

    Args:
        num_labels, ignore_index, label_names, label_map, reduce_labels: See `INPUTS`. Default of `num_labels`: the
            number of `label_names`. Without both, values are counted, and `compute` needs `num_labels`.
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
        label_map: Mapping[int, int] | None = None,
        reduce_labels: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        # (ground-truth value, predicted value) -> pixels, before the options are known
        self._values: Counter[tuple[int, int]] = Counter()
        self._configure(num_labels, label_names, ReferenceOptions(label_map, reduce_labels, ignore_index))

    def _configure(self, num_labels: int | None, label_names: Sequence[str] | None, options: ReferenceOptions) -> None:
        if label_names is not None and not isinstance(label_names, (list, tuple)):
            raise ValueError(
                f"label_names is of type {type(label_names).__name__}; expected a list with a name for each class."
            )
        if num_labels is None and label_names is not None:
            num_labels = len(label_names)
        if num_labels is not None and (isinstance(num_labels, bool) or not isinstance(num_labels, (int, np.integer))):
            raise ValueError(f"num_labels is of type {type(num_labels).__name__}; expected an integer. Pass an int.")
        if num_labels is not None and not 1 <= num_labels <= MAX_LABELS:
            raise ValueError(f"num_labels is {num_labels}; expected at least one class, and at most {MAX_LABELS}.")
        if label_names is not None and not all(isinstance(name, str) for name in label_names):
            raise ValueError("label_names contains other values than text; expected a name for each class.")
        if label_names is not None and (len(label_names) != num_labels or len(set(label_names)) != num_labels):
            raise ValueError(
                f"label_names has {len(label_names)} names, {len(set(label_names))} of them different; expected "
                f"{num_labels} different names. Pass a different name for each class."
            )
        self.num_labels, self.label_names, self.options = num_labels, label_names, options
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
            ValueError: If the sizes differ, or a label map does not contain integers.
        """
        self._refuse(kwargs)
        self._count(*checked_pair(_array(prediction), _array(reference)))

    def _count(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        if self.num_labels is not None:
            if self._matrix is None:
                self._matrix = ConfusionMatrix(self.num_labels)
            self._matrix.update(prediction, self.options.apply(reference))
            return
        pairs = np.stack([reference.ravel(), prediction.ravel()]).astype(np.int64)
        found, counts = np.unique(pairs, axis=1, return_counts=True)
        for value, predicted, count in zip(*found.tolist(), counts.tolist()):
            self._values[value, predicted] += count

    def add_batch(
        self, *, predictions: Iterable[Any] | None = None, references: Iterable[Any] | None = None, **kwargs: Any
    ) -> None:
        """Adds predicted label maps and their ground truths. The sizes may differ between pairs.

        If there is an error, nothing is added.

        Raises:
            ValueError: If an argument is missing, the numbers of label maps differ, or `add` raises an error.
        """
        self._refuse(kwargs)
        if predictions is None or references is None:
            missing = "predictions" if predictions is None else "references"
            raise ValueError(f"{missing} is None; expected label maps. Pass both predictions and references.")
        pairs = [_label_maps(predictions, "predictions"), _label_maps(references, "references")]
        if len(pairs[0]) != len(pairs[1]):
            raise ValueError(
                f"Got {len(pairs[0])} predictions and {len(pairs[1])} references, so one list is longer; expected the "
                "same number. Pass one prediction for each reference."
            )
        # all are checked before one is counted: it would count twice when the corrected list is added
        checked = [checked_pair(_array(one), _array(other)) for one, other in zip(*pairs, strict=True)]
        for prediction, reference in checked:
            self._count(prediction, reference)

    def compute(
        self,
        *,
        predictions: Iterable[Any] | None = None,
        references: Iterable[Any] | None = None,
        num_labels: int | None = None,
        ignore_index: int | None = None,
        label_names: Sequence[str] | None = None,
        label_map: Mapping[int, int] | None = None,
        reduce_labels: bool | None = None,
        nan_to_num: float | None = None,
        return_confusion_matrix: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Computes the scores of the label maps that all processes added since the last call; see `INPUTS`.

        Args:
            predictions: Label maps to add first; requires `references`.
            references: Ground truths of `predictions`.
            num_labels: Replaces the number of classes of the metric. This and the next four options are only allowed
                before label maps are added, or if the metric was made without `num_labels`.
            ignore_index: Replaces the `ignore_index` of the metric.
            label_names: Replaces the names of the metric.
            label_map: Replaces the `label_map` of the metric.
            reduce_labels: Replaces the `reduce_labels` of the metric.
            nan_to_num: The number to return in place of NaN.
            return_confusion_matrix: Whether to return the confusion matrix as well.
            **kwargs: Not supported; other options raise an error.

        Raises:
            ValueError: If nothing was added, `num_labels` is missing, options change after label maps were added, or
                `add_batch` raises an error.
        """
        self._refuse(kwargs)
        if nan_to_num is not None and (isinstance(nan_to_num, bool) or not isinstance(nan_to_num, Real)):
            raise ValueError(f"nan_to_num is of type {type(nan_to_num).__name__}; expected a number. Pass a float.")
        if not isinstance(return_confusion_matrix, (bool, np.bool_)):
            raise ValueError(
                f"return_confusion_matrix is of type {type(return_confusion_matrix).__name__}; expected true or false."
            )
        new = (num_labels, ignore_index, label_names, label_map, reduce_labels)
        options = ReferenceOptions(
            self.options.label_map if label_map is None else label_map,
            self.options.reduce_labels if reduce_labels is None else reduce_labels,
            self.options.ignore_index if ignore_index is None else ignore_index,
        )
        num_labels = self.num_labels if num_labels is None else num_labels
        if any(value is not None for value in new):
            if self._matrix is not None and (num_labels != self.num_labels or options != self.options or label_names):
                raise ValueError(
                    "num_labels, ignore_index, label_names, label_map and reduce_labels cannot change after label maps "
                    "were added. Pass these options when you create or load the metric."
                )
            if self._matrix is None:
                self._configure(num_labels, self.label_names if label_names is None else label_names, options)
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        matrix = self._sum_over_processes()
        self._matrix = None
        self._values.clear()
        results: dict[str, Any] = matrix.scores()
        results["per_category_iou"], results["per_category_accuracy"] = matrix.iou(), matrix.accuracy()
        if nan_to_num is not None:
            results = {name: np.nan_to_num(value, nan=nan_to_num) for name, value in results.items()}
        if self.label_names is not None:
            for name in ("per_category_iou", "per_category_accuracy"):
                results[name] = dict(zip(self.label_names, results[name].tolist()))
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
        if self._matrix is None and not self._values and not several:
            raise ValueError("Nothing was added to the metric. Add label maps, or pass predictions and references.")
        if self.num_labels is None:
            raise ValueError(
                "num_labels is None; expected the number of classes. Pass num_labels to compute, or when you create or "
                "load the metric."
            )
        matrix = self._matrix or ConfusionMatrix(self.num_labels)  # some processes may not have received an image
        if self._values:
            pairs = np.array(list(self._values), np.int64).reshape(-1, 2)
            labels, predictions = self.options.apply(pairs[:, 0]), pairs[:, 1]
            is_class = (labels >= 0) & (labels < self.num_labels)
            predictions = np.where((predictions < 0) | (predictions >= self.num_labels), self.num_labels, predictions)
            num_pixels = np.array(list(self._values.values()), np.int64)
            matrix.add(labels[is_class], predictions[is_class], num_pixels[is_class])
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


def _label_maps(values: Any, what: str) -> list[Any]:
    try:
        if not isinstance(values, (str, bytes, dict)):
            return list(values)
    except TypeError:  # no list, or an array without axes
        pass
    raise ValueError(f"{what} is of type {type(values).__name__}; expected a list of label maps.")


def _array(label_map: Any) -> np.ndarray:
    if isinstance(label_map, torch.Tensor):
        label_map = label_map.detach().cpu()
    try:
        array = np.asanyarray(label_map)  # with its mask, see `checked_pair`
    except (ValueError, TypeError, RuntimeError) as error:  # lists of different lengths, or nested too deeply
        raise ValueError(f"A label map is no array ({error}); expected integers of shape (height, width).") from error
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"A label map has dtype {array.dtype} and shape {array.shape}; expected integers of shape (height, width)."
        )
    return array
