# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Adds Gaussian noise to dino.txt's patch features during training: an augmentation, off by default.

dino.txt recognizes the classes of its own training so well that a head trained on clean features learns little more
than borders. With noise, the head must collect evidence over regions, which unseen classes require.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

# Cells per side of the coarse noise, which covers regions of several patches like the errors of dino.txt.
COARSE_CELLS = 4


class FeatureNoise:
    """Noise on the patch tokens of a vision tower, active only inside `using`.

    Args:
        vision_model: The vision tower; its output has `patch_tokens` `(B, D, h, w)`. Its state dict does not change.
        strength: Maximum noise, in units of the norm of a token; each image draws a random share of this maximum.
    """

    def __init__(self, vision_model: nn.Module, strength: float):
        self.strength = strength
        self._seeds: Sequence[int] | None = None
        vision_model.register_forward_hook(self._disturb)

    @contextmanager
    def using(self, seeds: Sequence[int]) -> Iterator[None]:
        """Turns the noise on, with one seed per image: the noise of an image does not depend on its batch."""
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
    """Adds noise to patch tokens: a random mix of independent noise per patch and noise that is smooth over patches.

    Args:
        patch_tokens: The clean features `(B, D, h, w)`.
        strength: Maximum noise level: root mean square of the noise on a token, relative to that of the token. Each
            image draws a random share of this maximum.
        seeds: One seed for each of the B images. The noise is drawn on the CPU, so it is the same on every device.
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
