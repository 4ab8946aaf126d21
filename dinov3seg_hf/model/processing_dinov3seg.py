# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Prepares images and class names as one batch of model inputs, and turns logits into label maps.

The processor contains an image processor and a tokenizer but no vocabulary: the same names always give the same
tensors.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from io import IOBase
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.tokenization_utils_base import LARGE_INTEGER

from .checks import check_option_names, checked_integer, quoted
from .image_processing_dinov3seg import Dinov3SegImageProcessorKwargs
from .prompts import DEFAULT_TEMPLATE, fill_templates, resolve_templates
from .remote_code import attach_remote_code
from .strict_values import strict_errors_as_value_errors
from .tokenization import stack_prompts, tokenize_prompts

MAX_LENGTH = 2**16  # tokens of a prompt
PADDINGS = ("longest", "max_length", "do_not_pad")
TRUNCATIONS = ("longest_first", "only_first", "do_not_truncate")
TENSORS = ("pt", "np")


class Dinov3SegModalityKwargs(ProcessingKwargs, total=False):
    """Options of the image processor and the tokenizer."""

    images_kwargs: Dinov3SegImageProcessorKwargs  # type: ignore[misc]  # narrowed as in transformers' own processors
    # transformers before 5.23 reads the defaults here, later versions in the attributes of the processor
    _defaults = {  # type: ignore[misc]  # as in transformers' own processors
        "images_kwargs": {"return_tensors": "pt"},
        "text_kwargs": {"return_tensors": "pt", "padding": "longest"},
    }


class Dinov3SegProcessorKwargs(Dinov3SegModalityKwargs, total=False):
    r"""Options of the processor.

    templates (`str` or `list[str]`, *optional*, defaults to the prompt of the paper, `DEFAULT_TEMPLATE`):
        Prompt templates for class names: the name of a template set, one template, or several. `None` or `"none"` uses
        class names without a template. Templates are not applied to ready prompts (a list of prompts per class).
    """

    images_kwargs: Dinov3SegImageProcessorKwargs
    templates: str | list[str] | tuple[str, ...] | None


class Dinov3SegProcessor(ProcessorMixin):
    """A processor that combines an image processor and a tokenizer.

    Args:
        image_processor: A `Dinov3SegImageProcessor` or `Dinov3SegImageProcessorPil`.
        tokenizer: The tokenizer of the text tower (CLIP's BPE for dino.txt).
    """

    valid_processor_kwargs = Dinov3SegProcessorKwargs  # type: ignore[assignment]  # as in transformers' own processors
    # defaults, because the model needs tensors and prompts of equal length
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
            text: Class names, each inserted into every template; or a list of ready prompts per class, used unchanged.
                A single string is the name of a single class.
            segmentation_maps: Label maps of the images, for training.
            **kwargs: `templates`, and options of the image processor and the tokenizer. Prompts are padded to the
                longest prompt unless `padding="max_length"`.

        Returns:
            A `BatchFeature` with the tensors of the image processor, and for `text` with

            - `input_ids`: int64 `(C, P, L)`: C classes, P prompts per class, L tokens per prompt;
            - `attention_mask`: int64 `(C, P, L)`, all zero for prompts that only pad a class with fewer than P prompts.

        Raises:
            ValueError: If images and text are both missing, the text contains no prompt, or a prompt is too long for
                the text tower. The message names the prompt; prompts are truncated only with `truncation=True`.
            TypeError: If an option is unknown.
        """
        if images is None and text is None:
            raise ValueError("Got neither images nor text; expected images, class names, or both.")
        if images is None and segmentation_maps is not None:
            raise ValueError("Got segmentation maps without images; expected both. Pass the images of the maps.")
        self._refuse_unknown(kwargs)
        _check_text_options(kwargs)
        templates = kwargs.pop("templates", self.templates)
        tokenizer_options = self.tokenizer.init_kwargs
        for name, value in kwargs.items():
            if isinstance(value, (Iterator, IOBase)):
                raise ValueError(f"{name} is of type {type(value).__name__}; expected a plain value, such as a list.")
        with strict_errors_as_value_errors():
            options = self._merge_kwargs(
                Dinov3SegModalityKwargs,  # type: ignore[arg-type]  # a class, unlike the annotation in transformers
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
        """Writes the JSON file and copies the code of the processor next to it, for loading without this package."""
        attach_remote_code(self, json_file_path, "processor")
        super().to_json_file(json_file_path)
        # transformers drops `auto_map` when it loads a processor (not an image processor): keeps equal processors equal
        self.__dict__.pop("auto_map", None)

    def post_process_semantic_segmentation(self, outputs: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Turns logits into label maps of the size of the original images; see the image processor."""
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
        """Tokenizes C lists of at most P prompts to `input_ids` and `attention_mask`, `(C, P, L)` with L tokens."""
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
                    'padding is "max_length", but the tokenizer has no model_max_length. Pass max_length, or omit '
                    "padding."
                )
        input_ids, attention_mask = stack_prompts(
            token_ids, self.tokenizer.pad_token_id or 0, length, pad_to_multiple_of or 1
        )
        return BatchFeature({"input_ids": input_ids, "attention_mask": attention_mask}, tensor_type=return_tensors)

    def _refuse_unknown(self, kwargs: Mapping[str, Any]) -> None:
        kinds = self.valid_processor_kwargs.__annotations__
        groups = {name: dict(kind.__annotations__) for name, kind in kinds.items() if name.endswith("_kwargs")}
        groups["images_kwargs"] |= getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {})
        groups["common_kwargs"] = groups["images_kwargs"] | groups["text_kwargs"]
        unknown = sorted(set(kwargs).difference(kinds, groups, *groups.values()))
        check_option_names(unknown, ("templates", *groups["common_kwargs"]), "the processor", tuple(groups))
        for name in groups.keys() & kwargs.keys():
            if not isinstance(kwargs[name], Mapping):
                raise ValueError(
                    f"{name} is {quoted(kwargs[name])}; expected a dictionary of options. Pass {{}} for the defaults."
                )
            check_option_names(kwargs[name], groups[name], name)


