# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images and class names to one batch of model inputs, logits back to label maps.

Holds an image processor and a tokenizer, and no vocabulary: the same names give the same tensors every time.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.tokenization_utils_base import LARGE_INTEGER

from .image_processing_dinov3seg import Dinov3SegImageProcessorKwargs
from .prompts import DEFAULT_TEMPLATE, fill_templates, resolve_templates
from .remote_code import attach_remote_code
from .tokenization import stack_prompts, tokenize_prompts


class Dinov3SegModalityKwargs(ProcessingKwargs, total=False):
    """Options of the image processor and the tokenizer."""

    images_kwargs: Dinov3SegImageProcessorKwargs  # type: ignore[misc]  # narrowed as in transformers' own processors
    # transformers before 5.23 reads defaults here, later ones in the attributes of the processor
    _defaults = {  # type: ignore[misc]  # as in transformers' own processors
        "images_kwargs": {"return_tensors": "pt"},
        "text_kwargs": {"return_tensors": "pt", "padding": "longest"},
    }


class Dinov3SegProcessorKwargs(Dinov3SegModalityKwargs, total=False):
    r"""
    templates (`str` or `list[str]`, *optional*, defaults to the paper's):
        What class names are wrapped in: the name of a template set, one template, or several. `None` or `"none"` takes
        names as they are. Ready prompts (a list of prompts for each class) are never wrapped.
    """

    images_kwargs: Dinov3SegImageProcessorKwargs
    templates: str | list[str] | tuple[str, ...] | None


class Dinov3SegProcessor(ProcessorMixin):
    """Joins an image processor and a tokenizer.

    Args:
        image_processor: A `Dinov3SegImageProcessor` or `Dinov3SegImageProcessorPil`.
        tokenizer: The text tower's tokenizer (CLIP's BPE for dino.txt).
    """

    valid_processor_kwargs = Dinov3SegProcessorKwargs  # type: ignore[assignment]  # as in transformers' own processors
    # the model wants tensors, and prompts of one length: both are what one forgets to say
    images_kwargs = {"return_tensors": "pt"}
    text_kwargs = {"return_tensors": "pt", "padding": "longest"}
    templates = DEFAULT_TEMPLATE

    def __init__(
        self, image_processor: BaseImageProcessor | None = None, tokenizer: PreTrainedTokenizerBase | None = None
    ):
        super().__init__(image_processor, tokenizer)

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[Dinov3SegProcessorKwargs],
    ) -> BatchFeature:
        """Prepares images, class names, or both.

        Args:
            images: One image or a list; see the image processor.
            text: Class names, each wrapped in every template; or, for each class, a list of ready prompts, used as they
                are. A single string is the name of a single class.
            segmentation_maps: Label maps of the images, for training.
            **kwargs: `templates`, and options of the image processor and the tokenizer. Prompts are padded to the
                longest one unless `padding="max_length"`.

        Returns:
            A `BatchFeature` with the image processor's tensors, and for `text` with

            - `input_ids`: int64 `(C, P, L)`, C classes, P prompts a class, L tokens;
            - `attention_mask`: int64 `(C, P, L)`; all zero for prompts that only pad a class with fewer than P.

        Raises:
            ValueError: If there are neither images nor text, the text holds no prompt, or a prompt is longer than the
                text tower reads: it is named, never cut.
            TypeError: If an option is unknown.
        """
        if images is None and text is None:
            raise ValueError("Got neither images nor text; pass images, class names, or both.")
        if images is None and segmentation_maps is not None:
            raise ValueError("Got segmentation maps without images; pass the images that they belong to.")
        self._refuse_unknown(kwargs)
        templates = kwargs.pop("templates", self.templates)
        tokenizer_options = self.tokenizer.init_kwargs
        options = self._merge_kwargs(
            Dinov3SegModalityKwargs,  # type: ignore[arg-type]  # a class, whatever the library's annotation says
            tokenizer_init_kwargs=tokenizer_options,
            **kwargs,
        )
        data: dict[str, Any] = {}
        if text is not None:
            data.update(self._tokenize(_prompts_of_classes(text, templates), **options["text_kwargs"]))
        if images is not None:
            data.update(self.image_processor(images, segmentation_maps, **options["images_kwargs"]))
        return BatchFeature(data)

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Writes the JSON, and beside it the code of the processor for where this package is missing."""
        attach_remote_code(self, json_file_path, "processor")
        super().to_json_file(json_file_path)
        # the library drops the mark when it loads a processor (not an image processor): equal ones stay equal
        self.__dict__.pop("auto_map", None)

    def post_process_semantic_segmentation(self, outputs: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """The image processor's method: logits to label maps at the size of the original images."""
        return self.image_processor.post_process_semantic_segmentation(outputs, *args, **kwargs)

    def _tokenize(
        self,
        prompts: list[list[str]],
        padding: Any = None,
        truncation: Any = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """C lists of prompts -> input_ids and attention_mask (C, P, L)."""
        longest = self.tokenizer.model_max_length
        limit = longest if max_length is None else min(longest, max_length)
        if truncation:
            kwargs |= {"truncation": truncation, "max_length": max_length}
        token_ids = tokenize_prompts(self.tokenizer, prompts, None if truncation else limit, **kwargs)
        length = 0
        if getattr(padding, "value", padding) == "max_length":
            length = longest if max_length is None else max_length
            if length > LARGE_INTEGER:
                raise ValueError(
                    'padding="max_length" asks for the tokenizer\'s model_max_length, which it does not have. Pass '
                    "max_length, or leave padding out."
                )
        input_ids, attention_mask = stack_prompts(
            token_ids, self.tokenizer.pad_token_id or 0, length, pad_to_multiple_of or 1
        )
        return BatchFeature({"input_ids": input_ids, "attention_mask": attention_mask}, tensor_type=return_tensors)

    def _refuse_unknown(self, kwargs: Iterable[str]) -> None:
        known = {"common_kwargs"}
        for name, annotation in self.valid_processor_kwargs.__annotations__.items():
            known |= {name} | set(getattr(annotation, "__annotations__", {}))
        if unknown := sorted(set(kwargs) - known):
            raise TypeError(f"Unknown options of the processor: {', '.join(map(repr, unknown))}. Check the spelling.")


def _prompts_of_classes(text: Any, templates: str | Sequence[str] | None) -> list[list[str]]:
    classes = [text] if isinstance(text, str) else list(text)
    if not classes:
        raise ValueError("The list of class names is empty: pass at least one.")
    if all(isinstance(name, str) for name in classes):
        templates = resolve_templates("none" if templates is None else templates)
        prompts = [fill_templates([name], templates) for name in classes]
        empty = next((name for name in classes if not name.strip()), None)
    elif all(isinstance(row, (list, tuple)) and all(isinstance(prompt, str) for prompt in row) for row in classes):
        prompts = [list(row) for row in classes]
        empty = next((row for row in prompts if not row or not all(prompt.strip() for prompt in row)), None)
    else:
        raise ValueError(
            "Expected class names (a list of strings) or ready prompts (for each class a list of strings), got "
            f"{[type(item).__name__ for item in classes[:3]]}: use one of the two forms throughout."
        )
    if empty is not None:
        raise ValueError(f"Expected a name or prompts for every class, got {empty!r}: leave nameless classes out.")
    return prompts


__all__ = ["Dinov3SegProcessor", "Dinov3SegProcessorKwargs"]
