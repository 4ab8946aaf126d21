# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The default vocabulary of a model: the classes of `config.id2label`, which the model uses if it gets no text.

The configuration stores the words of the classes and the token ids of their prompts, so a model uses them without a
tokenizer, and they stay right when the text tower is trained. Of `TextEmbeddings`, whose prompts are unknown, the
weights contain the embeddings instead.

Shapes: C classes, P prompts per class, L tokens per prompt, D channels of a text half.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer, CLIPTextModelWithProjection
from transformers.utils import logging

from .calibration import Calibration
from .checks import first_line, quoted
from .fingerprints import model_fingerprint, weights_key
from .text_embeddings import TextEmbeddings
from .tokenization import TokenIds, stack_prompts, tokenize_prompts
from .vocabulary import Vocabulary, as_vocabulary
from .vocabulary_files import JSON_KEYS

# The options of `from_pretrained` that say where a file comes from, and so apply to a tokenizer as well.
SOURCE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

Model = TypeVar("Model", bound="Dinov3SegDefaultVocabulary")


class Dinov3SegDefaultVocabulary:
    """The part of `Dinov3SegForSemanticSegmentation` that stores and encodes the default vocabulary."""

    config: Any
    text_model: CLIPTextModelWithProjection
    get_text_features: Any
    register_buffer: Any
    default_text_embeds: torch.Tensor

    # the embeddings of the last default vocabulary, with what they were made of
    _default_text: tuple[object, torch.Tensor] | None = None
    # the fingerprint that the text tower had when it was last compared with stored embeddings
    _checked_text: tuple[object, ...] | None = None

    def set_vocabulary(
        self: Model,
        vocabulary: Vocabulary | TextEmbeddings | str | Sequence[str] | None,
        processor: Any = None,
        *,
        templates: str | Sequence[str] | None = None,
    ) -> Model:
        """Sets the classes that the model uses if it gets no text. They are saved and loaded with the model.

        Also sets `id2label` and `label2id` of the configuration and, of labels that have words,
        `semantic_loss_ignore_index`.

        Example:

        ```python
        >>> model.set_vocabulary(["cat", "sofa|couch", "background"], processor)
        >>> model(pixel_values).logits.shape[1], model.config.id2label[1]
        (3, 'sofa')
        ```

        Args:
            vocabulary: Class names, each "word" or "word|synonym|synonym"; one string of class names separated by
                commas; a `Vocabulary`; its `TextEmbeddings`, which this model made; or `None` to remove the default
                vocabulary.
            processor: The processor or the tokenizer of the model. Not needed for `TextEmbeddings` and `None`.
            templates: Prompt templates to use instead of those of the vocabulary or the default ones.

        Returns:
            The model.

        Raises:
            ValueError: If a label is invalid, a prompt is too long, the tokenizer is missing, or another model made the
                embeddings. The model keeps its vocabulary then.
        """
        if isinstance(vocabulary, TextEmbeddings):
            if templates is not None:
                raise ValueError("Got templates for text embeddings; expected none. Omit the templates.")
            vocabulary.check(self)
            self._drop_vocabulary()
            self.config.default_vocabulary = _stored_embeddings(vocabulary, self.text_model.dtype)
            self.make_room_for_embeddings()
            self.default_text_embeds.copy_(vocabulary.tensor)
            names = vocabulary.names
        elif vocabulary is None:
            self._drop_vocabulary()
            names = ("LABEL_0", "LABEL_1")  # the placeholders of transformers
        else:
            vocabulary = as_vocabulary(vocabulary, templates)
            tokenizer = getattr(processor, "tokenizer", processor)
            if tokenizer is None:
                raise ValueError(
                    "Got no tokenizer; expected the processor of the model, because class names need a tokenizer. Pass "
                    "processor=AutoProcessor.from_pretrained(...)."
                )
            if not hasattr(tokenizer, "model_max_length"):
                raise ValueError(
                    f"processor is of type {type(processor).__name__}; expected the processor or the tokenizer of the "
                    "model. Pass processor=AutoProcessor.from_pretrained(...)."
                )
            limit = min(tokenizer.model_max_length, self.config.text_config.max_position_embeddings)
            token_ids = tokenize_prompts(tokenizer, vocabulary.prompts(), limit)
            self._drop_vocabulary()
            self.config.default_vocabulary = _stored_prompts(vocabulary, token_ids)
            self.config.semantic_loss_ignore_index = vocabulary.ignore_label
            names = vocabulary.names
        self.config.id2label = dict(enumerate(names))
        self.config.label2id = {name: label for label, name in enumerate(names)}
        return self

    @property
    def vocabulary(self) -> Vocabulary | TextEmbeddings | None:
        """The default vocabulary, as it was set but without `raw_ids`; `None` if the model has none.

        Raises:
            ValueError: If `config.id2label` was changed since and contains other names.
        """
        return default_vocabulary_of(self)

    def default_text_features(self) -> torch.Tensor:
        """Returns the text embeddings of the default vocabulary, `(C, 2, D)`.

        They are what `get_text_features` gives for its prompts. They are computed again only if the text tower is
        trained or its weights have changed.

        Raises:
            ValueError: If the model has no default vocabulary, `config.id2label` contains other names, or the text
                tower is no longer that of the stored embeddings.
        """
        stored = self.config.default_vocabulary
        if stored is None:
            raise ValueError(
                "Got no text, and the model has no default vocabulary; expected input_ids or text_embeds. Pass one of "
                "them (the processor makes input_ids from class names), or set a default with "
                "model.set_vocabulary(names, processor)."
            )
        if names_of(self.config) != tuple(stored["names"]):
            default_vocabulary_of(self)  # raises the error
        if "prompt_ids" not in stored:
            self.checked_fingerprint(stored)
            embeds: torch.Tensor = self.default_text_embeds
            return embeds.to(self.text_model.dtype)
        weights = list(self.text_model.parameters())
        is_trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
        if is_trained or self.text_model.training or weights[0].is_meta or torch.compiler.is_compiling():
            return self._encode_prompts(stored)
        made_of = (stored["prompt_ids"], weights_key(self.text_model))
        if self._default_text is None or self._default_text[0] != made_of:
            # outside of inference mode, because training may use the tensor later
            with torch.inference_mode(False), torch.no_grad():
                self._default_text = (made_of, self._encode_prompts(stored))
        return self._default_text[1]

    def _encode_prompts(self, stored: Mapping[str, Any]) -> torch.Tensor:
        token_ids = [[[int(number) for number in ids.split()] for ids in of_class] for of_class in stored["prompt_ids"]]
        tables = stack_prompts(token_ids, self.config.text_config.pad_token_id or 0)
        input_ids, attention_mask = (torch.from_numpy(table).to(self.text_model.device) for table in tables)
        features: torch.Tensor = self.get_text_features(input_ids, attention_mask)  # (C, 2, D)
        return features

    def make_room_for_embeddings(self) -> None:
        """Registers the weight `default_text_embeds` if the configuration says that the weights contain it."""
        stored = self.config.default_vocabulary
        if stored is None or "prompt_ids" in stored:
            return
        width = self.config.vision_config.hidden_size
        weight = next(self.text_model.parameters())
        embeds = torch.zeros(len(stored["names"]), 2, width, dtype=torch.float32, device=weight.device)
        self.register_buffer("default_text_embeds", embeds)

    def adopt_names(self, source: Any, **options: Any) -> None:
        """Makes the names in `config.id2label` the default vocabulary, if they are other names and no placeholders.

        So the names that are passed to `from_pretrained`, as transformers' examples do, are used. A tokenizer that is
        missing or names that are invalid get a warning: the model is still usable with text.

        Args:
            source: The folder or Hub id of the model, which contains the tokenizer.
            **options: The options of `from_pretrained`.
        """
        names, stored = names_of(self.config), self.config.default_vocabulary
        if has_placeholders(self.config) or (stored is not None and names == tuple(stored["names"])):
            return
        try:
            options = {key: value for key, value in options.items() if key in SOURCE_OPTIONS}
            self.set_vocabulary(names, AutoTokenizer.from_pretrained(source, **options))
        except Exception as error:  # transformers raises many types of errors for missing and invalid files
            logging.get_logger(__name__).warning(
                f"The names in config.id2label are not used without text: {first_line(error)}. Set them with "
                "model.set_vocabulary(names, processor)."
            )

    def _drop_vocabulary(self) -> None:
        self.config.default_vocabulary = None
        self._default_text = self._checked_text = None
        if hasattr(self, "default_text_embeds"):
            del self.default_text_embeds

    def checked_fingerprint(self, stored: Mapping[str, Any]) -> str:
        """Returns the fingerprint of the text tower, after a check that it made the stored embeddings.

        The fingerprint depends on the dtype, so weights in another dtype cannot be checked.

        Raises:
            ValueError: If another text tower made the embeddings, or they are missing.
        """
        key = weights_key(self.text_model)
        if self._checked_text is None or self._checked_text[0] != key:
            if not self.default_text_embeds.any():
                raise ValueError(
                    "The weights of the model lack the embeddings of its default vocabulary. Set it again with "
                    "model.set_vocabulary(names, processor)."
                )
            fingerprint = model_fingerprint(self)
            same_dtype = str(self.text_model.dtype) == stored["dtype"]
            if same_dtype and fingerprint != stored["model_fingerprint"]:
                raise ValueError(
                    "The text tower changed since the embeddings of the default vocabulary were made. Set it again "
                    "with model.set_vocabulary(names, processor), which stores the prompts and not the embeddings."
                )
            self._checked_text = (key, fingerprint)
        return str(self._checked_text[1])


