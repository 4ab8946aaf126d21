# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Gaussian noise on dino.txt's patch features while the head trains: an augmentation, off by default.

dino.txt names what it was aligned on so well that a head trained on clean features learns borders and little else. With
noise the head has to gather evidence over regions, which is what classes it never saw need.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

# Cells along a side of the coarse noise: wrong over regions of several patches, as dino.txt itself is.
COARSE_CELLS = 4


class FeatureNoise:
    """Adds noise to the patch tokens of a vision tower, only inside `using`.

    Args:
        vision_model: Its output has `patch_tokens` `(B, D, h, w)`. Its state dict does not change.
        strength: Most noise, in units of a token's norm; each image draws its own share of it.
    """

    def __init__(self, vision_model: nn.Module, strength: float):
        self.strength = strength
        self._seeds: Sequence[int] | None = None
        vision_model.register_forward_hook(self._disturb)

    @contextmanager
    def using(self, seeds: Sequence[int]) -> Iterator[None]:
        """One seed for each image of the batches inside: noise does not depend on who shares a batch with whom."""
        self._seeds = seeds
        try:
            yield
        finally:
            self._seeds = None

    def _disturb(self, module: nn.Module, inputs: tuple, output):
        if self._seeds is not None and self.strength > 0:
            output.patch_tokens = add_noise(output.patch_tokens, self.strength, self._seeds)
        return output


def add_noise(patch_tokens: torch.Tensor, strength: float, seeds: Sequence[int]) -> torch.Tensor:
    """`(B, D, h, w)` with noise: a part that is new at every patch and a part that is smooth over several, mixed at
    random.

    Args:
        patch_tokens: The clean features.
        strength: The largest root mean square of an image's noise, in units of that of each token.
        seeds: One for each of the B images. Drawn on the CPU: the same numbers on every device.
    """
    num_channels, height, width = patch_tokens.shape[1:]
    noises = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        share, amount = torch.rand(2, generator=generator)
        fine = torch.randn(1, num_channels, height, width, generator=generator)
        coarse = torch.randn(1, num_channels, COARSE_CELLS, COARSE_CELLS, generator=generator)
        coarse = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
        coarse = coarse / coarse.std().clamp(min=1e-6)
        noises.append(strength * amount * (share.sqrt() * fine + (1 - share).sqrt() * coarse))
    noise = torch.cat(noises).to(patch_tokens.device, patch_tokens.dtype)
    return patch_tokens + noise * patch_tokens.norm(dim=1, keepdim=True) / num_channels**0.5
