# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The stages of an image on its way through the pipeline: prepared for the model, encoded by it, labeled."""

import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .fingerprints import weights_key
from .inference_settings import Head, Inference, InferenceSettings, PatchSource
from .modeling_dinov3seg import Dinov3SegImageFeatures


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as the model takes it in.

    Attributes:
        tensors: Of the image processor: `pixel_values` `(1, 3, H, W)`; with windows `window_pixel_values` and
            `window_boxes`.
        size: (height, width) of the original image in pixels.
        inference: How it will be segmented.
    """

    tensors: dict[str, torch.Tensor]
    size: tuple[int, int]
    inference: Inference


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image as the model knows it before any text. A pipeline takes it in the place of the image it was made of.

    Attributes:
        features: What the model computed, on the model's device.
        size: (height, width) of the original image in pixels; the label map comes at this size.
        inference, head, patch_source: How it was encoded, and so how it will be segmented.
    """

    features: Dinov3SegImageFeatures
    size: tuple[int, int]
    inference: Inference
    head: Head
    patch_source: PatchSource
    _model: weakref.ref[nn.Module]
    _weights: tuple[object, ...]

    @classmethod
    def of(
        cls, features: Dinov3SegImageFeatures, prepared: PreparedImage, settings: InferenceSettings, model: nn.Module
    ) -> "EncodedImage":
        """What `model`, as it is now, computed of a prepared image under resolved settings."""
        assert settings.head is not None and settings.patch_source is not None  # resolved
        return cls(
            features,
            prepared.size,
            prepared.inference,
            settings.head,
            settings.patch_source,
            weakref.ref(model),
            weights_key(model),
        )

    def check(self, model: nn.Module, settings: InferenceSettings) -> None:
        """
        Raises:
            ValueError: Another model made it, or other weights of it, or the settings ask for another head.
        """
        if settings.head not in (None, self.head) or settings.patch_source not in (None, self.patch_source):
            raise ValueError(
                f'The image was encoded with head="{self.head}" and patch_source="{self.patch_source}", which '
                "cannot be changed now. Encode it again."
            )
        if self._model() is not model or self._weights != weights_key(model):
            raise ValueError("The image was encoded by another model, or by other weights of it. Encode it again.")


@dataclass(frozen=True, eq=False)
class LabeledImage:
    """What the model says of an image.

    Attributes:
        label_map: int32 `(H, W)`, the label of every pixel of the original image, -1 for none.
        score_map: float32 `(H, W)`, its score.
        scores: float16 `(C, h, w)`, every label's score at the resolution of the model, where asked for.
    """

    label_map: np.ndarray
    score_map: np.ndarray
    scores: np.ndarray | None = None