def default_vocabulary_of(model: Any) -> Vocabulary | TextEmbeddings | None:
    """Returns the default vocabulary of a model; see `Dinov3SegDefaultVocabulary.vocabulary`.

    A pipeline calls this function and not the model: `trust_remote_code=True` may import the code of the two from two
    copies, whose classes differ.
    """
    stored = model.config.default_vocabulary
    if stored is None:
        return None
    names = names_of(model.config)
    if names != tuple(stored["names"]):
        raise ValueError(
            f"config.id2label contains {quoted(list(names))}, but the default vocabulary of the model contains "
            f"{quoted(stored['names'])}; expected the same names. Set the names with "
            "model.set_vocabulary(names, processor), which changes both."
        )
    if "prompt_ids" in stored:
        return Vocabulary(**{key: stored[key] for key in JSON_KEYS if key in stored})
    return TextEmbeddings(
        model.default_text_embeds.detach().float().cpu(),
        names,
        stored["vocabulary_fingerprint"],
        # that of this model: the stored one is of the dtype in which the embeddings were made
        model.checked_fingerprint(stored),
        Calibration.of(stored["calibration"]) if "calibration" in stored else None,
    )


def names_of(config: Any) -> tuple[str, ...]:
    """Returns the class names of a configuration, in the order of the labels."""
    return tuple(config.id2label[label] for label in sorted(config.id2label))


