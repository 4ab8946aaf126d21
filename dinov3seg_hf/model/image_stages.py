# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The stages of an image in the pipeline: prepared for the model, encoded by the model, labeled."""

import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .background import Confidence
from .fingerprints import weights_key
from .inference_settings import Head, Inference, InferenceSettings, PatchSource
from .modeling_dinov3seg import Dinov3SegImageFeatures


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


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """The features of an image, independent of any text. A pipeline accepts it instead of the original image.

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
    _model: weakref.ref[nn.Module]
    _weights: tuple[object, ...]

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
            weakref.ref(model),
            weights_key(model),
        )

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
        if self._model() is not model or self._weights != weights_key(model):
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
