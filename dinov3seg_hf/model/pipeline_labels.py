# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The labels of a pipeline, from words to text embeddings: encoded once, with a warning of words that are unknown."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .calibration import Calibration
from .checks import CalibrationWarning, UnknownWordsWarning
from .default_vocabulary import default_vocabulary_of
from .inference_settings import InferenceSettings
from .modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .text_cache import TextCache
from .text_embeddings import TextEmbeddings
from .vocabulary import Vocabulary, as_vocabulary

Labels = str | Iterable[str] | Vocabulary | TextEmbeddings


class PipelineLabels:
    """The part of the pipeline that encodes labels."""

    model: Dinov3SegForSemanticSegmentation
    processor: Any

    _candidate_labels: Labels | None
    _templates: str | Sequence[str] | None
    _text_cache: TextCache

    def _set_default_labels(self, candidate_labels: Labels | None, templates: str | Sequence[str] | None) -> None:
        """Sets the labels and templates of calls that pass none, and starts an empty cache."""
        if isinstance(candidate_labels, Iterator):  # the first call would read it to its end
            candidate_labels = list(candidate_labels)
        self._candidate_labels, self._templates = candidate_labels, templates
        self._text_cache = TextCache()

    def encode_labels(
        self,
        candidate_labels: Labels | None = None,
        templates: str | Sequence[str] | None = None,
        *,
        progress: bool = False,
    ) -> TextEmbeddings:
        """Returns the embeddings of labels; calls accept the embeddings instead of the labels.

        Classes that were encoded recently, with the same prompts and the same weights, are not encoded again.

        Args:
            candidate_labels: See `__call__`. Default: those of the pipeline, else the default vocabulary of the model.
            templates: See `__call__`.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: If there are no labels, a label is invalid, or another model made the embeddings.
        """
        templates = self._templates if templates is None else templates
        if candidate_labels is None:
            candidate_labels = self._candidate_labels
        if candidate_labels is None:
            candidate_labels = default_vocabulary_of(self.model)
            if isinstance(candidate_labels, Vocabulary) and self.processor is None and templates is None:
                return self._encode_default(candidate_labels)  # its prompts are stored as token ids
        if isinstance(candidate_labels, TextEmbeddings):
            if templates is not None:
                raise ValueError(
                    "Got templates for text embeddings; expected none, because the labels are already encoded. Omit "
                    "the templates, or pass the labels."
                )
            return self._text_cache.check(candidate_labels, self.model)
        vocabulary = as_vocabulary(candidate_labels, templates)
        self._warn_of_unknown_words(vocabulary)
        if self.processor is None:
            raise ValueError(
                "The checkpoint has no tokenizer, or its tokenizer cannot be read; labels need a tokenizer. Convert "
                "the checkpoint again with a tokenizer (--tokenizer), or pass text embeddings."
            )
        return self._text_cache.encode(vocabulary, self.model, self.processor, progress)

    def _encode_default(self, vocabulary: Vocabulary) -> TextEmbeddings:
        tensor = self.model.default_text_features().detach().float().cpu()
        return TextEmbeddings(
            tensor, vocabulary.names, vocabulary.fingerprint, self.text_fingerprint(), vocabulary.calibration
        )

    def text_fingerprint(self) -> str:
        """Returns the fingerprint of the text tower with its current weights; see `model_fingerprint`.

        The weights are read only once, until they change.
        """
        return self._text_cache.fingerprint(self.model)

    def _warn_of_unknown_words(self, vocabulary: Vocabulary) -> None:
        known_words = self.model.config.known_words
        if known_words is None or not (unknown := vocabulary.unknown_to(known_words)):
            return
        warnings.warn(
            f"This checkpoint knows {len(known_words)} words only ({', '.join(known_words)}). {len(unknown)} of "
            f"{len(vocabulary)} labels have others, for example {unknown[0]!r}, and get arbitrary masks. Use these "
            "words, or a checkpoint that knows more, such as converted dino.txt weights.",
            UnknownWordsWarning,
            stacklevel=3,
        )

    def _calibration_of(self, text: TextEmbeddings, settings: InferenceSettings) -> Calibration | None:
        """Returns the calibration that decides which pixels show none of the labels.

        Warns if it is another model's, or one of an earlier version, which did not store what it was measured of.

        Args:
            text: The labels.
            settings: The settings in use, from `resolved_settings`.

        Raises:
            ValueError: If the calibration is for other settings.
        """
        calibration = text.calibration
        if calibration is None or settings.background == "never":
            return None
        calibration.check(settings)
        if calibration.model_fingerprint != text.model_fingerprint:
            reason = "with another checkpoint, or with another dtype of its weights"
        elif not calibration.is_complete:
            reason = "by an earlier version, which did not store for which inference mode and which features"
        else:
            return calibration
        warnings.warn(
            f"The labels were calibrated {reason}, so the bounds may not fit. Calibrate them again, or pass "
            'background="never".',
            CalibrationWarning,
            stacklevel=2,
        )
        return calibration
