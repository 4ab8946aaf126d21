# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The one way from images and words to masks: a transformers pipeline named "open-vocabulary-segmentation".

Knows the order of things: labels are encoded once a vocabulary, pixels once an image; label maps and masks have the
size of the original image. Command line, demo and evaluation go through it.
"""

import dataclasses
import os
import threading
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence, Sized
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from transformers import Pipeline
from transformers.pipelines.base import no_collate_fn
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from .image_input import open_image
from .inference import segment_windows
from .modeling_dinov3seg import Dinov3SegImageFeatures
from .vocabulary import TextEmbeddings, Vocabulary, model_fingerprint

TASK = "open-vocabulary-segmentation"

Inference = Literal["whole", "local-global", "slide"]
Labels = str | Iterable[str] | Vocabulary | TextEmbeddings

# Text embeddings of so many classes are kept, those used last the longest: 128 MiB at the paper's 2 x 1024 numbers.
MAX_CACHED_CLASSES = 16_384


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image as the model knows it before any text. A pipeline takes it in the place of the image it was made of.

    Attributes:
        features: What the model computed, on the model's device.
        size: (height, width) of the original image in pixels.
        inference, head, patch_source: How it was encoded, and so how it will be segmented.
    """

    features: Dinov3SegImageFeatures
    size: tuple[int, int]
    inference: Inference
    head: str
    patch_source: str
    _model: weakref.ref
    _weights: tuple