def _check_text_options(options: Mapping[str, Any]) -> None:
    for name in ("max_length", "pad_to_multiple_of"):
        if options.get(name) is not None and checked_integer(options[name], name, least=1) > MAX_LENGTH:
            raise ValueError(f"{name} is {options[name]}; expected at most {MAX_LENGTH} tokens. Lower {name}.")
    for name, choices in (("padding", PADDINGS), ("truncation", TRUNCATIONS), ("return_tensors", TENSORS)):
        value = getattr(options.get(name), "value", options.get(name))
        if not (value is None or isinstance(value, bool) or (isinstance(value, str) and value in choices)):
            raise ValueError(
                f"{name} is {quoted(options[name])}; expected {', '.join(map(repr, choices))}, True, False or None."
            )


def _prompts_of_classes(text: Any, templates: str | Sequence[str] | None) -> list[list[str]]:
    if not isinstance(text, (str, list, tuple)):
        raise ValueError(
            f"The text is of type {type(text).__name__}; expected class names (a list of strings), or ready prompts (a "
            "list of strings per class)."
        )
    classes = [text] if isinstance(text, str) else list(text)
    if not classes:
        raise ValueError("The list of class names is empty; expected at least one name.")
    if all(isinstance(name, str) for name in classes):
        templates = resolve_templates("none" if templates is None else templates)
        prompts = [fill_templates([name], templates) for name in classes]
        empty = next((name for name in classes if not name.strip()), None)
    elif all(isinstance(row, (list, tuple)) and all(isinstance(prompt, str) for prompt in row) for row in classes):
        prompts = [list(row) for row in classes]
        empty = next((row for row in prompts if not row or not all(prompt.strip() for prompt in row)), None)
    else:
        kinds = ", ".join(type(item).__name__ for item in classes[:3])
        raise ValueError(
            f"The text is a list of {kinds}; expected class names (a list of strings) or ready prompts (a list of "
            "strings per class). Use one of the two forms for all classes."
        )
    if empty is not None:
        raise ValueError(f"A class is {empty!r}; expected a name or prompts for every class. Remove empty classes.")
    return prompts


__all__ = ["Dinov3SegProcessor", "Dinov3SegProcessorKwargs"]