def has_placeholders(config: Any) -> bool:
    """Whether the class names of a configuration are those that transformers makes up: LABEL_0, LABEL_1, ..."""
    return all(name == f"LABEL_{label}" for label, name in config.id2label.items())


def _stored_prompts(vocabulary: Vocabulary, token_ids: TokenIds) -> dict[str, Any]:
    fields = {key: getattr(vocabulary, key) for key in JSON_KEYS if key not in ("raw_ids", "calibration")}
    stored = {
        **{key: value for key, value in fields.items() if value is not None},
        "names": list(vocabulary.names),
        "synonyms": [list(words) for words in vocabulary.synonyms],
        "templates": list(vocabulary.templates),
        # strings, because transformers writes each number of a list in a line of its own
        "prompt_ids": [[" ".join(map(str, ids)) for ids in of_class] for of_class in token_ids],
    }
    return _with_calibration(stored, vocabulary.calibration)


def _stored_embeddings(text: TextEmbeddings, dtype: torch.dtype) -> dict[str, Any]:
    stored = {
        "names": list(text.names),
        "vocabulary_fingerprint": text.vocabulary_fingerprint,
        "model_fingerprint": text.model_fingerprint,
        "dtype": str(dtype),
    }
    return _with_calibration(stored, text.calibration)


def _with_calibration(stored: dict[str, Any], calibration: Any) -> dict[str, Any]:
    return stored if calibration is None else {**stored, "calibration": calibration.to_dict()}