class OpenVocabularySegmentationPipeline(Pipeline):
    """Segments images by any list of labels.

    Example:

    ```python
    >>> import dinov3seg_hf
    >>> from transformers import pipeline

    >>> pipe = pipeline("open-vocabulary-segmentation", model=dinov3seg_hf.TINY)
    >>> segments = pipe("scene.png", candidate_labels=["red circle", "blue striped square", "background"])
    >>> segments[0]["label"], segments[0]["mask"].size
    ('red circle', (96, 96))
    ```

    Any option of a call may be given to `pipeline(...)` as well and is the default of all calls then.

    Args:
        model: A `Dinov3SegForSemanticSegmentation`; put in eval mode.
        processor: Its `Dinov3SegProcessor`. With an `image_processor` alone, labels have to come as `TextEmbeddings`.
        candidate_labels: Labels for calls that give none.
        templates: Templates for calls that give none.
    """

    # Optional: a checkpoint that was converted without a tokenizer has an image processor only.
    _load_processor = None
    _load_image_processor = None
    _load_tokenizer = False
    _load_feature_extractor = False

    def __init__(
        self, *args, candidate_labels: Labels | None = None, templates: str | Sequence[str] | None = None, **kwargs
    ):
        kwargs.pop("local_files_only", None)  # `pipeline` passes it on
        super().__init__(*args, **kwargs)
        if getattr(self.model.config, "model_type", None) != "dinov3seg":
            raise ValueError(
                f"The model is a {type(self.model).__name__}; expected a Dinov3SegForSemanticSegmentation. Load one "
                "from a checkpoint of dinov3.seg."
            )
        if self.processor is not None:
            self.image_processor, self.tokenizer = self.processor.image_processor, self.processor.tokenizer
        if self.image_processor is None:
            raise ValueError("The model came without its processor. Pass processor=AutoProcessor.from_pretrained(...).")
        self.model.eval()
        self._candidate_labels, self._templates = candidate_labels, templates
        self._text_cache = _TextCache()

    def _sanitize_parameters(
        self,
        text: TextEmbeddings | None = None,
        inference: Inference | None = None,
        head: Literal["full", "dinotxt"] | None = None,
        patch_source: Literal["head", "backbone"] | None = None,
        threshold: float | None = None,
        temperature: float | None = None,
        size: dict[str, int] | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
        return_label_map: bool | None = None,
        return_scores: bool | None = None,
        return_masks: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        if inference not in (None, "whole", "local-global", "slide"):
            raise ValueError(f'inference is {inference!r}; choose "whole", "local-global" or "slide".')
        if head not in (None, "full", "dinotxt"):
            raise ValueError(f'head is {head!r}; choose "full" or "dinotxt".')
        if patch_source not in (None, "head", "backbone"):
            raise ValueError(f'patch_source is {patch_source!r}; choose "head" or "backbone".')
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold!r}; scores lie between 0 and 1, choose one in between.")
        if temperature is not None and not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature!r}; choose a positive number.")
        preprocess = {"inference": inference, "size": size, "window_size": window_size, "window_stride": window_stride}
        forward = {
            "text": text,
            "head": head,
            "patch_source": patch_source,
            "threshold": threshold,
            "temperature": temperature,
            "window_stride": window_stride,
            "window_size": window_size,
            "return_scores": return_scores,
        }
        postprocess = {
            "labels": None if text is None else text.names,
            "return_label_map": return_label_map,
            "return_masks": return_masks,
        }
        return tuple(
            {key: value for key, value in parameters.items() if value is not None}
            for parameters in (preprocess, forward, postprocess)
        )

    def __call__(
        self,
        images: Any,
        candidate_labels: Labels | None = None,
        *,
        templates: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Segments images.

        Args:
            images: One image or a list: PIL, numpy, torch, path, URL (see `open_image`), `EncodedImage`. Or a data set
                or generator of them, which is read as the results are.
            candidate_labels: Class names, each "word" or "word|synonym|synonym"; or one string of them, separated by
                commas; or a `Vocabulary`; or its `TextEmbeddings`.
            templates: What names are wrapped in: the name of a set in `prompts.TEMPLATES`, one template, or several.
            inference: `"whole"`: the image at once. `"local-global"`: its windows as well, merged as features (the
                paper). `"slide"`: the model in each window, probabilities averaged (dino.txt's evaluation). By default
                `"local-global"` if the checkpoint's image processor cuts windows (`do_windows`), else `"whole"`. On an
                image that is no larger than a window, `"local-global"` is `"whole"`.
            head: `"full"` or `"dinotxt"` (zero-shot); the model configuration's unless given.
            patch_source: `"head"` or `"backbone"`; the model configuration's unless given.
            threshold: Pixels whose best score is lower are none of the labels.
            temperature: Of the zero-shot head's softmax; `1 / exp(model.logit_scale)` unless given.
            size, window_size, window_stride: Override the image processor's. The stride of `"slide"` is half a window
                unless given here.
            return_label_map: Also return the dense label map.
            return_scores: Also return each label's score everywhere.
            return_masks: `False` leaves the masks out of the segments: one image for each label found takes its time.
            batch_size: How many images go through the model at once. They may have different sizes.
            num_workers: Processes that read images.

        Returns:
            For each image a list of the labels found, in the order of the labels, in transformers' form: `score` (the
            mean over its pixels), `label`, `mask` (PIL `L`, 0 or 255, of the original image's size).

            With `return_label_map` or `return_scores` a dict: `segments` (that list), `labels` (all names), `label_map`
            (int32 `(H, W)`, the label of every pixel of the original image, -1 for none), and where asked for `scores`
            (float16 `(C, h, w)`, every label's score at the resolution of the model). Labels are those that are
            prompted; `Vocabulary.to_scored` makes one background of those from `background_from` on.

            A score of the full head is the sigmoid of a label on its own. A score of the zero-shot head is the softmax
            over the labels of cosines divided by `temperature`, and so depends on what other labels there are.

        Raises:
            ValueError: No labels, bad labels, an image that cannot be read, an option out of range.
            MemoryError: Too many labels for an image of this size, with what to do about it.
        """
        if images is None:
            raise ValueError("No images came; expected one image or a list.")
        if isinstance(images, tuple):
            images = list(images)
        if candidate_labels is None:
            candidate_labels = self._candidate_labels
        text = self.encode_labels(candidate_labels, templates)
        if isinstance(images, list) and not images:
            return []
        return super().__call__(images, text=text, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes model and processor, so that `pipeline` loads them again; the base class leaves the processor out."""
        super().save_pretrained(save_directory, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(save_directory, **kwargs)

    # --- text --------------------------------------------------------------------------------------------------------

    def encode_labels(
        self, candidate_labels: Labels | None, templates: str | Sequence[str] | None = None, *, progress: bool = False
    ) -> TextEmbeddings:
        """The embeddings of labels, which calls take in the place of the labels.

        A class that was encoded lately, with the same prompts and the same weights, is not encoded again.

        Args:
            candidate_labels, templates: As for a call.
            progress: Shows a bar.

        Raises:
            ValueError: No labels, bad labels, embeddings of another model.
        """
        templates = self._templates if templates is None else templates
        if isinstance(candidate_labels, TextEmbeddings):
            if templates is not None:
                raise ValueError(
                    "Templates came with text embeddings, which are made already. Leave them out, or pass the labels."
                )
            return self._text_cache.check(candidate_labels, self.model)
        vocabulary = as_vocabulary(candidate_labels, templates)
        if self.processor is None:
            raise ValueError(
                "The checkpoint came without a tokenizer (or one that cannot be read), which words need. Convert it "
                "again with one, or pass text embeddings."
            )
        return self._text_cache.encode(vocabulary, self.model, self.processor, progress)

    # --- image -------------------------------------------------------------------------------------------------------

    @property
    def default_inference(self) -> Inference:
        """What is done where a call does not say: what the checkpoint's image processor is set to."""
        return "local-global" if self.image_processor.do_windows else "whole"

    def preprocess(
        self,
        image: Any,
        inference: Inference | None = None,
        size: dict[str, int] | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
    ) -> dict[str, Any]:
        if isinstance(image, EncodedImage):
            if inference not in (None, image.inference) or size or window_size or window_stride:
                raise ValueError(
                    f'The image is encoded already, for inference="{image.inference}", which cannot be changed now. '
                    "Pass the image itself, or encode it again."
                )
            return {"encoded": image}
        if inference is None:
            inference = self.default_inference
        image = open_image(image, max_pixels=self.image_processor.max_image_pixels)
        overrides = {"size": size, "window_size": window_size, "window_stride": window_stride}
        inputs = self.image_processor(
            image,
            do_windows=inference == "local-global",
            return_tensors="pt",
            **{key: value for key, value in overrides.items() if value is not None},
        )
        tensors = dict(inputs)
        if inference == "local-global" and len(tensors["window_boxes"]) == 1:
            del tensors["window_pixel_values"], tensors["window_boxes"]  # the window is the image: nothing to be added
        return {"tensors": tensors, "size": (image.height, image.width), "inference": inference}

    def encode_image(
        self,
        image: Any,
        *,
        inference: Inference | None = None,
        head: Literal["full", "dinotxt"] | None = None,
        patch_source: Literal["head", "backbone"] | None = None,
        size: dict[str, int] | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
    ) -> EncodedImage:
        """Does all that does not depend on labels, once: `pipe(pipe.encode_image(image), candidate_labels=...)`.

        Args:
            image: One image; see `open_image`.
            inference, head, patch_source, size, window_size, window_stride: As for a call; but not `inference="slide"`,
                which has nothing to keep.

        Raises:
            ValueError: As a call.
        """
        self._check_mode()
        preprocess, forward, _ = self._sanitize_parameters(
            inference=inference,
            head=head,
            patch_source=patch_source,
            size=size,
            window_size=window_size,
            window_stride=window_stride,
        )
        inputs = self.preprocess(image, **{**self._preprocess_params, **preprocess})
        if "encoded" in inputs:
            raise ValueError("The image is encoded already. Pass the image itself to encode it in another way.")
        if inputs["inference"] == "slide":
            raise ValueError('inference="slide" segments each window afresh. Encode with "whole" or "local-global".')
        options = {**self._forward_params, **forward}
        head, patch_source = self._head_and_source(options.get("head"), options.get("patch_source"))
        with self.device_placement(), self.get_inference_context()():
            tensors = self._ensure_tensor_on_device(inputs["tensors"], device=self.device)
            features = self._encode([tensors], head, patch_source)
        return EncodedImage(
            features,
            inputs["size"],
            inputs["inference"],
            head,
            patch_source,
            weakref.ref(self.model),
            _weights_key(self.model),
        )

    def _check_mode(self) -> None:
        if self.model.training:
            raise ValueError("The model is in training mode, in which its answers vary. Call model.eval() first.")

    def _head_and_source(self, head: str | None, patch_source: str | None) -> tuple[str, str]:
        config = self.model.config
        return config.head if head is None else head, config.patch_source if patch_source is None else patch_source

    def _encode(self, tensors: list[dict[str, torch.Tensor]], head: str, patch_source: str) -> Dinov3SegImageFeatures:
        """Images of equal size -> features of the batch."""
        batch = {
            key: torch.cat([item[key] for item in tensors]).to(self.model.dtype)
            for key in ("pixel_values", "window_pixel_values")
            if key in tensors[0]
        }
        return self.model.get_image_features(
            **batch, window_boxes=tensors[0].get("window_boxes"), head=head, patch_source=patch_source
        )

    # --- images and text ---------------------------------------------------------------------------------------------

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> PipelineIterator:
        """As the base class makes it, but a batch remains a list: its images may have different sizes."""
        if isinstance(inputs, Sized):
            dataset = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            num_workers = min(num_workers, 1)  # several would each read all of it
            dataset = PipelineIterator(inputs, self.preprocess, preprocess_params)
        collate = no_collate_fn if batch_size == 1 else list
        loader = DataLoader(dataset, num_workers=num_workers, batch_size=batch_size, collate_fn=collate)
        outputs = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def forward(self, model_inputs: Any, **forward_params: Any) -> dict[str, Any]:
        """As the base class, but says what to do where memory does not suffice."""
        try:
            return super().forward(model_inputs, **forward_params)
        except RuntimeError as error:
            # torch says so of CUDA with a class of its own, of the CPU in words
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            num_labels = len(forward_params["text"])
            raise MemoryError(
                f"{num_labels} labels need more memory than there is on {self.device}. Take fewer labels, smaller "
                'images or head="dinotxt", which needs least; or lower batch_size and model.config.class_chunk_size.'
            ) from error

    def _forward(
        self,
        model_inputs: dict[str, Any] | list[dict[str, Any]],
        text: TextEmbeddings,
        head: str | None = None,
        patch_source: str | None = None,
        threshold: float | None = None,
        temperature: float | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
        return_scores: bool = False,
    ) -> dict[str, Any]:
        self._check_mode()
        items = model_inputs if isinstance(model_inputs, list) else [model_inputs]
        text_embeds = text.tensor.to(self.model.device, self.model.dtype)  # (C, 2, D)
        if temperature is None:
            temperature = float(torch.exp(-self.model.logit_scale.float()))

        groups = defaultdict(list)
        for index, item in enumerate(items):
            groups[_kind_of(item, index)].append(index)
        outputs = [None] * len(items)
        for indices in groups.values():
            group = [items[index] for index in indices]
            maps, score_function = self._score_maps(
                group, text_embeds, head, patch_source, temperature, window_size, window_stride
            )
            for index, item, image_maps in zip(indices, group, maps):
                image_size = item["encoded"].size if "encoded" in item else item["size"]
                outputs[index] = self._label(image_maps, score_function, image_size, threshold, return_scores)
        return {"outputs": outputs} if isinstance(model_inputs, list) else outputs[0]

    def _score_maps(
        self,
        group: list[dict[str, Any]],
        text_embeds: torch.Tensor,
        head: str | None,
        patch_source: str | None,
        temperature: float,
        window_size: int | None,
        window_stride: int | None,
    ) -> tuple[torch.Tensor, str]:
        """Images of one kind -> (B, C, h, w), and what makes scores of them: "sigmoid", "softmax" or "none"."""
        encoded: EncodedImage | None = group[0].get("encoded")
        if encoded is not None:
            self._check_encoded(encoded, head, patch_source)
            head, patch_source, features = encoded.head, encoded.patch_source, encoded.features
        else:
            head, patch_source = self._head_and_source(head, patch_source)
            tensors = [item["tensors"] for item in group]
            if group[0]["inference"] == "slide":
                window_size = self.image_processor.window_size if window_size is None else window_size
                probabilities = segment_windows(
                    self.model,
                    torch.cat([item["pixel_values"] for item in tensors]).to(self.model.dtype),
                    text_embeds,
                    window_size=window_size,
                    stride=max(1, window_size // 2) if window_stride is None else window_stride,
                    head=head,
                    patch_source=patch_source,
                    temperature=temperature if head == "dinotxt" else 1.0,
                )
                return _finite(probabilities), "none"
            features = self._encode(tensors, head, patch_source)
        logits = self.model(
            image_features=features, text_embeds=text_embeds, head=head, patch_source=patch_source
        ).logits
        logits = _finite(logits.float())
        return (logits, "sigmoid") if head == "full" else (logits / temperature, "softmax")

    def _check_encoded(self, encoded: EncodedImage, head: str | None, patch_source: str | None) -> None:
        if head not in (None, encoded.head) or patch_source not in (None, encoded.patch_source):
            raise ValueError(
                f'The image was encoded with head="{encoded.head}" and patch_source="{encoded.patch_source}", which '
                "cannot be changed now. Encode it again."
            )
        if encoded._model() is not self.model or encoded._weights != _weights_key(self.model):
            raise ValueError("The image was encoded by another model, or by other weights of it. Encode it again.")

    def _label(
        self,
        maps: torch.Tensor,
        score_function: str,
        size: tuple[int, int],
        threshold: float | None,
        return_scores: bool,
    ) -> dict[str, torch.Tensor]:
        """(C, h, w) -> label and score of every pixel of the original image, on the CPU."""
        result = self.image_processor.post_process_semantic_segmentation(
            SimpleNamespace(logits=maps[None]),
            target_sizes=[size],
            threshold=threshold,
            score_function=score_function,
            return_scores=True,
        )[0]
        labeled = {"label_map": result.segmentation.cpu(), "score_map": result.scores.cpu()}
        if return_scores:
            activation = {
                "sigmoid": torch.sigmoid,
                "softmax": lambda logits: logits.softmax(dim=0),
                "none": lambda p: p,
            }
            labeled["scores"] = activation[score_function](maps).half().cpu()
        return labeled

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        labels: tuple[str, ...],
        return_label_map: bool = False,
        return_masks: bool = True,
    ) -> list[dict[str, Any]] | dict[str, Any]:
        outputs = model_outputs.get("outputs", model_outputs)  # of a batch, or of a single image
        label_map = outputs["label_map"].numpy()
        places = label_map.ravel() + 1  # none of these is counted in the first place
        counts = np.bincount(places, minlength=len(labels) + 1)[1:]
        sums = np.bincount(places, weights=outputs["score_map"].numpy().ravel(), minlength=len(labels) + 1)[1:]
        segments = []
        for index in np.flatnonzero(counts).tolist():
            segment = {"score": float(sums[index] / counts[index]), "label": labels[index]}
            if return_masks:
                segment["mask"] = Image.fromarray((label_map == index).view(np.uint8) * np.uint8(255))
            segments.append(segment)
        if not return_label_map and "scores" not in outputs:
            return segments
        result = {"segments": segments, "labels": list(labels), "label_map": label_map}
        if "scores" in outputs:
            result["scores"] = outputs["scores"].numpy()
        return result


def as_vocabulary(labels: Any, templates: str | Sequence[str] | None = None) -> Vocabulary:
    """What people call labels -> a vocabulary.

    Args:
        labels: A list, a string of labels separated by commas, or a `Vocabulary`.
        templates: In place of the vocabulary's, or of the default.

    Raises:
        ValueError: No labels, or labels that `Vocabulary` refuses.
    """
    if isinstance(labels, Vocabulary):
        return labels if templates is None else dataclasses.replace(labels, templates=templates)
    if labels is None:
        labels = []
    if isinstance(labels, str):
        labels = labels.split(",") if labels.strip() else []
    return Vocabulary.from_list(labels, **({} if templates is None else {"templates": templates}))


class _TextCache:
    """Text embeddings by class. What is in it was made by the very weights that are asked for, or it is thrown away."""

    def __init__(self):
        self._lock = threading.Lock()
        self._owner: tuple | None = None
        self._tokenizer: Any = None
        self._embeds: OrderedDict[tuple[str, ...], torch.Tensor] = OrderedDict()  # prompts of a class -> (2, D)
        self._fingerprint: str | None = None

    def __getstate__(self) -> dict:  # pipelines travel to the processes that read images
        return {}

    def __setstate__(self, state: dict) -> None:
        self.__init__()

    def check(self, text: TextEmbeddings, model: nn.Module) -> TextEmbeddings:
        """Refuses embeddings of another model; reads its weights once."""
        with self._lock:
            self._belong_to(model, None)
            if self._fingerprint is None:
                self._fingerprint = model_fingerprint(model)
            if text.model_fingerprint != self._fingerprint:
                text.check(model)  # says why
        return text

    def encode(self, vocabulary: Vocabulary, model: nn.Module, processor: Any, progress: bool) -> TextEmbeddings:
        prompts = [tuple(of_class) for of_class in vocabulary.prompts()]
        with self._lock:  # one at a time: two threads would encode the same words twice
            self._belong_to(model, getattr(processor, "tokenizer", None))
            known = {key: self._embeds[key] for key in prompts if key in self._embeds}
            missing = [index for index, key in enumerate(prompts) if key not in known]
            if missing:
                encoded = self._encode(vocabulary, missing, model, processor, progress)
                self._fingerprint = encoded.model_fingerprint
                # clones: a row of it would keep the whole table alive
                known |= {prompts[index]: row.clone() for index, row in zip(missing, encoded.tensor)}
            for key in prompts:
                self._embeds[key] = known[key]
                self._embeds.move_to_end(key)
            while len(self._embeds) > MAX_CACHED_CLASSES:
                self._embeds.popitem(last=False)
            tensor = torch.stack([known[key] for key in prompts])
            return TextEmbeddings(tensor, vocabulary.names, vocabulary.fingerprint, self._fingerprint)

    @staticmethod
    def _encode(
        vocabulary: Vocabulary, missing: list[int], model: nn.Module, processor: Any, progress: bool
    ) -> TextEmbeddings:
        if len(missing) == len(vocabulary):
            return vocabulary.encode(model, processor, progress=progress)
        part = Vocabulary(
            [vocabulary.names[index] for index in missing],
            [vocabulary.synonyms[index] for index in missing],
            templates=vocabulary.templates,
            shared_synonyms=True,  # the vocabulary as a whole has passed
        )
        try:
            return part.encode(model, processor, progress=progress)
        except ValueError:
            vocabulary.encode(model, processor)  # fails alike, and counts the labels as the caller does
            raise

    def _belong_to(self, model: nn.Module, tokenizer: Any) -> None:
        """Throws everything away unless it was made by this text tower, as it is now, and this tokenizer."""
        text_model = model.text_model
        owner = (text_model, _weights_key(text_model))
        if self._owner is None or self._owner[0] is not text_model or self._owner[1] != owner[1]:
            self._owner, self._fingerprint = owner, None
            self._embeds.clear()
        if tokenizer is not None and tokenizer is not self._tokenizer:
            self._tokenizer = tokenizer
            self._embeds.clear()


def _kind_of(item: dict[str, Any], index: int) -> tuple:
    """Images that go through the model together have the same."""
    if "encoded" in item:
        return ("encoded", index)
    return (item["inference"], *(tuple(tensor.shape) for tensor in item["tensors"].values()))


def _finite(maps: torch.Tensor) -> torch.Tensor:
    if not maps.isfinite().all():
        raise ValueError(
            "The model's logits are not finite. Load it in float32 or bfloat16; float16 holds no large numbers."
        )
    return maps


def _weights_key(module: nn.Module) -> tuple:
    """Changes when weights do, without reading them all: where they are, how often torch wrote to them, a few values.

    The values tell of writes past torch's count (`parameter.data`), as exponential averages and adapters make them.
    """
    places, values = [], []
    for parameter in module.parameters():
        flat = parameter.detach().flatten()
        places.append(
            (flat.data_ptr(), 0 if parameter.is_inference() else parameter._version, parameter.dtype, parameter.device)
        )
        values.append(flat[:: max(1, flat.numel() // 8)].float())
    if not values:
        return ()
    device = values[0].device  # a model may be spread over several
    return (tuple(places), torch.cat([sample.to(device) for sample in values]).cpu().numpy().tobytes())
