# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The model dinov3.seg (arXiv 2603.19531). `forward` contains the whole method, step by step.

Only the abstract of the paper is public; details that it does not describe are ours. The model takes pixels, token ids
and embeddings; without text, it uses its default vocabulary. It contains no tokenizer.

Shapes: B images, N windows, h x w patches, D channels of a feature, C classes, P prompts per class, L tokens per
prompt, K text halves.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple

from .active_classes import choose_representatives, join_rejected
from .checks import checked_flag
from .chunking import map_chunks, resolve_chunk_size
from .configuration_dinov3seg import Dinov3SegConfig
from .correlation import Dinov3SegCorrelationEmbedding, Dinov3SegTextThreshold, correlate
from .decoder import Dinov3SegDecoder, Dinov3SegPriorConvolution
from .default_vocabulary import Dinov3SegDefaultVocabulary
from .dinotxt import Dinov3SegVisionTower, choose_states, encode_prompts
from .early_refinement import (
    Dinov3SegEarlyRefinement,
    Dinov3SegFeatureEncoder,
    initial_frequencies,
    initial_mixing_weight,
)
from .inference_settings import ActiveClasses, Head, PatchSource, check_active_classes, choose_head, choose_patch_source
from .input_checks import check_image_features, check_images, check_one_of, check_prompts, check_text_embeds
from .late_refinement import Dinov3SegLateRefinement, Dinov3SegSpatialLayer
from .loss import segmentation_loss
from .semantic_prior import Dinov3SegPriorOutput, Dinov3SegSemanticPrior
from .unit_length import unit_length
from .windows import as_boxes, average_views, merge_windows, size_of

logger = logging.get_logger(__name__)

# Maximum number of windows that the vision tower encodes at once outside training mode; limits memory for large images.
WINDOW_BATCH_SIZE = 16


