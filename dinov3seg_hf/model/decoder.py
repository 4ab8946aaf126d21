# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The decoder: light convolutions upsample the refined correlation of each class beyond the patch grid.

Shapes: B images, C classes, K text halves, h x w patches, E channels of a refined correlation.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import maybe_autocast

from .chunking import map_chunks
from .configuration_dinov3seg import Dinov3SegConfig


class Dinov3SegPriorConvolution(nn.Conv2d):
    """The convolution of a prior feature in a decoder step; zero at initialization.

    The prior is the same for all classes of an image. At first, it would drown the differences between classes.
    """


class Dinov3SegDecoderStep(GradientCheckpointingLayer):
    """One decoder step: a transposed convolution that upsamples by 2, and two convolutions.

    The first of the two convolutions also uses the prior feature of the new size.
    """

    def __init__(self, in_size: int, out_size: int, prior_size: int):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_size, out_size, kernel_size=2, stride=2)
        self.convolution1 = nn.Conv2d(out_size, out_size, kernel_size=3, padding=1)
        # A concatenation, computed as a sum, because the term of the prior is the same for all classes of an image.
        self.prior_convolution = Dinov3SegPriorConvolution(prior_size, out_size, kernel_size=3, padding=1, bias=False)
        num_groups = next(count for count in range(max(1, out_size // 16), 0, -1) if out_size % count == 0)
        self.norm1 = nn.GroupNorm(num_groups, out_size)
        self.convolution2 = nn.Conv2d(out_size, out_size, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(num_groups, out_size)

    def guide(self, prior_feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Computes what is the same for all classes of an image.

        Args:
            prior_feature: `(B, prior, 2h, 2w)`.

        Returns:
            The term of the prior, `(B, out, 2h, 2w)`; and, where it is used, the kernel of the upsampling and the
            first convolution as one convolution, whose constant term is then part of the term of the prior.
        """
        guidance = self.prior_convolution(prior_feature)
        if not self._fuses(guidance):
            return guidance, None
        assert self.upsample.bias is not None  # plain
        bias = self.upsample.bias.view(1, -1, 1, 1).expand(1, -1, *guidance.shape[-2:])
        return guidance + self.convolution1(bias), fused_kernel(self.upsample.weight, self.convolution1.weight)

    def _fuses(self, like: torch.Tensor) -> bool:
        """On a CPU, without gradients, if both layers are those of `__init__`: others need their calls."""
        if like.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        is_single = like.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return (
            is_single
            and _is_plain(self.upsample, nn.ConvTranspose2d, UPSAMPLING)
            and _is_plain(self.convolution1, nn.Conv2d, CONVOLUTION)
        )

    def forward(
        self, hidden_states: torch.Tensor, guidance: torch.Tensor, kernel: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Upsamples maps by 2.

        Args:
            hidden_states: `(B C, in, h, w)`.
            guidance: `(B, out, 2h, 2w)`, from `guide`.
            kernel: From `guide`.

        Returns:
            `(B C, out, 2h, 2w)`.
        """
        if kernel is None:
            # The number of classes is left open: a traced graph would keep what `len` returns.
            hidden_states = self.convolution1(self.upsample(hidden_states)).unflatten(0, (len(guidance), -1))
            hidden_states = (hidden_states + guidance[:, None]).flatten(0, 1)
        else:
            guidance = guidance.repeat_interleave(len(hidden_states) // len(guidance), dim=0)
            hidden_states = add_fused_upsampling(guidance, hidden_states, kernel)
        hidden_states = F.relu(self.norm1(hidden_states), inplace=True)
        return F.relu(self.norm2(self.convolution2(hidden_states)), inplace=True)


# The layers that `fused_kernel` stands for.
UPSAMPLING = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0)}
CONVOLUTION = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1)}


def _is_plain(
    layer: nn.Conv2d | nn.ConvTranspose2d, kind: type[nn.Module], geometry: Mapping[str, tuple[int, int]]
) -> bool:
    """Whether a layer computes what its weights say, and nobody listens to its calls.

    Adapters and parametrizations are other classes. Quantized weights are tensors of other classes, and offloaded ones
    are on other devices. `weight_norm`, `prune` and all who read activations add hooks; accelerate sets a `forward`.
    """
    if type(layer) is not kind or layer.bias is None:
        return False
    # torch has no public list of hooks; they are attributes of the layer: "_forward_hooks" and "_forward_pre_hooks"
    is_watched = any(value for name, value in vars(layer).items() if "forward" in name)
    weights = layer.weight, layer.bias
    return (
        not is_watched
        and all(type(weight) in (nn.Parameter, torch.Tensor) and weight.device.type == "cpu" for weight in weights)
        and all(getattr(layer, name) == value for name, value in geometry.items())
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
    )


# A transposed convolution (2 x 2, stride 2) and a convolution (3 x 3) are one transposed convolution (4 x 4, stride 2).
# Its results in even rows use rows 3 and 1 of the kernel for the input rows above and at their place; those in odd rows
# use rows 2 and 0 for the rows at their place and below. Columns are alike.
KERNEL_ROWS = ((3, 1), (2, 0))


def fused_kernel(upsample: torch.Tensor, convolution: torch.Tensor) -> torch.Tensor:
    """Returns the kernel of both layers as one convolution of the input, which computes 2 x 2 results at each place.

    It takes less time than the two (`benchmarks/decoder.py`), which also hold the upsampled maps.

    Args:
        upsample: The weight of the transposed convolution, `(in, middle, 2, 2)`.
        convolution: The weight of the convolution, `(out, middle, 3, 3)`.

    Returns:
        `(4 out, in, 2, 2)`: even and odd rows, even and odd columns, channels.
    """
    kernel = F.conv2d(upsample, convolution, padding=2)  # (in, out, 4, 4)
    rows = torch.tensor(KERNEL_ROWS, device=kernel.device)
    kernel = kernel[:, :, rows[:, None, :, None], rows[None, :, None, :]]  # (in, out, 2, 2, 2, 2)
    return kernel.permute(2, 3, 1, 0, 4, 5).flatten(0, 2)


def add_fused_upsampling(result: torch.Tensor, hidden_states: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Adds maps `(N, in, h, w)`, upsampled and convolved, without biases, to `(N, out, 2h, 2w)`, in place."""
    height, width = hidden_states.shape[-2:]
    parts = F.conv2d(hidden_states, kernel, padding=1).unflatten(1, (2, 2, -1))  # (N, 2, 2, out, h + 1, w + 1)
    for row, column in itertools.product(range(2), repeat=2):
        part = parts[:, row, column, :, row : row + height, column : column + width]
        result[..., row::2, column::2] += part
    return result


class Dinov3SegDecoder(nn.Module):
    """The decoder: one logit per class at `2**steps` times the resolution of the patch grid."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        sizes = [config.correlation_hidden_size, *config.decoder_hidden_sizes]
        self.steps = nn.ModuleList(
            Dinov3SegDecoderStep(in_size, out_size, prior_size)
            for in_size, out_size, prior_size in zip(sizes, sizes[1:], config.decoder_prior_sizes)
        )
        self.classifier = nn.Conv2d(sizes[-1], 1, kernel_size=3, padding=1)
        # The decoder output is added to the weighted correlations. Training therefore starts from the prediction of the
        # zero-shot head, and class names that are not in the training data keep their similarity in dino.txt.
        self.use_correlation_residual = config.use_correlation_residual
        if config.use_correlation_residual:
            self.correlation_weight = nn.Parameter(torch.empty(2 if config.use_global_text else 1))
            self.correlation_offset = nn.Parameter(torch.empty(1))

    def forward(
        self,
        hidden_states: torch.Tensor,
        correlation: torch.Tensor,
        scale: torch.Tensor,
        prior_features: tuple[torch.Tensor, ...],
        chunk_size: int | None = None,
    ) -> torch.Tensor:
        """Decodes refined correlations to logits; classes are independent.

        Args:
            hidden_states: The refined correlations, `(B, C, h, w, E)`.
            correlation: The centered correlations, `(B, C, K, h', w')`, which are weighted and added to the logits;
                h' x w' is the grid of the refined features.
            scale: The inverse temperature, a factor of the weighted correlations.
            prior_features: For step i, `(B, decoder_prior_sizes[i], 2**(i+1) h, 2**(i+1) w)`.
            chunk_size: Number of classes that are decoded at once. Default: all.

        Returns:
            Logits, float32 `(B, C, 2**steps h, 2**steps w)`.
        """
        steps = cast(Sequence[Dinov3SegDecoderStep], self.steps)
        guides = [step.guide(feature) for step, feature in zip(steps, prior_features)]
        decode = partial(self._decode, scale=scale, guides=guides)
        return map_chunks(decode, hidden_states, correlation, dim=1, chunk_size=chunk_size)

    def _decode(
        self,
        hidden_states: torch.Tensor,
        correlation: torch.Tensor,
        scale: torch.Tensor,
        guides: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
    ) -> torch.Tensor:
        batch_size, num_classes = hidden_states.shape[:2]
        hidden_states = hidden_states.permute(0, 1, 4, 2, 3).flatten(0, 1)  # (B C, E, h, w)
        for step, guide in zip(self.steps, guides):
            hidden_states = step(hidden_states, *guide)
        logits = self.classifier(hidden_states).reshape(batch_size, num_classes, *hidden_states.shape[-2:])
        if not self.use_correlation_residual:
            return logits.float()
        return logits.float() + self.correlation_logits(correlation, scale, logits.shape[-2:])

    def correlation_logits(
        self, correlation: torch.Tensor, scale: torch.Tensor, size: tuple[int, int] | torch.Size
    ) -> torch.Tensor:
        """The logits of the correlations alone, which the decoder's output is added to; classes are independent.

        Without the residual connection, which has the weights, they are the scaled correlations with the local half.

        Args:
            correlation: The centered correlations, `(B, C, K, h', w')`.
            scale: The inverse temperature.
            size: (H, W) of the result.

        Returns:
            Float32 `(B, C, H, W)`.
        """
        with maybe_autocast(correlation.device.type, enabled=False):  # in float32 like the correlations
            if self.use_correlation_residual:
                cosine = torch.einsum("bckhw,k->bchw", correlation.float(), self.correlation_weight.float())
            else:
                cosine = correlation[:, :, -1].float()
            cosine = F.interpolate(cosine, size=size, mode="bilinear", align_corners=False)
            offset = self.correlation_offset.float() if self.use_correlation_residual else 0.0
            return scale.float() * (cosine - offset)
