# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""dinov3.seg (arXiv 2603.19531): `forward` reads as the paper's figure 2.

The model knows pixels, token ids and embeddings; it holds no tokenizer, no vocabulary, no cache and no file path.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .chunking import map_chunks
from .configuration_dinov3seg import Dinov3SegConfig
from .correlation import Dinov3SegCorrelationEmbedding, Dinov3SegTextThreshold, correlate
from .decoder import Dinov3SegDecoder
from .dinotxt import Dinov3SegVisionTower, encode_prompts
from .early_refinement import Dinov3SegEarlyRefinement
from .inference_settings import Head, PatchSource, choose_head, choose_patch_source
from .late_refinement import Dinov3SegLateRefinement, Dinov3SegSpatialLayer
from .semantic_prior import Dinov3SegPriorOutput, Dinov3SegSemanticPrior
from .windows import merge_windows, size_of

# Windows that go through the vision tower at a time outside training: bounds memory on large images.
WINDOW_BATCH_SIZE = 16


@dataclass
class Dinov3SegImageFeatures(ModelOutput):
    """
    All that the model knows of an image, before any text: reusable with any vocabulary.

    cls_embeds (`torch.Tensor` of shape `(batch_size, hidden_size)`):
        The global image embedding (the CLS token after the vision head), not normalized.
    patch_features (`torch.Tensor` of shape `(batch_size, hidden_size, height, width)`):
        dino.txt's patch tokens, fused with those of the windows where there are windows.
    refined_features (`torch.Tensor` of shape `(batch_size, hidden_size, height, width)`, *optional*):
        After early refinement. `None` for the zero-shot head.
    guidance (`torch.Tensor` of shape `(batch_size, guidance_hidden_size, height, width)`, *optional*),
    prior_features (`tuple(torch.Tensor)`, *optional*):
        The semantic prior's. `None` for the zero-shot head.
    hidden_states, attentions (`tuple(torch.Tensor)`, *optional*):
        The backbone's for the global view, where asked for.
    """

    cls_embeds: torch.Tensor | None = None
    patch_features: torch.Tensor | None = None
    refined_features: torch.Tensor | None = None
    guidance: torch.Tensor | None = None
    prior_features: tuple[torch.Tensor, ...] | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class Dinov3SegOutput(ModelOutput):
    """
    loss (`torch.Tensor` of shape `(1,)`, *optional*, returned when `labels` are given):
        Sigmoid cross-entropy over pixels and classes.
    logits (`torch.Tensor` of shape `(batch_size, num_classes, logits_height, logits_width)`):
        Full head: before the sigmoid, at a fraction of the patch size. Zero-shot head: cosines, at the grid of patches.
    text_embeds (`torch.Tensor` of shape `(num_classes, 2, hidden_size)`):
        The normalized [global, local] embeddings that were used.
    image_embeds (`torch.Tensor` of shape `(batch_size, hidden_size)`):
        The global image embedding, normalized: its dot product with the global half is the image-level score.
    hidden_states, attentions (`tuple(torch.Tensor)`, *optional*):
        The backbone's for the global view.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class Dinov3SegPreTrainedModel(PreTrainedModel):
    """What loading, saving and initializing need to know of the model."""

    config: Dinov3SegConfig
    base_model_prefix = "dinov3seg"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules: set[str] | list[str] | None = [
        "DINOv3ViTLayer",
        "CLIPEncoderLayer",
        "SamVisionLayer",
        "Dinov3SegSpatialLayer",
        "Dinov3SegClassLayer",
    ]
    _supports_sdpa = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The trained parts; dino.txt and the prior encoder initialize themselves."""
        super()._init_weights(module)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, Dinov3SegEarlyRefinement):
            # half of the weight on the patch itself, the other half on its neighbors
            init.constant_(module.self_bias, torch.log(torch.tensor(max(module.window_size**2 - 1, 1.0))).item())
        elif isinstance(module, Dinov3SegTextThreshold):
            init.zeros_(module.weight)
        elif isinstance(module, Dinov3SegSpatialLayer):
            init.trunc_normal_(module.relative_bias, std=self.config.initializer_range)
        elif isinstance(module, Dinov3SegDecoder):
            # starts as the zero-shot head (local half), but softer than dino.txt's own temperature, which is that of a
            # softmax over classes and not of a sigmoid
            init.copy_(module.correlation_weight, torch.tensor([0.0, 0.2])[-module.correlation_weight.shape[0] :])
            init.constant_(module.correlation_offset, 0.1)
            init.zeros_(module.classifier.weight)
        elif isinstance(module, Dinov3SegForSemanticSegmentation):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class Dinov3SegForSemanticSegmentation(Dinov3SegPreTrainedModel):
    """Open-vocabulary semantic segmentation: images and texts in, a logit for every text at every position out.

    Args:
        config: The architecture; `Dinov3SegConfig()` has the paper's sizes.
    """

    def __init__(self, config: Dinov3SegConfig):
        super().__init__(config)
        self.vision_model = Dinov3SegVisionTower(config)
        self.text_model = CLIPTextModelWithProjection._from_config(config.text_config)
        # logarithm of the inverse temperature with which dino.txt was aligned; scales the zero-shot head's
        # probabilities
        self.logit_scale = nn.Parameter(torch.empty(1))  # FSDP takes no scalars

        self.early_refinement = Dinov3SegEarlyRefinement(config) if config.use_early_refinement else None
        self.semantic_prior = Dinov3SegSemanticPrior(config)
        self.correlation_embedding = Dinov3SegCorrelationEmbedding(config)
        self.late_refinement = Dinov3SegLateRefinement(config)
        self.decoder = Dinov3SegDecoder(config)

        self._encoders_frozen = False
        self.post_init()
        # FSDP refuses names of layers that are not there: CLIP's of images, and without SAM its own
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = present.intersection(self._no_split_modules or ())

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.backbone.embeddings.patch_embeddings

    # --- frozen parts ------------------------------------------------------------------------------------------------

    @property
    def encoders(self) -> list[nn.Module]:
        """dino.txt (image and text) and the prior encoder: what the paper keeps frozen."""
        encoders = [self.vision_model, self.text_model]
        return encoders if self.semantic_prior.encoder is None else [*encoders, self.semantic_prior.encoder]

    def freeze_encoders(self) -> "Dinov3SegForSemanticSegmentation":
        """Takes dino.txt and the prior encoder out of training: no gradients, eval mode whatever `train()` says.

        Eval mode matters: DINOv3 augments its rotary coordinates while training.
        """
        for encoder in self.encoders:
            encoder.requires_grad_(False).eval()
        self.logit_scale.requires_grad_(False)
        self._encoders_frozen = True
        return self

    def train(self, mode: bool = True) -> "Dinov3SegForSemanticSegmentation":
        super().train(mode)
        if self._encoders_frozen:
            for encoder in self.encoders:
                encoder.eval()
        return self

    # --- encoding ----------------------------------------------------------------------------------------------------

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Text embeddings of classes, once a vocabulary.

        Args:
            input_ids: `(C, P, L)` long, P prompts a class, or `(C, L)`.
            attention_mask: Same shape; a prompt whose mask is all zero is padding. Optional.

        Returns:
            `(C, 2, D)`, of unit length: [global, local].

        Raises:
            ValueError: If the shapes are other than these.
        """
        if input_ids.ndim == 2:
            input_ids = input_ids[:, None]
            attention_mask = None if attention_mask is None else attention_mask[:, None]
        if input_ids.ndim != 3 or 0 in input_ids.shape:
            raise ValueError(
                f"input_ids has shape {tuple(input_ids.shape)}; expected (classes, prompts, length) or (classes, "
                "length), none of them 0, as the processor makes them from a list of class names."
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}; they "
                "must be equal."
            )
        longest = self.config.text_config.max_position_embeddings
        if input_ids.shape[-1] > longest:
            raise ValueError(
                f"A prompt is {input_ids.shape[-1]} tokens long; the text tower reads at most {longest}. Shorten the "
                "class name."
            )
        return encode_prompts(self.text_model, input_ids, attention_mask)

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        window_pixel_values: torch.Tensor | None = None,
        window_boxes: torch.Tensor | None = None,
        head: Head | None = None,
        patch_source: PatchSource | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Dinov3SegImageFeatures:
        """All that does not depend on text: dino.txt, local-global fusion, early refinement, semantic prior.

        Args:
            pixel_values: `(B, 3, H, W)`, the global view.
            window_pixel_values: `(B, N, 3, S, S')`, windows of it; see `plan_windows`. Optional.
            window_boxes: `(N, 4)`: top, left, height, width of each window in pixels of `pixel_values`.
            head: `"full"` or `"dinotxt"`; the zero-shot head needs neither refinement nor prior.
            patch_source: `"head"` or `"backbone"`.
            **kwargs: For the backbone: `output_hidden_states`, `output_attentions`.

        Raises:
            ValueError: If shapes disagree, or a full head is asked for patch tokens that it was not trained on.
        """
        head, patch_source = choose_head(self.config, head), choose_patch_source(self.config, patch_source)
        self._check_images(pixel_values, window_pixel_values, window_boxes)
        if patch_source == "backbone" and head == "full" and self.config.patch_source != "backbone":
            raise ValueError(
                'patch_source="backbone" was asked of a full head that was trained on patch_source="head": '
                'use head="dinotxt", or a checkpoint whose config says patch_source="backbone".'
            )
        needs_states = head == "full" and self.semantic_prior.encoder is None
        wanted_states = kwargs.get("output_hidden_states")
        wanted_states = self.config.output_hidden_states if wanted_states is None else wanted_states
        if needs_states:
            kwargs["output_hidden_states"] = True

        # (B, 3, H, W) -> (B, D, h, w)
        vision = self.vision_model(pixel_values, patch_source=patch_source, **kwargs)
        patch_features = vision.patch_tokens
        if window_pixel_values is not None and window_boxes is not None:
            local_features = self._encode_windows(
                window_pixel_values, window_boxes, pixel_values, patch_features, patch_source
            )
            patch_features = (patch_features + local_features) / 2

        features = Dinov3SegImageFeatures(
            cls_embeds=vision.cls_token,
            patch_features=patch_features,
            hidden_states=choose_states(vision.hidden_states, wanted_states),
            attentions=vision.attentions,
        )
        if head == "full":
            features.refined_features = patch_features
            if self.early_refinement is not None:
                features.refined_features = self.early_refinement(patch_features, pixel_values.to(patch_features.dtype))
            stem_maps = self.vision_model.stem_maps(pixel_values) if needs_states else ()
            prior: Dinov3SegPriorOutput = self.semantic_prior(
                pixel_values, vision.hidden_states, stem_maps, size_of(patch_features)
            )
            features.guidance, features.prior_features = prior.guidance, prior.features
        return features

    def _encode_windows(
        self,
        window_pixel_values: torch.Tensor,
        window_boxes: torch.Tensor,
        pixel_values: torch.Tensor,
        patch_features: torch.Tensor,
        patch_source: PatchSource,
    ) -> torch.Tensor:
        """Windows -> their features at their places, averaged where they overlap, (B, D, h, w)."""
        batch_size, num_windows = window_pixel_values.shape[:2]
        windows = window_pixel_values.flatten(0, 1)
        chunks = windows.split(windows.shape[0] if self.training else WINDOW_BATCH_SIZE)
        tokens = torch.cat([self.vision_model(chunk, patch_source=patch_source).patch_tokens for chunk in chunks])
        return merge_windows(
            tokens.unflatten(0, (batch_size, num_windows)),
            window_boxes,
            output_size=size_of(patch_features),
            source_size=size_of(pixel_values),
        )

    # --- the figure --------------------------------------------------------------------------------------------------

    @can_return_tuple  # type: ignore[untyped-decorator]  # the library's
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        window_pixel_values: torch.Tensor | None = None,
        window_boxes: torch.Tensor | None = None,
        image_features: Dinov3SegImageFeatures | None = None,
        labels: torch.Tensor | None = None,
        head: Head | None = None,
        patch_source: PatchSource | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Dinov3SegOutput:
        r"""
        Args:
            pixel_values: `(B, 3, H, W)`, normalized, any H and W.
            input_ids: `(C, P, L)` long, P prompts for each of C classes.
            attention_mask: `(C, P, L)`; a prompt whose mask is all zero is padding.
            text_embeds: `(C, 2, D)` from `get_text_features`, in place of `input_ids`.
            window_pixel_values: `(B, N, 3, S, S')`, windows for local-global inference.
            window_boxes: `(N, 4)` long: top, left, height, width of each window in pixels of `pixel_values`.
            image_features: From `get_image_features`, in place of pixels and windows.
            labels: `(B, H', W')` long, a negative value is ignored; or `(B, C, H', W')`, one target between 0 and 1 a
                class, for words that overlap.
            head: `"full"` or `"dinotxt"` (zero-shot); the configuration's unless given.
            patch_source: `"head"` or `"backbone"`; the configuration's unless given.
            **kwargs: For the backbone: `output_hidden_states`, `output_attentions`; and `return_dict`.

        Raises:
            ValueError: If the inputs contradict each other or have other shapes.
        """
        head, patch_source = choose_head(self.config, head), choose_patch_source(self.config, patch_source)
        if (input_ids is None) == (text_embeds is None):
            given = "both" if text_embeds is not None else "neither"
            raise ValueError(f"Give exactly one of input_ids and text_embeds; got {given}.")
        if (pixel_values is None) == (image_features is None):
            given = "both" if image_features is not None else "neither"
            raise ValueError(f"Give exactly one of pixel_values and image_features; got {given}.")

        if text_embeds is None:
            assert input_ids is not None  # exactly one of them, as checked
            text_embeds = self.get_text_features(input_ids, attention_mask)
        self._check_text_embeds(text_embeds)
        if image_features is None:
            assert pixel_values is not None
            image_features = self.get_image_features(
                pixel_values, window_pixel_values, window_boxes, head=head, patch_source=patch_source, **kwargs
            )

        assert image_features.patch_features is not None and image_features.cls_embeds is not None
        if head == "dinotxt":
            # zero-shot: cosine with the local half
            logits = correlate(image_features.patch_features, text_embeds[:, 1:])[:, :, 0]  # (B, C, h, w)
        else:
            logits = self._segment(image_features, text_embeds)

        return Dinov3SegOutput(
            loss=None if labels is None else segmentation_loss(logits, labels),
            logits=logits,
            text_embeds=text_embeds,
            image_embeds=F.normalize(image_features.cls_embeds, dim=-1),
            hidden_states=image_features.hidden_states,
            attentions=image_features.attentions,
        )

    def _segment(self, image_features: Dinov3SegImageFeatures, text_embeds: torch.Tensor) -> torch.Tensor:
        """Correlation, late refinement, decoder: -> (B, C, 2**steps h, 2**steps w)."""
        if image_features.refined_features is None:
            raise ValueError('image_features were made with head="dinotxt"; make them with head="full".')
        chunk_size = None if self.training else self.config.class_chunk_size
        halves = text_embeds if self.config.use_global_text else text_embeds[:, 1:]

        correlation = correlate(image_features.refined_features, halves)  # (B, C, K, h, w)
        correlation = self.correlation_embedding.center(correlation, text_embeds)
        hidden_states = map_chunks(
            self.correlation_embedding, correlation, dim=1, chunk_size=chunk_size
        )  # (B, C, h, w, E)
        hidden_states = self.late_refinement(hidden_states, image_features.guidance, text_embeds, chunk_size)
        scale = self.logit_scale.exp().detach()  # dino.txt's, whatever is trained here
        return map_chunks(
            lambda *classes: self.decoder(*classes, scale, image_features.prior_features),
            hidden_states,
            correlation,
            dim=1,
            chunk_size=chunk_size,
        )

    # --- checks ------------------------------------------------------------------------------------------------------

    def _check_images(
        self, pixel_values: torch.Tensor, window_pixel_values: torch.Tensor | None, window_boxes: torch.Tensor | None
    ) -> None:
        channels = self.config.vision_config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels or 0 in pixel_values.shape:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch, {channels}, height, width), "
                "none of them 0, as the image processor makes them."
            )
        if (window_pixel_values is None) != (window_boxes is None):
            raise ValueError(
                "window_pixel_values and window_boxes belong together: give both (local-global inference) or neither."
            )
        if window_pixel_values is not None and window_boxes is not None:
            expected = (pixel_values.shape[0], len(window_boxes), channels)
            if window_pixel_values.ndim != 5 or window_pixel_values.shape[:3] != expected:
                raise ValueError(
                    f"window_pixel_values has shape {tuple(window_pixel_values.shape)}; expected "
                    f"(batch {expected[0]}, windows {expected[1]}, {channels}, height, width) to go with pixel_values "
                    "and window_boxes."
                )

    def _check_text_embeds(self, text_embeds: torch.Tensor) -> None:
        width = self.config.vision_config.hidden_size
        if text_embeds.ndim != 3 or text_embeds.shape[1:] != (2, width) or text_embeds.shape[0] == 0:
            raise ValueError(
                f"text_embeds has shape {tuple(text_embeds.shape)}; expected (classes, 2, {width}), at least one "
                "class: the [global, local] embeddings that get_text_features of this very model makes."
            )


def choose_states(
    hidden_states: tuple[torch.Tensor, ...] | None, wanted: bool | list[int] | None
) -> tuple[torch.Tensor | None, ...] | None:
    """What the library gives for `output_hidden_states=wanted`: all, none, or `None` in place of layers not listed."""
    if hidden_states is None or not wanted:
        return None
    if wanted is True:
        return hidden_states
    kept = {index % len(hidden_states) for index in wanted}
    return tuple(states if index in kept else None for index, states in enumerate(hidden_states))


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sigmoid cross-entropy, averaged over classes and the pixels that are not ignored.

    Args:
        logits: `(B, C, h, w)`, resized bilinearly to the labels.
        labels: `(B, H, W)` integer, negative = ignored; or `(B, C, H, W)` floating, targets between 0 and 1.
    """
    batch_size, num_classes = logits.shape[:2]
    if (
        labels.ndim not in (3, 4)
        or labels.shape[0] != batch_size
        or (labels.ndim == 4 and labels.shape[1] != num_classes)
    ):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected ({batch_size}, height, width), or with a target a class "
            f"({batch_size}, {num_classes}, height, width)."
        )
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    if labels.ndim == 4:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    if not torch.compiler.is_compiling() and labels.numel() and labels.max() >= num_classes:
        raise ValueError(
            f"labels holds {int(labels.max())}, but there are {num_classes} classes (0 to {num_classes - 1}); map the "
            "annotation to the vocabulary, ignored pixels to -1."
        )
    valid = (labels >= 0)[:, None]  # (B, 1, H, W)
    targets = labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None, None]  # (B, C, H, W)
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none") * valid
    return losses.sum() / (valid.sum() * num_classes).clamp(min=1)


__all__ = ["Dinov3SegForSemanticSegmentation", "Dinov3SegImageFeatures", "Dinov3SegOutput", "Dinov3SegPreTrainedModel"]
