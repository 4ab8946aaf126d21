# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The transformers pipeline "open-vocabulary-segmentation", from images and class names to masks.

Labels are encoded once per vocabulary and pixels once per image. Label maps and masks have the size of the original
image. The command line, the demo and the evaluation use this pipeline.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Pipeline

from .checks import check_flags, is_out_of_memory
from .image_input import read_pixels
from .image_processing_dinov3seg import Dinov3SegImageProcessing
from .image_stages import EncodedImage, LabeledImage, PreparedImage, features_of, indices_by_kind
from .inference_settings import Head, Inference, InferenceSettings, PatchSource, checked_settings, default_inference
from .label_maps import ScoreFunction
from .labeling import ScoreMaps, label_pixels
from .modeling_dinov3seg import Dinov3SegForSemanticSegmentation, Dinov3SegImageFeatures
from .pipeline_inputs import (
    CALL_OPTIONS,
    ImageWithLabels,
    are_per_image,
    check_options,
    may_bring_labels,
    read_rows,
    split_row,
    take_keywords,
    with_own_labels,
)
from .pipeline_labels import Labels, PipelineLabels
from .pipeline_results import SegmentationResults, result_of, with_image
from .remote_code import TASK
from .sliding_window import segment_windows
from .tensor_checks import is_finite
from .text_embeddings import TextEmbeddings, checked_embeddings
from .windows import size_of

# The options of `InferenceSettings` that are passed to the image processor.
PROCESSOR_OPTIONS = ("size", "window_size", "window_stride")


