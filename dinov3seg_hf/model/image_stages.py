# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The stages of an image in the pipeline: prepared for the model, encoded by the model, labeled."""

import copy
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from .background import Confidence
from .fingerprints import state_fingerprint, weights_key
from .inference_settings import Head, Inference, InferenceSettings, PatchSource
from .modeling_dinov3seg import Dinov3SegImageFeatures

# Maximum number of pixels that are counted at once.
MAX_COUNTED_PIXELS = 2**20


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as input for the model.

    Attributes:
        tensors: The output of the image processor: `pixel_values` `(1, 3, H, W)`; with windows also
            `window_pixel_values` and `window_boxes`.
        size: (height, width) of the original image in pixels.
        inference: The inference mode of the segmentation.
    """

    tensors: dict[str, torch.Tensor]
    size: tuple[int, int]
    inference: Inference

    @property
    def pixels(self) -> torch.Tensor:
        """The resized and normalized image, `(3, H, W)`."""
        return self.tensors["pixel_values"][0]


class EncodingModel:
    """The model that computed features, with its weights of that time.

    When it is pickled, it becomes the fingerprint of the weights: in another process, the model is another object.
    """

    def __init__(self, model: nn.Module):
        self._model: weakref.ref[nn.Module] | None = weakref.ref(model)
        self._weights = weights_key(model)
        self._fingerprint: str | None = None

    def is_now(self, model: nn.Module) -> bool:
        """Whether it is this model with its current weights; after pickling, a model with the same weights."""
        if self._model is None:
            return self._fingerprint == state_fingerprint(model)
        return self._model() is model and self._weights == weights_key(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> "EncodingModel":
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self._fingerprint is None:
            model = None if self._model is None else self._model()
            if model is None or not self.is_now(model):
                raise ValueError(
                    "The weights that computed the features of the image are gone or have changed, so no process could "
                    "check that it has the same ones. Encode the image again, and pickle it before the weights change."
                )
            self._fingerprint = state_fingerprint(model)
        return {"_model": None, "_weights": (), "_fingerprint": self._fingerprint}


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """The features of an image, independent of any text. A pipeline accepts it instead of the original image.

    It can be copied, and pickled for other processes: there, a pipeline accepts it if its model has the same weights.
    To check this, the first one reads all weights, which takes about one second per gigabyte, and so does pickling.

    Attributes:
        features: The features, on the model's device.
        pixels: The resized and normalized image, `(3, H, W)`.
        size: (height, width) of the original image in pixels; the label map has this size.
        inference, head, patch_source, refine_features: The settings of the encoding; the segmentation uses the same
            settings.
    """

    features: Dinov3SegImageFeatures
    pixels: torch.Tensor
    size: tuple[int, int]
    inference: Inference
    head: Head
    patch_source: PatchSource
    refine_features: bool
    _model: EncodingModel

    @classmethod
    def of(
        cls, features: Dinov3SegImageFeatures, prepared: PreparedImage, settings: InferenceSettings, model: nn.Module
    ) -> "EncodedImage":
        """Returns an encoded image with the features that `model`, with its current weights, computed.

        Args:
            features: The features of `prepared`.
            prepared: The image.
            settings: The settings of the encoding, resolved (see `InferenceSettings.resolved`).
            model: The model that computed the features.
        """
        assert settings.head is not None and settings.patch_source is not None  # resolved
        assert settings.refine_features is not None
        return cls(
            features,
            prepared.pixels,
            prepared.size,
            prepared.inference,
            settings.head,
            settings.patch_source,
            settings.refine_features,
            EncodingModel(model),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the features on the CPU, because another process may have no such device."""
        return {**vars(self), "features": _mapped(self.features, torch.Tensor.cpu), "pixels": self.pixels.cpu()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "EncodedImage":
        return replace(self, features=copy.deepcopy(self.features, memo), pixels=copy.deepcopy(self.pixels, memo))

    def __copy__(self) -> "EncodedImage":
        return replace(self)

    def features_on(self, device: torch.device) -> Dinov3SegImageFeatures:
        """Returns the features on a device, which may have been another one before pickling."""
        return _mapped(self.features, lambda tensor: tensor.to(device))

    def check(self, model: nn.Module, settings: InferenceSettings) -> None:
        """Checks that this model, with its current weights, computed the features with these settings.

        Raises:
            ValueError: If another model or other weights computed the features, or if the settings require another
                head, other patch tokens or other refinement.
        """
        # the full head always uses refined features
        names = ("head", "patch_source") if self.head == "full" else ("head", "patch_source", "refine_features")
        if any(getattr(settings, name) not in (None, getattr(self, name)) for name in names):
            raise ValueError(
                f'The image was encoded with head="{self.head}", patch_source="{self.patch_source}" and '
                f"refine_features={self.refine_features}; expected the same settings as in the encoding. Encode the "
                "image again to change them."
            )
        if not self._model.is_now(model):
            raise ValueError("The image was encoded by another model or with other weights. Encode the image again.")


@dataclass(frozen=True, eq=False)
class LabeledImage:
    """The segmentation of an image.

    Attributes:
        label_map: int32 `(H, W)`: the label of each pixel of the original image; -1 for no label.
        score_map: float32 `(H, W)`: the best score of each pixel.
        scores: float16 `(C, h, w)`: the scores of all labels at the resolution of the model, if requested.
        confidence: The confidence of the best and of the second label, for `background="auto"`.
        names: The names of the labels.
    """

    label_map: np.ndarray
    score_map: np.ndarray
    scores: np.ndarray | None = None
    confidence: Confidence | None = None
    names: tuple[str, ...] = ()

    def mean_scores(self, num_labels: int) -> dict[int, float]:
        """Returns the labels found, in their order, with the mean score of their pixels."""
        counts, sums = np.zeros(num_labels + 1, np.int64), np.zeros(num_labels + 1)
        # a strip of rows at a time, because `np.bincount` makes copies with 8 bytes per pixel
        num_rows = max(1, MAX_COUNTED_PIXELS // self.label_map.shape[1])
        for first in range(0, len(self.label_map), num_rows):
            rows = slice(first, first + num_rows)
            places = self.label_map[rows].ravel() + 1  # pixels without a label are counted at index 0
            counts += np.bincount(places, minlength=len(counts))
            sums += np.bincount(places, weights=self.score_map[rows].ravel(), minlength=len(sums))
        return {index: float(sums[index + 1] / counts[index + 1]) for index in np.flatnonzero(counts[1:]).tolist()}


def indices_by_kind(
    images: Sequence[PreparedImage | EncodedImage], texts: Sequence[object] | None = None
) -> list[list[int]]:
    """Returns the indices of images that can be in the same batch, together.

    Args:
        images: The images.
        texts: What identifies the labels of each image. Default: all have the same.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        text = None if texts is None else texts[index]
        if isinstance(image, EncodedImage):
            groups["encoded", index].append(index)
        else:
            shapes = tuple(tuple(tensor.shape) for tensor in image.tensors.values())
            groups[text, image.inference, shapes].append(index)
    return list(groups.values())


def features_of(batch: Dinov3SegImageFeatures, index: int) -> Dinov3SegImageFeatures:
    """Returns the features of one image of a batch, as a batch of one, without the memory of anything else."""

    def own(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor[index : index + 1]
        # a view would keep the batch in memory, or as the CLS token all tokens
        return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor

    return _mapped(batch, own)


def _mapped(
    features: Dinov3SegImageFeatures, function: Callable[[torch.Tensor], torch.Tensor]
) -> Dinov3SegImageFeatures:
    """Returns features with a function of each tensor."""

    def one(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return function(value)
        return tuple(map(one, value)) if isinstance(value, tuple) else value

    return Dinov3SegImageFeatures(**{name: one(value) for name, value in features.items()})
