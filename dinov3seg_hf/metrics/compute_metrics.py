# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`compute_metrics` for `transformers.Trainer`: from logits or label maps to the scores of transformers' examples."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .references import ReferenceOptions
from .scoring import ConfusionMatrix

# The value with which `transformers.Trainer` fills up arrays of different sizes.
PADDING = -100


class SegmentationMetrics:
    """The scores of a semantic segmentation, as `compute_metrics` of `transformers.Trainer`.

    Example:

    ```python
    >>> metrics = SegmentationMetrics(model.config.id2label)
    >>> trainer = Trainer(
    ...     model, compute_metrics=metrics, preprocess_logits_for_metrics=metrics.preprocess_logits, ...
    ... )
    ```

    With `preprocess_logits`, the trainer keeps label maps in place of logits, which need the memory of all classes.
    With `batch_eval_metrics=True` in the training arguments, it keeps nothing but counts.

    Args:
        id2label: The names of the C classes, `{0: name, ...}`.
        ignore_index: The ground-truth value of pixels that are ignored, like all values outside 0 .. C-1.
        reduce_labels: Whether 0 and 255 in the ground truth are ignored and other values are reduced by 1. Leave it
            `False` if the image processor has reduced the labels (`do_reduce_labels`).
        label_map: New values of ground-truth values, applied first.
        nan_to_num: The number to report in place of NaN, the score of classes without ground-truth pixels.

    Raises:
        ValueError: If `id2label` does not contain the labels 0 .. C-1 with different names, or an option is invalid.
    """

    def __init__(
        self,
        id2label: Mapping[Any, str],
        *,
        ignore_index: int | None = 255,
        reduce_labels: bool = False,
        label_map: Mapping[int, int] | None = None,
        nan_to_num: float | None = None,
    ):
        self.names = _names_of(id2label)
        self.options = ReferenceOptions(label_map, reduce_labels, ignore_index)
        if self.options.ignore_index == 255 < len(self.names):  # a class of a large vocabulary, as for the loss
            self.options = ReferenceOptions(label_map, reduce_labels)
        if nan_to_num is not None and (isinstance(nan_to_num, bool) or not isinstance(nan_to_num, Real)):
            raise ValueError(f"nan_to_num is of type {type(nan_to_num).__name__}; expected a number. Pass a float.")
        self.nan_to_num = nan_to_num
        self._matrix = ConfusionMatrix(len(self.names))

    @staticmethod
    def preprocess_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Returns the predicted label maps at the size of the labels, for `preprocess_logits_for_metrics`.

        Args:
            logits: `(B, C, h, w)`, or a tuple that begins with them.
            labels: `(B, H, W)`.

        Returns:
            int64 `(B, H, W)`.

        Raises:
            ValueError: If the logits contain NaN or infinity in float32.
        """
        logits = logits[0] if isinstance(logits, (tuple, list)) else logits
        label_maps = []
        for one in logits:  # one image at a time, because all classes at full size need much memory
            one = one[None].float()
            if not one.isfinite().all():  # else they would get labels
                raise ValueError(
                    "The logits contain NaN or infinity; expected finite numbers. Load the model in float32 or "
                    "bfloat16; float16 overflows."
                )
            label_maps.append(F.interpolate(one, size=labels.shape[-2:], mode="bilinear").argmax(dim=1))
        return torch.cat(label_maps)

    def __call__(self, eval_prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Adds predictions and returns the scores.

        Args:
            eval_prediction: `predictions`, logits `(N, C, h, w)` or label maps `(N, H, W)`; and `label_ids`, the ground
                truth `(N, H, W)`.
            compute_result: Whether to return the scores of all predictions since the last result, or only to count.

        Returns:
            `mean_iou` (over the classes with ground-truth pixels), `mean_iou_mmseg` (as `evaluate` and mmseg compute
            it: over all classes with ground-truth or predicted pixels), `mean_accuracy`, `overall_accuracy`,
            `frequency_weighted_iou`; and `iou_NAME` and `accuracy_NAME` of each class. All between 0 and 1.

        Raises:
            ValueError: If the shapes or the number of classes do not match, images of different sizes were padded, or
                logits contain NaN or infinity. Nothing is counted then.
        """
        predictions = getattr(eval_prediction, "predictions", None)
        predictions = predictions[0] if isinstance(predictions, (tuple, list)) and predictions else predictions
        predictions = _tensor(predictions, "predictions")
        labels = _tensor(getattr(eval_prediction, "label_ids", None), "label_ids")
        if labels.ndim != 3 or predictions.ndim not in (3, 4) or len(predictions) != len(labels):
            raise ValueError(
                f"predictions have shape {tuple(predictions.shape)} and labels {tuple(labels.shape)}; expected "
                "(images, classes, height, width), or (images, height, width) for label maps, and (images, height, "
                "width). Pass what the trainer passes."
            )
        if predictions.ndim == 4 and predictions.shape[1] != len(self.names):
            raise ValueError(
                f"The logits have {predictions.shape[1]} classes and id2label has {len(self.names)}; expected the same "
                "number. Pass the id2label of the model that is evaluated."
            )
        found = ConfusionMatrix(len(self.names))
        for prediction, label in zip(predictions, labels):
            if prediction.ndim == 3:
                if (prediction == PADDING).all(dim=0).any():
                    raise ValueError(
                        "The images have different sizes, so the trainer padded their logits; expected one size. Pass "
                        "preprocess_logits_for_metrics=metrics.preprocess_logits to the trainer."
                    )
                (prediction,) = self.preprocess_logits(prediction[None], label[None])
            found.update(prediction.cpu().numpy(), self.options.apply(label.cpu().numpy()))
        self._matrix.counts += found.counts
        return self._result() if compute_result else {}

    def _result(self) -> dict[str, float]:
        matrix, self._matrix = self._matrix, ConfusionMatrix(len(self.names))
        scores = matrix.scores()
        for kind, values in (("iou", matrix.iou()), ("accuracy", matrix.accuracy())):
            scores |= {f"{kind}_{name}": value for name, value in zip(self.names, values.tolist())}
        if self.nan_to_num is not None:
            scores = {name: float(np.nan_to_num(value, nan=self.nan_to_num)) for name, value in scores.items()}
        return scores


def _names_of(id2label: Any) -> list[str]:
    """Returns the names of the labels 0 .. C-1; see `SegmentationMetrics`."""
    if not isinstance(id2label, Mapping):
        raise ValueError(
            f"id2label is of type {type(id2label).__name__}; expected a mapping from labels to names. Pass "
            "model.config.id2label."
        )
    try:
        names = {int(label): name for label, name in id2label.items()}
    except (TypeError, ValueError, OverflowError):
        names = {}
    if not names or sorted(names) != list(range(len(id2label))):
        raise ValueError(
            f"id2label has the labels {list(id2label)[:5]}; expected 0, 1, ... without gaps. Pass "
            "model.config.id2label."
        )
    listed = [names[label] for label in range(len(names))]
    if not all(isinstance(name, str) for name in listed) or len(set(listed)) < len(listed):
        raise ValueError(
            f"id2label has {len(listed)} labels with {len(set(map(str, listed)))} different names; expected text, and "
            "a different name for each label, because the scores have names. Rename the others."
        )
    return listed


def _tensor(values: Any, what: str) -> torch.Tensor:
    try:
        if isinstance(values, np.ndarray):  # torch takes neither negative steps nor other byte orders
            values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{what} is of type {type(values).__name__}, which is no array of numbers; expected an array. Pass what "
            "the trainer passes."
        ) from error


__all__ = ["SegmentationMetrics"]