class OpenVocabularySegmentationPipeline(Pipeline, PipelineLabels):
    """Pipeline that segments images by any list of labels.

    Example:

    ```python
    >>> import dinov3seg_hf
    >>> from transformers import pipeline

    >>> pipe = pipeline("open-vocabulary-segmentation", model=dinov3seg_hf.TINY)
    >>> segments = pipe("scene.png", candidate_labels=["red circle", "blue striped square", "background"])
    >>> segments[0]["label"], segments[0]["mask"].size
    ('red circle', (96, 96))
    ```

    All options of a call can also be passed to `pipeline(...)`, where they set the defaults of all calls.

    Args:
        model: A `Dinov3SegForSemanticSegmentation`. It is set to eval mode.
        processor: The `Dinov3SegProcessor` of the model. With only an `image_processor`, labels must be passed as
            `TextEmbeddings`.
        candidate_labels: Default labels. Without them, the default vocabulary of the model.
        templates: Default templates.
    """

    model: Dinov3SegForSemanticSegmentation
    image_processor: Dinov3SegImageProcessing

    # Optional, because a checkpoint that was converted without a tokenizer has only an image processor.
    _load_processor = None
    _load_image_processor = None
    _load_tokenizer = False  # type: ignore[assignment]  # True, False or None in transformers' documentation
    _load_feature_extractor = False  # type: ignore[assignment]

    def __init__(
        self,
        *args: Any,
        candidate_labels: Labels | None = None,
        templates: str | Sequence[str] | None = None,
        **kwargs: Any,
    ):
        kwargs.pop("local_files_only", None)  # passed on by `pipeline`
        super().__init__(*args, **kwargs)
        if getattr(self.model.config, "model_type", None) != "dinov3seg":
            raise ValueError(
                f"The model is a {type(self.model).__name__}; expected a Dinov3SegForSemanticSegmentation. Load the "
                "model from a checkpoint of dinov3.seg."
            )
        if self.processor is not None:
            parts = (getattr(self.processor, name, None) for name in ("image_processor", "tokenizer"))
            self.image_processor, self.tokenizer = parts  # type: ignore[assignment]
        if self.image_processor is None:
            raise ValueError("The model has no processor. Pass processor=AutoProcessor.from_pretrained(...).")
        self.model.eval()
        self._set_default_labels(candidate_labels, templates)

    def _sanitize_parameters(
        self,
        text: TextEmbeddings | None = None,
        own_templates: str | Sequence[str] | None = None,
        return_label_map: bool | None = None,
        return_scores: bool | None = None,
        return_masks: bool | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_options(options)
        check_flags(return_label_map=return_label_map, return_scores=return_scores, return_masks=return_masks)
        settings = self.settings.updated(**options)
        forward = {"text": text, "own_templates": own_templates, "settings": settings, "return_scores": return_scores}
        postprocess = {
            "return_label_map": return_label_map,
            "return_masks": return_masks,
        }
        return (
            {"settings": settings},
            {key: value for key, value in forward.items() if value is not None},
            {key: value for key, value in postprocess.items() if value is not None},
        )

    @property
    def settings(self) -> InferenceSettings:
        """The options passed to `pipeline(...)`, which are the defaults of calls."""
        return getattr(self, "_preprocess_params", {}).get("settings", InferenceSettings())

    def __call__(  # type: ignore[override]  # images and labels, like other zero-shot pipelines
        self,
        images: Any = None,
        candidate_labels: Labels | Sequence[Labels] | None = None,
        *,
        templates: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Segments images.

        Args:
            images: One image or a list: PIL, numpy, torch, path, URL, bytes, file (see `open_image`) or `EncodedImage`;
                an array of several images `(N, H, W, C)`; or a column of `datasets`. Or a data set or generator of
                images, which is read while the results are read. An image may be `{"image": ..., "candidate_labels":
                ...}`, with labels of its own. Also accepted as `inputs=` or `image=`.
            candidate_labels: Class names, each "word" or "word|synonym|synonym"; or one string of class names separated
                by commas; or a `Vocabulary`; or its `TextEmbeddings`. Default: those of the pipeline, else the
                default vocabulary of the model. A list of such lists is one per image. Also accepted as `labels=` or
                `text=`.
            templates: Prompt templates: the name of a set in `prompts.TEMPLATES`, one template, or several.
            **kwargs: Options of this call:

                - `inference`, `head`, `patch_source`, `refine_features`, `refine`, `threshold`, `background`,
                  `temperature`, `size`, `window_size`, `window_stride`, `active_classes`: see `InferenceSettings`. If
                  the image is not larger than a window, `"local-global"` equals `"whole"`.
                - `return_label_map` (`bool`): whether to also return the dense label map.
                - `return_scores` (`bool`): whether to also return the scores of all labels at every position.
                - `return_masks` (`bool`): whether to return a mask per segment. `False` saves the time of making one
                  image per label found.
                - `batch_size` (`int`): number of images per batch. The images may have different sizes.
                - `num_workers` (`int`): number of processes that read images.

        Returns:
            For each image, a list of the labels found, in the order of the labels and in the format of transformers:
            `score` (the mean over the pixels of the label), `label`, `mask` (PIL `L`, 0 or 255, of the size of the
            original image).

            With `return_label_map` or `return_scores`, a dictionary: `segments` (the list), `labels` (all names),
            `label_map` (int32 `(H, W)`: the label of each pixel of the original image, -1 for no label), `score_map`
            (float32 `(H, W)`: the best score of each pixel) and, if requested, `scores` (float16 `(C, h, w)`: the
            scores of all labels at the resolution of the model, before `refine`). The labels are those that are
            prompted; `Vocabulary.to_scored` merges those from `background_from` on into one background.

            In the full head, a score is the sigmoid of the logit of one label. In the zero-shot head, it is the softmax
            over the labels of the cosine similarities divided by `temperature`, so it depends on the other labels.

        Raises:
            ValueError: If there are no labels, a label or an option is invalid, or an image cannot be read.
            TypeError: If an option is unknown.
            MemoryError: If the labels need too much memory for an image of this size; the message contains remedies.
        """
        images, candidate_labels = take_keywords(images, candidate_labels, kwargs)
        check_options(name for name in kwargs if name not in CALL_OPTIONS)  # before labels are found missing
        if images is None:
            raise ValueError("Got no images; expected one image or a list of images.")
        images, is_column = read_rows(images)
        text = None
        if isinstance(candidate_labels, (list, tuple)) and are_per_image(candidate_labels):
            images = with_own_labels(images, candidate_labels)
        elif candidate_labels is not None or not may_bring_labels(images):
            text = self.encode_labels(candidate_labels, templates)  # type: ignore[arg-type]  # not one per image
        if isinstance(images, list) and not images:
            return []
        results = super().__call__(images, text=text, own_templates=templates, **kwargs)
        if isinstance(images, list):
            return [with_image(result, split_row(image)[0]) for result, image in zip(results, images)]
        if isinstance(results, SegmentationResults):
            return list(results) if is_column else results
        return with_image(results, split_row(images)[0])

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Writes the model and the processor so that `pipeline` can load them again.

        The base class does not write the processor, and writes the code in its own way.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        parts = (self.tokenizer, self.image_processor) if self.processor is None else (self.processor,)
        for part in parts:
            if part is not None:
                part.save_pretrained(save_directory, **kwargs)

    # --- image -------------------------------------------------------------------------------------------------------

    @property
    def default_inference(self) -> Inference:
        """The value of `inference` for calls that do not pass it; depends on the image processor."""
        return default_inference(self.image_processor)

    def prepare(self, image: Any, settings: InferenceSettings | None = None) -> PreparedImage | EncodedImage:
        """Reads, resizes and normalizes an image, and cuts its windows.

        These are the steps that need neither the model nor labels.

        Args:
            image: One image; see `open_image`. An `EncodedImage` is returned unchanged.
            settings: The settings of the segmentation. Default: those of the pipeline.

        Raises:
            ValueError: If the image cannot be read, or was encoded with other settings.
        """
        settings = checked_settings(settings, self.settings)
        overrides = {key: value for key, value in settings.given().items() if key in PROCESSOR_OPTIONS}
        if isinstance(image, EncodedImage):
            if settings.inference not in (None, image.inference) or overrides:
                raise ValueError(
                    f'The image is already encoded with inference="{image.inference}"; inference, size and windows '
                    "cannot be changed. Pass the original image, or encode the image again."
                )
            return image
        inference = settings.inference or self.default_inference
        pixels = read_pixels(image, max_pixels=self.image_processor.max_image_pixels)  # (3, H, W), decoded once
        tensors = dict(
            self.image_processor.preprocess(
                pixels,
                do_windows=inference == "local-global",
                input_data_format="channels_first",
                return_tensors="pt",
                **overrides,
            )
        )
        if inference == "local-global" and len(tensors["window_boxes"]) == 1:
            del tensors["window_pixel_values"], tensors["window_boxes"]  # the only window is the image itself
        return PreparedImage(tensors, size_of(pixels), inference)

    # The stages are objects here; the base class passes dicts.
    def preprocess(  # type: ignore[override]
        self, image: Any, settings: InferenceSettings | None = None
    ) -> PreparedImage | EncodedImage | ImageWithLabels:
        """Calls `prepare`, under the name that the base class uses, and keeps the image's own labels."""
        image, labels = split_row(image)
        prepared = self.prepare(image, settings)
        return prepared if labels is None else ImageWithLabels(prepared, labels)

    def encode_image(
        self,
        image: Any,
        *,
        inference: Inference | None = None,
        head: Head | None = None,
        patch_source: PatchSource | None = None,
        refine_features: bool | None = None,
        size: dict[str, int] | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
    ) -> EncodedImage:
        """Computes everything that does not depend on labels, for use in several calls.

        Usage: `pipe(pipe.encode_image(image), candidate_labels=...)`.

        Args:
            image: One image; see `open_image`.
            inference: `"whole"` or `"local-global"`. `"slide"` is not supported, because it has no features to reuse.
            head: See `InferenceSettings`, also for the other options.
            patch_source: Source of the patch tokens.
            refine_features: Whether the zero-shot head uses refined features.
            size: Size of the resized image.
            window_size: Side of a window in pixels of the resized image.
            window_stride: Step between windows in pixels of the resized image.

        Raises:
            ValueError: If the image cannot be read or is already encoded, an option is invalid, or the model is in
                training mode.
        """
        self._check_mode()
        settings = self.settings.updated(
            inference=inference,
            head=head,
            patch_source=patch_source,
            refine_features=refine_features,
            size=size,
            window_size=window_size,
            window_stride=window_stride,
        ).resolved(self.model.config, self.image_processor)
        prepared = self.prepare(image, settings)
        if isinstance(prepared, EncodedImage):
            raise ValueError("The image is already encoded. Pass the original image to encode it with other settings.")
        if prepared.inference == "slide":
            raise ValueError('inference is "slide", which cannot be encoded; expected "whole" or "local-global".')
        return self.encode_prepared([prepared], settings)[0]

    def encode_prepared(self, images: Sequence[PreparedImage], settings: InferenceSettings) -> list[EncodedImage]:
        """Encodes images from `prepare`, not prepared for `"slide"`; images of one kind form a batch.

        Args:
            images: Prepared images, of any sizes.
            settings: The settings that they were prepared with.

        Raises:
            ValueError: If the model is in training mode, or its full head is not trained.
        """
        self._check_mode()
        settings = checked_settings(settings, self.settings).resolved(self.model.config, self.image_processor)
        encoded: dict[int, EncodedImage] = {}
        for indices in indices_by_kind(images):
            with self.device_placement(), self.get_inference_context()():
                batch = self._encode([images[index] for index in indices], settings)
            for place, index in enumerate(indices):
                encoded[index] = EncodedImage.of(features_of(batch, place), images[index], settings, self.model)
        return [encoded[index] for index in range(len(images))]

    def _check_mode(self) -> None:
        if self.model.training:
            raise ValueError("The model is in training mode; expected eval mode. Call model.eval() first.")

    def _encode(self, images: list[PreparedImage], settings: InferenceSettings) -> Dinov3SegImageFeatures:
        """Computes the features of a batch of images of one kind (see `indices_by_kind`)."""

        def batch(key: str) -> torch.Tensor:
            return torch.cat([image.tensors[key] for image in images]).to(self.device, self.model.dtype)

        return self.model.get_image_features(
            batch("pixel_values"),
            batch("window_pixel_values") if "window_pixel_values" in images[0].tensors else None,
            images[0].tensors.get("window_boxes"),
            head=settings.head,
            patch_source=settings.patch_source,
            refine_features=settings.refine_features,
        )

    # --- settings ----------------------------------------------------------------------------------------------------

    def resolved_settings(self, settings: InferenceSettings | None = None) -> InferenceSettings:
        """Returns settings without `None` in those that the scores depend on, from the checkpoint.

        These are the options of `InferenceSettings.resolved`, and `temperature`.

        Args:
            settings: The settings. Default: those of the pipeline.

        Raises:
            ValueError: If the head is the full one and was not trained.
        """
        settings = checked_settings(settings, self.settings).resolved(self.model.config, self.image_processor)
        if settings.temperature is None:
            settings = dataclasses.replace(settings, temperature=torch.exp(-self.model.logit_scale.float()).item())
        return settings

    def check_calibration(self, text: TextEmbeddings, settings: InferenceSettings | None = None) -> None:
        """Checks that segmentations with these settings can use the calibration of the labels, if there is one.

        A segmentation checks it, too, but for each image.

        Args:
            text: The labels.
            settings: The settings. Default: those of the pipeline.

        Raises:
            ValueError: If the labels are calibrated for other settings.
        """
        self._calibration_of(text, self.resolved_settings(settings))

    # --- images and text ---------------------------------------------------------------------------------------------

    def segment_prepared(
        self,
        images: Sequence[PreparedImage | EncodedImage],
        text: TextEmbeddings,
        settings: InferenceSettings | None = None,
        *,
        return_scores: bool = False,
        adjust_maps: Callable[[int, ScoreMaps], ScoreMaps] | None = None,
    ) -> list[LabeledImage]:
        """Segments images from `prepare`; images of one kind form a batch.

        Args:
            images: Prepared or encoded images, of any sizes.
            text: Text embeddings from `encode_labels`.
            settings: The settings that the images were prepared with. Default: those of the pipeline.
            return_scores: Whether to also return the scores of all labels at every position.
            adjust_maps: Called with the index of an image and its score maps, before its pixels are labeled; returns
                the maps to use. Images of one kind come in their order.

        Raises:
            ValueError: If an image was encoded by another model or with other settings, or the model is in training
                mode.
            MemoryError: If the labels need too much memory for an image of this size; the message contains remedies.
        """
        text, settings = checked_embeddings(text), checked_settings(settings, self.settings)
        return self.forward(
            list(images), text=text, settings=settings, return_scores=return_scores, adjust_maps=adjust_maps
        )

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> SegmentationResults:
        """Returns the results of a list, a data set or a generator, which are computed while they are read."""
        return SegmentationResults(
            self, inputs, batch_size, num_workers, preprocess_params, forward_params, postprocess_params
        )

    def forward(self, model_inputs: Any, **forward_params: Any) -> Any:
        """Calls the base class; if memory does not suffice, raises an error with remedies."""
        try:
            return super().forward(model_inputs, **forward_params)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            text = forward_params.get("text")
            raise MemoryError(
                f"{'The' if text is None else len(text)} labels need more memory than available on {self.device}. Use "
                'fewer labels, smaller images or head="dinotxt", which needs the least memory, or lower batch_size, or '
                "set model.config.class_chunk_size to 1."
            ) from error

    def _forward(  # type: ignore[override]
        self,
        model_inputs: Any,
        text: TextEmbeddings | None = None,
        *,
        settings: InferenceSettings,
        own_templates: str | Sequence[str] | None = None,
        return_scores: bool = False,
        adjust_maps: Callable[[int, ScoreMaps], ScoreMaps] | None = None,
    ) -> LabeledImage | list[LabeledImage]:
        self._check_mode()
        inputs = model_inputs if isinstance(model_inputs, list) else [model_inputs]
        images: list[Any] = []
        texts: list[TextEmbeddings] = []
        for item in inputs:
            has_own = isinstance(item, ImageWithLabels)
            images.append(item.image if has_own else item)
            if has_own:
                texts.append(self.encode_labels(item.labels, own_templates))
                continue
            text = self.encode_labels(None, own_templates) if text is None else text
            texts.append(text)

        labeled: list[Any] = [None] * len(images)
        for indices in indices_by_kind(images, [(of_image.fingerprint, of_image.calibration) for of_image in texts]):
            group, of_group = [images[index] for index in indices], texts[indices[0]]
            text_embeds = of_group.tensor.to(self.model.device, self.model.dtype)  # (C, 2, D)
            of_images = self._settings_of(group[0], settings)
            calibration = self._calibration_of(of_group, of_images)
            for index, image, maps in zip(indices, group, self._score_maps(group, text_embeds, of_images)):
                maps = maps if adjust_maps is None else adjust_maps(index, maps)
                result = label_pixels(maps, image, self.image_processor, settings, calibration, return_scores)
                labeled[index] = dataclasses.replace(result, names=of_group.names)
        return labeled if isinstance(model_inputs, list) else labeled[0]

    def _settings_of(self, image: PreparedImage | EncodedImage, settings: InferenceSettings) -> InferenceSettings:
        """Returns the settings that an image is segmented with, resolved.

        Raises:
            ValueError: If the image was encoded by another model or with other settings.
        """
        if isinstance(image, EncodedImage):
            image.check(self.model, settings)
            encoding = {name: getattr(image, name) for name in ("head", "patch_source", "refine_features")}
            settings = dataclasses.replace(settings, **encoding)
        return dataclasses.replace(self.resolved_settings(settings), inference=image.inference)

    def _score_maps(self, group: list[Any], text_embeds: torch.Tensor, settings: InferenceSettings) -> list[ScoreMaps]:
        """Computes the score maps of images of one kind, with their settings (see `_settings_of`)."""
        assert settings.temperature is not None  # resolved
        if isinstance(group[0], EncodedImage):
            features = group[0].features_on(self.model.device)  # an encoded image is a group of its own
        elif settings.inference == "slide":
            function: ScoreFunction = "sigmoid" if settings.head == "full" else "none"
            return [ScoreMaps(maps, function) for maps in self._slide(group, text_embeds, settings)]
        else:
            features = self._encode(group, settings)
        logits = self.model(
            image_features=features,
            text_embeds=text_embeds,
            head=settings.head,
            patch_source=settings.patch_source,
            refine_features=settings.refine_features,
            active_classes=settings.active_classes,
        ).logits
        function = "sigmoid" if settings.head == "full" else "softmax"
        temperature = settings.temperature if function == "softmax" else 1.0
        return [ScoreMaps(maps, function, temperature) for maps in _finite(logits.float())]

    def _slide(
        self, group: list[PreparedImage], text_embeds: torch.Tensor, settings: InferenceSettings
    ) -> torch.Tensor:
        """Computes the maps `(B, C, H, W)` of sliding windows: logits, or probabilities of the zero-shot head."""
        temperature = settings.temperature if settings.head == "dinotxt" else 1.0
        assert temperature is not None  # resolved
        window_size = self.image_processor.window_size if settings.window_size is None else settings.window_size
        pixel_values = torch.cat([image.tensors["pixel_values"] for image in group])
        maps = segment_windows(
            self.model,
            pixel_values.to(self.device, self.model.dtype),
            text_embeds,
            window_size=window_size,
            stride=max(1, window_size // 2) if settings.window_stride is None else settings.window_stride,
            head=settings.head,
            patch_source=settings.patch_source,
            temperature=temperature,
            refine_features=settings.refine_features,
            active_classes=settings.active_classes,
        )
        return _finite(maps)

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: LabeledImage,
        return_label_map: bool = False,
        return_masks: bool = True,
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Returns the labels found, in the format of transformers; see `__call__`."""
        return result_of(model_outputs, return_label_map, return_masks)


def _finite(maps: torch.Tensor) -> torch.Tensor:
    if not is_finite(maps):
        raise ValueError("The model's logits are not finite. Load the model in float32 or bfloat16; float16 overflows.")
    return maps


__all__ = ["TASK", "OpenVocabularySegmentationPipeline"]
