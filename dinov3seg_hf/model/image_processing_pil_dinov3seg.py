# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The PIL backend of the image processor. It uses PIL and numpy, works wherever the model works, and is the default."""

from typing import Any

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import SizeDict
from transformers.processing_utils import Unpack

from .image_processing_dinov3seg import Dinov3SegImageProcessing, Dinov3SegImageProcessorKwargs


class Dinov3SegImageProcessorPil(Dinov3SegImageProcessing, PilBackend):
    """Image processor of dinov3.seg on PIL. See `Dinov3SegImageProcessorKwargs` for the parameters."""

    def __init__(self, **kwargs: Unpack[Dinov3SegImageProcessorKwargs]):
        super().__init__(**kwargs)

    def _to_backend(self, tensor: torch.Tensor, device: Any) -> np.ndarray:
        return tensor.cpu().numpy()

    def resize(
        self, image: np.ndarray, size: SizeDict, resample: Any = None, reducing_gap: int | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Resizes `(C, H, W)` one channel after the other.

        PIL does the same with all channels at once, after copies that take more than twice the memory of the image.
        """
        resize = super().resize
        return np.concatenate([resize(channel[None], size, resample, reducing_gap, **kwargs) for channel in image])


__all__ = ["Dinov3SegImageProcessorPil"]
