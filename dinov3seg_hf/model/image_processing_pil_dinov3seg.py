# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The image processor on PIL and numpy: works wherever the model does, and is the default."""

from typing import Any

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.processing_utils import Unpack

from .image_processing_dinov3seg import Dinov3SegImageProcessing, Dinov3SegImageProcessorKwargs


class Dinov3SegImageProcessorPil(Dinov3SegImageProcessing, PilBackend):
    """Image processor of dinov3.seg on PIL. Its parameters are in `Dinov3SegImageProcessorKwargs`."""

    def __init__(self, **kwargs: Unpack[Dinov3SegImageProcessorKwargs]):
        super().__init__(**kwargs)  # type: ignore[misc]  # options of its own pass through the library's **kwargs

    def _to_backend(self, tensor: torch.Tensor, device: Any) -> np.ndarray:
        return tensor.cpu().numpy()


__all__ = ["Dinov3SegImageProcessorPil"]
