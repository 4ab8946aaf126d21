# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The three graphs of an export, with the names and shapes of what they take and return.

An image is encoded once for any words, and words once for any images. The third graph, the head, segments. Does not
depend on a format.
"""

import copy
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from ..model.configuration_dinov3seg import Dinov3SegConfig
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation, Dinov3SegImageFeatures

# `torch.export` wants bounds; the graphs work beyond them, and below: a size of 1 would be a constant of the graph.
BOUNDS = {"rows": (2, 2**10), "columns": (2, 2**10), "classes": (2, 2**16), "prompts": (2, 2**10)}


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a graph.

    Attributes:
        name: The name in the graph.
        shape: Integers for constant axes; "classes", "prompts", "tokens", "rows" or "columns" (of patches), or a
            multiple such as "4 rows", for the others.
        content: A description.
        dtype: The name of the dtype.
    """

    name: str
    shape: tuple[int | str, ...]
    content: str
    dtype: str = "float32"


class ExportedGraph(nn.Module):
    """A part of the model, which takes the tensors `inputs` and returns the tensors `outputs` as a tuple.

    Args:
        model: The model, in eval mode. The graph shares its weights.
    """

    name: str
    parts: tuple[str, ...]  # the children of the model that the graph uses
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __init__(self, model: Dinov3SegForSemanticSegmentation):
        super().__init__()
        # a copy without the other parts, because a program contains all weights of its module
        weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = copy.deepcopy(model, weights)
        for name, _ in model.named_children():
            if name not in self.parts:
                setattr(self.model, name, None)
        self.training = model.training

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """Returns the axes without a constant size, for `torch.export` with the inputs as positional arguments."""
        bounds = {**BOUNDS, "tokens": (2, self.model.config.text_config.max_position_embeddings)}
        sizes = {name: Dim(name, min=low, max=high) for name, (low, high) in bounds.items()}
        shapes: list[dict[int, Any]] = []
        for tensor in self.inputs:
            shapes.append({})
            for axis, size in enumerate(tensor.shape):
                if isinstance(size, str):
                    factor, _, name = size.rpartition(" ")
                    shapes[-1][axis] = int(factor) * sizes[name] if factor else sizes[name]
        # variable arguments are one entry
        kinds = [parameter.kind for parameter in signature(self.forward).parameters.values()]
        num_named = sum(kind is not Parameter.VAR_POSITIONAL for kind in kinds)
        return (*shapes[:num_named], *([tuple(shapes[num_named:])] if len(shapes) > num_named else []))


class ImageGraph(ExportedGraph):
    """`get_image_features` of one image, in whole inference."""

    name = "image"
    parts = ("vision_model", "early_refinement", "semantic_prior")

    def __init__(self, model: Dinov3SegForSemanticSegmentation):
        super().__init__(model)
        patch, width = model.config.vision_config.patch_size, model.config.vision_config.hidden_size
        channels = model.config.vision_config.num_channels
        shape = (1, channels, _times(patch, "rows"), _times(patch, "columns"))
        self.inputs = (Tensor("pixel_values", shape, "an image, resized and normalized"),)
        self.outputs = (
            *image_features(model.config),
            Tensor("cls_embeds", (1, width), "the global image embedding, not normalized"),
        )

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.model.get_image_features(pixel_values)
        assert features.patch_features is not None and features.cls_embeds is not None
        refined = features.patch_features if features.refined_features is None else features.refined_features
        if features.guidance is None or features.prior_features is None:  # zero-shot head
            return refined, features.cls_embeds
        return refined, features.guidance, *features.prior_features, features.cls_embeds


class TextGraph(ExportedGraph):
    """`get_text_features` of the prompts of all classes."""

    name = "text"
    parts = ("text_model",)

    def __init__(self, model: Dinov3SegForSemanticSegmentation):
        super().__init__(model)
        shape = ("classes", "prompts", "tokens")
        self.inputs = (
            Tensor("input_ids", shape, "token ids of the prompts, padded on the right", "int64"),
            Tensor("attention_mask", shape, "1 for tokens, 0 for padding; all 0 for a prompt to ignore", "int64"),
        )
        self.outputs = (text_embeddings(model.config),)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model.get_text_features(input_ids, attention_mask),)


class HeadGraph(ExportedGraph):
    """Everything after the encoders: from the features of an image and the embeddings of classes to logits."""

    name = "head"
    parts = ("correlation_embedding", "late_refinement", "decoder")

    def __init__(self, model: Dinov3SegForSemanticSegmentation):
        super().__init__(model)
        config = model.config
        self.inputs = (text_embeddings(config), *image_features(config))
        if config.head == "full":
            scale, content = 2 ** len(config.decoder_hidden_sizes), "logits; a sigmoid makes them scores"
        else:
            scale, content = _scale_of_features(config), "cosine similarities"
        self.outputs = (Tensor("logits", (1, "classes", _times(scale, "rows"), _times(scale, "columns")), content),)

    def forward(
        self,
        text_embeds: torch.Tensor,
        features: torch.Tensor,
        guidance: torch.Tensor | None = None,
        *prior_features: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        image = Dinov3SegImageFeatures(
            cls_embeds=features[:, :, 0, 0],  # the logits do not depend on it
            patch_features=features,
            refined_features=features,
            guidance=guidance,
            prior_features=prior_features,
        )
        # the image graph has chosen and refined the features of the zero-shot head
        return (self.model(image_features=image, text_embeds=text_embeds, refine_features=False).logits,)


def image_features(config: Dinov3SegConfig) -> tuple[Tensor, ...]:
    """Returns what the image graph computes for the head graph."""
    scale, width = _scale_of_features(config), config.vision_config.hidden_size
    shape = (1, width, _times(scale, "rows"), _times(scale, "columns"))
    features = Tensor("features", shape, "features of the image, aligned with text")
    if config.head == "dinotxt":
        return (features,)
    guidance = Tensor(
        "guidance", (1, config.guidance_hidden_size, "rows", "columns"), "the image guidance of the late refinement"
    )
    prior = [
        Tensor(
            f"prior_features_{step}",
            (1, size, _times(2 ** (step + 1), "rows"), _times(2 ** (step + 1), "columns")),
            f"features of the semantic prior for decoder step {step}",
        )
        for step, size in enumerate(config.decoder_prior_sizes)
    ]
    return features, guidance, *prior


def text_embeddings(config: Dinov3SegConfig) -> Tensor:
    """Returns what the text graph computes for the head graph."""
    content = "the normalized global and local embedding of each class"
    return Tensor("text_embeds", ("classes", 2, config.vision_config.hidden_size), content)


def graphs_of(model: Dinov3SegForSemanticSegmentation) -> tuple[ExportedGraph, ...]:
    """Returns the image, text and head graph of a model, for its default head."""
    return ImageGraph(model), TextGraph(model), HeadGraph(model)


def _scale_of_features(config: Dinov3SegConfig) -> int:
    refined = config.use_early_refinement and (config.head == "full" or config.refine_features)
    return config.early_refinement_scale if refined else 1


def _times(factor: int, axis: str) -> str:
    return axis if factor == 1 else f"{factor} {axis}"
