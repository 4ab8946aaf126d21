# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""From the score maps of an image to the label and the score of each pixel of the original image.

Shapes: C classes, h x w cells of the maps, H x W pixels of the resized image.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from .background import measure_confidence, shows_none
from .calibration import Calibration
from .image_stages import EncodedImage, LabeledImage, PreparedImage
from .inference_settings import InferenceSettings
from .label_maps import ScoreFunction
from .pixel_refinement import neighbor_weights
from .refined_label_maps import label_and_score_refined
from .resizing import MAX_RESIZED_VALUES
from .windows import size_of

# How far "none of them" leads at most, in shares: the best label keeps 2e-9, which no sum of scores shows, but which
# the refinement can still tell from the shares of other labels.
MAX_LEAD = 20.0


@dataclass(frozen=True, eq=False)
class ScoreMaps:
    """The score maps of an image.

    Attributes:
        maps: `(C, h, w)`, float32: logits of the full head, cosine similarities of the zero-shot head, or
            probabilities.
        score_function: What turns the maps into scores: `"sigmoid"`, `"softmax"` or `"none"`.
        temperature: The temperature of the softmax.
    """

    maps: torch.Tensor
    score_function: ScoreFunction
    temperature: float = 1.0

    def scores(self) -> torch.Tensor:
        """The scores of all labels, `(C, h, w)`."""
        if self.score_function == "none":
            return self.maps
        return self.maps.sigmoid() if self.score_function == "sigmoid" else (self.maps / self.temperature).softmax(0)

    def shares(self, classes: torch.Tensor) -> torch.Tensor:
        """The shares of some labels, `(c, h, w)`, which sum to at most 1, so that averages of pixels make sense.

        Sigmoids would be 1 for all similar names with high logits; their softmax, with one more outcome of logit 0
        ("none of them"), keeps the order. Where no logit is above `-MAX_LEAD`, that outcome is only so far above the
        best one: shares that underflow to 0 have no order.

        Args:
            classes: int64 `(c,)`, the labels. Exponentials of all labels are never in memory at once.
        """
        if self.score_function == "none":
            return self.maps[classes]
        largest, total = self.maps.amax(dim=0), torch.zeros_like(self.maps[0])
        if self.score_function == "sigmoid":
            none = (largest + MAX_LEAD).clamp(max=0)
            largest = torch.maximum(largest, none)
            total += (none - largest).exp()

        def exponentials(maps: torch.Tensor) -> torch.Tensor:
            return (maps - largest).div_(self.temperature).exp_()

        for maps in self.maps.split(max(1, MAX_RESIZED_VALUES // total.numel())):
            total += exponentials(maps).sum(dim=0)
        return exponentials(self.maps[classes]).div_(total)


def label_pixels(
    maps: ScoreMaps,
    image: PreparedImage | EncodedImage,
    image_processor: Any,
    settings: InferenceSettings,
    calibration: Calibration | None = None,
    return_scores: bool = False,
) -> LabeledImage:
    """Computes the label and the score of each pixel of the original image.

    Args:
        maps: The score maps.
        image: The image that the maps belong to.
        image_processor: The image processor, whose post-processing resizes the maps.
        settings: `threshold`, `refine` and `background`.
        calibration: The calibration of the labels, checked (`Calibration.check`).
        return_scores: Whether to also return the scores of all labels, before `refine`.

    Returns:
        The labeled image, on the CPU.

    Raises:
        ValueError: If `background` is "auto", there is no calibration, and the zero-shot head has fewer than three
            labels.
    """
    label = label_refined_pixels if settings.refine == "pixels" else label_resized_maps
    labels, best = label(maps, image, image_processor)
    confidence = None
    if settings.background == "auto" or (settings.background is None and calibration is not None):
        confidence = measure_confidence(maps.maps, maps.score_function, size_of(image.pixels))
        labels.masked_fill_(shows_none(confidence, maps.score_function, labels, calibration), -1)
    if settings.threshold is not None:
        labels.masked_fill_(best < settings.threshold, -1)
    scores = maps.scores().half().cpu().numpy() if return_scores else None
    return LabeledImage(labels.cpu().numpy(), best.cpu().numpy(), scores, confidence)


def label_resized_maps(
    maps: ScoreMaps, image: PreparedImage | EncodedImage, image_processor: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the winning label, int32, and its score, float32, of each pixel of the original image."""
    result = image_processor.post_process_semantic_segmentation(
        SimpleNamespace(logits=maps.maps[None]),
        target_sizes=[image.size],
        score_function=maps.score_function,
        temperature=maps.temperature,
        return_scores=True,
    )[0]
    return result.segmentation, result.scores


def label_refined_pixels(
    maps: ScoreMaps, image: PreparedImage | EncodedImage, image_processor: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `label_resized_maps`, with score maps that follow the edges of the image.

    Only labels that win somewhere are refined.
    """
    pixels = image.pixels.to(maps.maps.device)
    winners = image_processor.post_process_semantic_segmentation(
        SimpleNamespace(logits=maps.maps[None]), target_sizes=[size_of(pixels)]
    )[0]
    classes = winners.unique().long()
    return label_and_score_refined(maps.shares(classes), classes, neighbor_weights(pixels), image.size)


__all__ = ["MAX_LEAD", "ScoreMaps", "label_pixels"]