@dataclass
class Dinov3SegImageFeatures(ModelOutput):
    """The features of an image, independent of any text: usable with any vocabulary.

    Attributes:
        cls_embeds (`torch.Tensor` of shape `(batch_size, hidden_size)`):
            The global image embedding (the CLS token after the vision head), not normalized.
        patch_features (`torch.Tensor` of shape `(batch_size, hidden_size, height, width)`):
            The patch tokens of dino.txt; with windows, averaged with the merged patch tokens of the windows.
        refined_features (`torch.Tensor` of shape `(batch_size, hidden_size, fine_height, fine_width)`, *optional*):
            The patch features after early refinement, at `early_refinement_scale` times the size of the patch grid.
            `None` for the zero-shot head, unless it uses refined features.
        guidance (`torch.Tensor` of shape `(batch_size, guidance_hidden_size, height, width)`, *optional*):
            The image guidance of the late refinement, from the semantic prior. `None` for the zero-shot head.
        prior_features (`tuple(torch.Tensor)`, *optional*):
            The features of the semantic prior for the decoder steps. `None` for the zero-shot head.
        hidden_states, attentions (`tuple(torch.Tensor)`, *optional*):
            The hidden states and attentions of the backbone for the global view, if requested.
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
    """Output of [`Dinov3SegForSemanticSegmentation`].

    Attributes:
        loss (`torch.Tensor`, a scalar, *optional*, returned when `labels` are given):
            The cross-entropy of `segmentation_loss` in `loss.py`.
        logits (`torch.Tensor` of shape `(batch_size, num_classes, logits_height, logits_width)`):
            Full head: logits that are positive where a name is more likely than none of them, at `2**steps` times the
            resolution of the patch grid, with `steps` decoder steps. Zero-shot head: cosine similarities on the grid of
            the patches, or of the refined features.
        text_embeds (`torch.Tensor` of shape `(num_classes, 2, hidden_size)`):
            The normalized [global, local] text embeddings.
        image_embeds (`torch.Tensor` of shape `(batch_size, hidden_size)`):
            The normalized global image embedding. Its dot product with the global half of a text embedding is the
            image-level score.
        hidden_states, attentions (`tuple(torch.Tensor)`, *optional*):
            The hidden states and attentions of the backbone for the global view, if requested.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class Dinov3SegPreTrainedModel(PreTrainedModel):
    """Base class with the options for loading, saving and initializing the model."""

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
    _supports_sdpa = True  # not flash or flex attention, because the late refinement has biases of relative positions
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initializes the trained parts; dino.txt and the prior encoder initialize themselves."""
        super()._init_weights(module)
        if isinstance(module, Dinov3SegPriorConvolution):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):
            # Stride and kernel size are equal, so an output cell is the sum of one value per input channel.
            # `kaiming_normal_` would count the output channels and all cells of the kernel instead.
            init.normal_(module.weight, std=math.sqrt(2 / module.in_channels))
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, Dinov3SegEarlyRefinement):
            init.copy_(module.frequencies, initial_frequencies(module.frequencies.shape[1]))
            init.constant_(module.mixing_weight, initial_mixing_weight(0.01))
        elif isinstance(module, Dinov3SegFeatureEncoder):
            init.normal_(module.basis)
        elif isinstance(module, Dinov3SegTextThreshold):
            init.zeros_(module.weight)
        elif isinstance(module, Dinov3SegSpatialLayer):
            init.trunc_normal_(module.relative_bias, std=self.config.initializer_range)
        elif isinstance(module, Dinov3SegDecoder):
            # Starts as the zero-shot head (local half) at the temperature of dino.txt. With a smaller weight, the other
            # logits would soon be larger than the differences between similar names. The offset is between the cosine
            # similarities of matching and of other names.
            if module.use_correlation_residual:
                init.copy_(module.correlation_weight, torch.tensor([0.0, 1.0])[-module.correlation_weight.shape[0] :])
                init.constant_(module.correlation_offset, 0.25)
                init.zeros_(module.classifier.weight)
        elif isinstance(module, Dinov3SegForSemanticSegmentation):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if hasattr(module, "default_text_embeds"):
                init.zeros_(module.default_text_embeds)


class Dinov3SegForSemanticSegmentation(Dinov3SegPreTrainedModel, Dinov3SegDefaultVocabulary):
    """Open-vocabulary semantic segmentation, from images and texts to a logit for every text at every position.

    Without text, the classes are those of the default vocabulary; see `set_vocabulary`.

    Args:
        config: The architecture; see `Dinov3SegConfig` for the default sizes.
    """

    # The loss is a mean over the pixels of a batch. `transformers.Trainer` must divide it by the accumulated batches,
    # because it would count pixels with the ignore label 255.
    accepts_loss_kwargs = False

    def __init__(self, config: Dinov3SegConfig):
        super().__init__(config)
        self.vision_model = Dinov3SegVisionTower(config)
        self.text_model = CLIPTextModelWithProjection._from_config(config.text_config)
        # Logarithm of the inverse temperature that dino.txt was trained with. Scales the correlations in the decoder
        # and, after `forward`, the cosine similarities of the zero-shot head.
        self.logit_scale = nn.Parameter(torch.empty(1))  # FSDP does not support scalars

        self.early_refinement = Dinov3SegEarlyRefinement(config) if config.use_early_refinement else None
        self.semantic_prior = Dinov3SegSemanticPrior(config)
        self.correlation_embedding = Dinov3SegCorrelationEmbedding(config)
        self.late_refinement = Dinov3SegLateRefinement(config)
        self.decoder = Dinov3SegDecoder(config)
        self.make_room_for_embeddings()

        self._encoders_frozen = False
        self.post_init()
        if config.freeze_encoders:
            self.freeze_encoders()
        # FSDP raises an error for names of layers that are not present: CLIP's vision layers, SAM's layers without SAM
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = present.intersection(self._no_split_modules or ())

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a model; see `PreTrainedModel.from_pretrained`. Names in `id2label` become its default vocabulary."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a pair with `output_loading_info`
        model.adopt_names(pretrained_model_name_or_path, **kwargs)
        if model.config.freeze_encoders:
            model.freeze_encoders()
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.backbone.embeddings.patch_embeddings

    # --- frozen parts ------------------------------------------------------------------------------------------------

    @property
    def encoders(self) -> list[nn.Module]:
        """The parts that `freeze_encoders` freezes: dino.txt (image and text) and, if present, the prior encoder."""
        encoders = [self.vision_model, self.text_model]
        return encoders if self.semantic_prior.encoder is None else [*encoders, self.semantic_prior.encoder]

    def freeze_encoders(self) -> "Dinov3SegForSemanticSegmentation":
        """Excludes the encoders and `logit_scale` from training: no gradients, and eval mode even after `train()`.

        Eval mode is necessary, because DINOv3 augments the coordinates of RoPE in training mode. With
        `config.freeze_encoders`, the encoders are frozen from the start.
        """
        for encoder in self.encoders:
            encoder.requires_grad_(False).eval()
        self.logit_scale.requires_grad_(False)
        self._encoders_frozen = True
        return self

    def train(self, mode: bool = True) -> "Dinov3SegForSemanticSegmentation":
        super().train(mode)
        for encoder in self.encoders:
            if self._encoders_frozen or not any(weight.requires_grad for weight in encoder.parameters()):
                encoder.eval()
        return self

    # --- encoding ----------------------------------------------------------------------------------------------------

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Computes the text embeddings of classes, which is necessary only once per vocabulary.

        Args:
            input_ids: Token ids `(C, P, L)`, long, or `(C, L)` for one prompt per class.
            attention_mask: Mask of the same shape. A prompt whose mask is all zero is padding. Optional.

        Returns:
            `(C, 2, D)`, of unit length: [global, local] of each class.

        Raises:
            ValueError: If a shape is invalid or a prompt is too long for the text tower.
        """
        if isinstance(input_ids, torch.Tensor) and input_ids.ndim == 2:
            input_ids = input_ids[:, None]
            attention_mask = None if attention_mask is None else attention_mask[:, None]
        check_prompts(input_ids, attention_mask, self.config.text_config, values=not self.training)
        return encode_prompts(self.text_model, input_ids.long(), attention_mask)

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        window_pixel_values: torch.Tensor | None = None,
        window_boxes: torch.Tensor | None = None,
        head: Head | None = None,
        patch_source: PatchSource | None = None,
        refine_features: bool | None = None,
        context_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Dinov3SegImageFeatures:
        """Computes everything that does not depend on text.

        These are the features of dino.txt, local-global fusion, early refinement and the semantic prior.

        Args:
            pixel_values: `(B, 3, H, W)`, the global view.
            window_pixel_values: `(B, N, 3, S, S')`, windows of the global view; see `plan_windows`. Optional.
            window_boxes: `(N, 4)`: top, left, height, width of each window in pixels of `pixel_values`.
            head: `"full"` or `"dinotxt"`. The zero-shot head needs neither refinement nor prior. Default: that of the
                configuration.
            patch_source: `"head"` or `"backbone"`. Default: that of the configuration.
            refine_features: Whether to compute the refined features also for the zero-shot head. Default: that of the
                configuration.
            context_features: `(B, D, h, w)`: patch features of a view of more than these images, at their place. They
                are the global view, in place of the images' own patch features. Optional.
            **kwargs: Options of the backbone: `output_hidden_states`, `output_attentions`.

        Raises:
            ValueError: If shapes do not match, or the full head would get patch tokens that it was not trained on.
        """
        head, patch_source = choose_head(self.config, head), choose_patch_source(self.config, patch_source)
        channels = self.config.vision_config.num_channels
        window_boxes = check_images(pixel_values, window_pixel_values, window_boxes, channels, values=not self.training)
        if patch_source == "backbone" and head == "full" and self.config.patch_source != "backbone":
            raise ValueError(
                'patch_source is "backbone", but the full head was trained on patch_source="head"; expected "head". '
                'Use head="dinotxt", or a checkpoint whose config has patch_source="backbone".'
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
            patch_features = average_views(context_features, patch_features, local_features)
        elif context_features is not None:
            patch_features = average_views(context_features, patch_features, patch_features)

        features = Dinov3SegImageFeatures(
            cls_embeds=vision.cls_token,
            patch_features=patch_features,
            hidden_states=choose_states(vision.hidden_states, wanted_states),
            attentions=vision.attentions,
        )
        if head == "full" or self._refines_features(refine_features):
            features.refined_features = patch_features
            if self.early_refinement is not None:
                features.refined_features = self.early_refinement(patch_features, pixel_values.to(patch_features.dtype))
        if head == "full":
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
        """Encodes the windows and merges their features, averaged where windows overlap: `(B, D, h, w)`."""
        # a traced graph encodes any number of windows, and so all at once
        at_once = self.training or torch.compiler.is_compiling()
        size = size_of(pixel_values)
        if not at_once and size_of(window_pixel_values) == size and as_boxes(window_boxes, size) == [(0, 0, *size)]:
            return patch_features  # the only window is the image, which is encoded already
        windows = window_pixel_values.flatten(0, 1)
        chunks = [windows] if at_once else windows.split(WINDOW_BATCH_SIZE)
        tokens = torch.cat([self.vision_model(chunk, patch_source=patch_source).patch_tokens for chunk in chunks])
        tokens = tokens.unflatten(0, window_pixel_values.shape[:2])  # (B, N, D, h', w')
        return merge_windows(
            tokens, window_boxes, output_size=size_of(patch_features), source_size=size_of(pixel_values)
        )

    # --- the whole method --------------------------------------------------------------------------------------------

    @can_return_tuple  # type: ignore[untyped-decorator]  # of transformers
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
        refine_features: bool | None = None,
        active_classes: ActiveClasses | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Dinov3SegOutput:
        r"""Segments images by texts, or by the default vocabulary without `input_ids` and `text_embeds`.

        Args:
            pixel_values: `(B, 3, H, W)`, normalized, any H and W.
            input_ids: Token ids `(C, P, L)`, long.
            attention_mask: `(C, P, L)`. A prompt whose mask is all zero is padding.
            text_embeds: `(C, 2, D)` from `get_text_features`, instead of `input_ids`.
            window_pixel_values: `(B, N, 3, S, S')`, windows for local-global inference.
            window_boxes: `(N, 4)`, long: top, left, height, width of each window in pixels of `pixel_values`.
            image_features: Features from `get_image_features`, instead of pixels and windows.
            labels: `(B, H', W')`, long: -2 (`NO_CLASS`) for pixels that show none of the classes, other negative values
                and `config.semantic_loss_ignore_index` (unless it is a class) for pixels that are ignored; or `(B, C,
                H', W')`, one target per class between 0 and 1, for words that overlap.
            head: `"full"` or `"dinotxt"` (zero-shot). Default: that of the configuration.
            patch_source: `"head"` or `"backbone"`. Default: that of the configuration.
            refine_features: Whether the zero-shot head uses the features after early refinement. The full head always
                does. Default: that of the configuration.
            active_classes: How many classes of each patch the full head refines, `"auto"` or an integer; the others
                cannot win (see `active_classes.py`). Not for training or compiled graphs. Default: all.
            **kwargs: Options of the backbone: `output_hidden_states`, `output_attentions`; and `return_dict`.

        Raises:
            ValueError: If the inputs contradict each other or have invalid shapes.
        """
        head, patch_source = choose_head(self.config, head), choose_patch_source(self.config, patch_source)
        self._warn_of_untrained_head(head)
        if input_ids is not None and text_embeds is not None:
            raise ValueError("Got both input_ids and text_embeds; expected one of them, or neither. Omit one.")
        check_one_of(pixel_values=pixel_values, image_features=image_features)

        if input_ids is not None:
            text_embeds = self.get_text_features(input_ids, attention_mask)
        elif text_embeds is None:
            text_embeds = self.default_text_features()
        else:
            check_text_embeds(text_embeds, self.config.vision_config.hidden_size, values=not self.training)
        if image_features is None:
            assert pixel_values is not None
            options: dict[str, Any] = {
                "head": head,
                "patch_source": patch_source,
                "refine_features": refine_features,
                **kwargs,
            }
            image_features = self.get_image_features(pixel_values, window_pixel_values, window_boxes, **options)
        check_image_features(image_features)
        assert image_features.patch_features is not None and image_features.cls_embeds is not None
        if head == "dinotxt":
            # zero-shot: cosine similarity with the local half, (B, C, h, w)
            features = image_features.patch_features
            if self._refines_features(refine_features):
                features = self._refined_features(image_features, "refine_features=True")
            logits = correlate(features, text_embeds[:, 1:])[:, :, 0]
        else:
            logits = self._segment(image_features, text_embeds, active_classes)

        return Dinov3SegOutput(
            loss=None if labels is None else segmentation_loss(logits, labels, self.config.semantic_loss_ignore_index),
            logits=logits,
            text_embeds=text_embeds,
            image_embeds=unit_length(image_features.cls_embeds, dim=-1),
            hidden_states=image_features.hidden_states,
            attentions=image_features.attentions,
        )

    def _segment(
        self, image_features: Dinov3SegImageFeatures, text_embeds: torch.Tensor, active_classes: ActiveClasses | None
    ) -> torch.Tensor:
        """Computes the logits of the full head, `(B, C, 2**steps h, 2**steps w)`.

        The steps are correlation, late refinement and decoder.
        """
        if active_classes is not None:
            check_active_classes(active_classes, self.training)
        refined_features = self._refined_features(image_features, 'head="full"')
        guidance, prior_features = image_features.guidance, image_features.prior_features
        if guidance is None or prior_features is None:
            raise ValueError(
                'image_features were computed with head="dinotxt"; expected head="full". Compute image_features again.'
            )
        halves = text_embeds if self.config.use_global_text else text_embeds[:, 1:]

        correlation = correlate(refined_features, halves)  # (B, C, K, h', w')
        text_embeds = text_embeds.to(self.dtype)  # they may come from a model of another dtype
        correlation = self.correlation_embedding.center(correlation, text_embeds)
        # late refinement stays on the patch grid; the residual connection keeps the finer grid of early refinement
        coarse = correlation
        if size_of(refined_features) != size_of(guidance):
            # a factor of 2 or 4, by which this average is exact like `F.adaptive_avg_pool3d`
            coarse = F.avg_pool3d(correlation, (1, *(2 * [self.config.early_refinement_scale])))
        scale = self.logit_scale.exp().detach()  # that of dino.txt, not trained here
        if active_classes is None:
            return self._refine(coarse, correlation, text_embeds, scale, guidance, prior_features)

        images = []
        for index in range(len(coarse)):  # each image has its own active classes
            image = slice(index, index + 1)
            coarse_logits = self.decoder.correlation_logits(coarse[image], scale, size_of(coarse))[0]
            representatives = choose_representatives(coarse_logits, active_classes)
            active, place, counts = representatives.unique(return_inverse=True, return_counts=True)
            guides = guidance[image], tuple(features[image] for features in prior_features)
            some = len(active) < len(place)  # else this is the whole head
            chosen = active if some else slice(None)
            classes = coarse[image, chosen], correlation[image, chosen], text_embeds[chosen]
            logits = self._refine(*classes, scale, *guides, class_counts=counts if some else None)
            coarse_logits = self.decoder.correlation_logits(correlation[image], scale, size_of(logits))
            images.append(join_rejected(logits[0], active, place, coarse_logits[0], active_classes))
        return torch.stack(images)

    def _refine(
        self,
        coarse: torch.Tensor,
        correlation: torch.Tensor,
        text_embeds: torch.Tensor,
        scale: torch.Tensor,
        guidance: torch.Tensor,
        prior_features: tuple[torch.Tensor, ...],
        class_counts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Late refinement of the correlations on the patch grid, `(B, C, K, h, w)`, and their decoder."""
        chunk_size = None
        if not (self.training or torch.compiler.is_compiling()):
            class_bytes = coarse[:, :1, 0].numel() * self.config.correlation_hidden_size * self.dtype.itemsize
            chunk_size = resolve_chunk_size(self.config.class_chunk_size, class_bytes, coarse.device)
        hidden_states = map_chunks(self.correlation_embedding, coarse, dim=1, chunk_size=chunk_size)  # (B, C, h, w, E)
        hidden_states = self.late_refinement(hidden_states, guidance, text_embeds, chunk_size, class_counts)
        return self.decoder(hidden_states, correlation, scale, prior_features, chunk_size)

    def _refines_features(self, refine_features: bool | None) -> bool:
        """Whether the zero-shot head uses refined features."""
        refine_features = self.config.refine_features if refine_features is None else refine_features
        checked_flag(refine_features, "refine_features")
        if refine_features and self.early_refinement is None:
            raise ValueError(
                "refine_features is true, but the model has no early refinement (use_early_refinement is false). Leave "
                "out refine_features, or use a checkpoint with early refinement."
            )
        return refine_features

    def _refined_features(self, image_features: Dinov3SegImageFeatures, wanted: str) -> torch.Tensor:
        if image_features.refined_features is None:
            raise ValueError(
                f"image_features were computed without early refinement; expected {wanted}. Compute image_features "
                "again with this option."
            )
        return image_features.refined_features

    # --- checks ------------------------------------------------------------------------------------------------------

    def _warn_of_untrained_head(self, head: Head) -> None:
        if head == "full" and not self.config.head_trained and not self.training:
            logger.warning_once(
                'The full head of this checkpoint is not trained, so its logits are random. Use head="dinotxt", or '
                "train the head."
            )


__all__ = ["Dinov3SegForSemanticSegmentation", "Dinov3SegImageFeatures", "Dinov3SegOutput", "Dinov3SegPreTrainedModel"]
