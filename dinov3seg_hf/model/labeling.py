# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""From the score maps of an image to the label and the score of each pixel of the original image.

Shapes: C classes, h x w cells of the maps, H x W pixels of the resized image.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F

from .image_processing_dinov3seg import ScoreFunction
from .image_stages import EncodedImage, LabeledImage, PreparedImage
from .inference_settings import InferenceSettings
from .pixel_refinement import BAND_MAPS, neighbor_weights, refine_maps
from .windows import size_of


def label_pixels(
    maps: torch.Tensor,
    score_function: ScoreFunction,
    image: PreparedImage | EncodedImage,
    image_processor: Any,
    settings: InferenceSettings,
    return_scores: bool = False,
) -> LabeledImage:
    """Computes the label and the score of each pixel of the original image.

    Args:
        maps: `(C, h, w)`.
        score_function: How to turn the maps into scores; see `post_process_semantic_segmentation`.
        image: The image that the maps belong to.
        image_processor: The image processor, whose post-processing resizes the maps.
        settings: `threshold` and `refine`.
        return_scores: Whether to also return the scores of all labels, before `refine`.

    Returns:
        The labeled image, on the CPU.
    """
    label = label_refined_pixels if settings.refine == "pixels" else label_resized_maps
    labels, best = label(maps, score_function, image, image_processor)
    if settings.threshold is not None:
        labels = labels.masked_fill(best < settings.threshold, -1)
    scores = None
    if return_scores:
        activation = {"sigmoid": torch.sigmoid, "softmax": lambda logits: logits.softmax(dim=0), "none": lambda p: p}
        scores = activation[score_function](maps).half().cpu().numpy()
    return LabeledImage(labels.cpu().numpy(), best.cpu().numpy(), scores)


def label_resized_maps(
    maps: torch.Tensor, score_function: ScoreFunction, image: PreparedImage | EncodedImage, image_processor: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the winning label, int32, and its score, float32, of each pixel of the original image."""
    result = image_processor.post_process_semantic_segmentation(
        SimpleNamespace(logits=maps[None]),
        target_sizes=[image.size],
        score_function=score_function,
        return_scores=True,
    )[0]
    return result.segmentation, result.scores


def label_refined_pixels(
    maps: torch.Tensor, score_function: ScoreFunction, image: PreparedImage | EncodedImage, image_processor: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `label_resized_maps`, with score maps that follow the edges of the image.

    Only labels that win somewhere are refined, a few maps at a time.
    """
    pixels = image.pixels.to(maps.device)
    size = size_of(pixels)
    probabilities = shares_of(maps, score_function)
    winners = image_processor.post_process_semantic_segmentation(
        SimpleNamespace(logits=maps[None]), target_sizes=[size]
    )[0]
    weights = neighbor_weights(pixels)
    labels = torch.zeros(image.size, dtype=torch.int32, device=maps.device)
    best = torch.full(image.size, -1.0, device=maps.device)
    for present in winners.unique().long().split(BAND_MAPS):
        upsampled = F.interpolate(probabilities[present][None], size=size, mode="bilinear", align_corners=False)[0]
        refined = refine_maps(upsampled, weights)
        chunk_labels, chunk_best = label_resized_maps(refined, "none", image, image_processor)
        wins = chunk_best > best
        labels = torch.where(wins, present.to(torch.int32)[chunk_labels.long()], labels)
        best = torch.where(wins, chunk_best, best)
    return labels, best


def shares_of(maps: torch.Tensor, score_function: ScoreFunction) -> torch.Tensor:
    """Turns maps into shares of the labels, which sum to at most 1, so that averages of several pixels make sense.

    Sigmoids would be 1 for all similar names with high logits; their softmax, with one more outcome of logit 0 ("none
    of them"), keeps the order.
    """
    if score_function == "none":
        return maps
    if score_function == "softmax":
        return maps.softmax(dim=0)
    return F.pad(maps, (0, 0, 0, 0, 0, 1)).softmax(dim=0)[:-1]


__all__ = ["label_pixels"]
