# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Converts words that a user typed to a vocabulary within limits, for the demo and for the service."""

import re
from collections.abc import Sequence

from ..model.prompts import DEFAULT_TEMPLATE, resolve_templates
from ..model.vocabulary import Vocabulary
from .limits import Limits


def vocabulary_within(
    limits: Limits, labels: str | Sequence[str], templates: str | Sequence[str] | None = None
) -> Vocabulary:
    """Converts labels that a user typed to a vocabulary.

    Args:
        limits: The limits on labels, words and templates.
        labels: A text with commas or line breaks between labels, or a list of labels. `|` separates the synonyms of a
            label.
        templates: See `Vocabulary`; or a text with one template per line. Default: the template of the paper.

    Raises:
        ValueError: If there are no labels, there are too many or too long labels, a label occurs twice, or a template
            is invalid.
    """
    if not isinstance(labels, (str, list, tuple)):
        raise ValueError(f"The words are of type {type(labels).__name__}; expected text, or a list of words.")
    if isinstance(labels, str):
        if len(labels) > (max_length := limits.words * (limits.word_length + 1)):
            raise ValueError(f"The text has {len(labels)} characters; expected at most {max_length}. Use fewer words.")
        labels = [label for label in re.split(r"[,\n]", labels) if label.strip()]
    if not labels:
        raise ValueError("No words yet. Type what to look for, for example: cat, grass, sky.")
    if len(labels) > limits.labels:
        raise ValueError(f"Got {len(labels)} labels; expected at most {limits.labels}. Use fewer labels.")
    templates = templates_within(limits, templates)
    for label in labels:
        if not isinstance(label, str):
            raise ValueError(f"labels contains a value of type {type(label).__name__}; expected only strings.")
    words = [[word for word in label.split("|") if word.strip()] or [label] for label in labels]
    longest = max((word for row in words for word in row), key=len)
    if len(longest.strip()) > limits.word_length:
        raise ValueError(
            f"{longest.strip()[:30] + '...'!r} has {len(longest.strip())} characters; expected at most "
            f"{limits.word_length}. Shorten this word."
        )
    check_prompts(limits, sum(map(len, words)), len(templates))
    # in published vocabularies, several classes can have the same synonym
    return Vocabulary([row[0] for row in words], words, templates=templates, shared_synonyms=True)


def templates_within(limits: Limits, templates: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the templates that a user typed.

    Args:
        limits: The limits on templates.
        templates: See `Vocabulary`; or a text with one template per line. Default: the template of the paper.

    Raises:
        ValueError: If a template is invalid, or there are too many or too long ones.
    """
    if isinstance(templates, str) and "\n" in templates:
        templates = [line for line in templates.splitlines() if line.strip()]
    if templates is None or (isinstance(templates, (str, list, tuple)) and not templates):
        templates = DEFAULT_TEMPLATE
    given = templates if isinstance(templates, (list, tuple)) else [templates]
    lengths = [len(template) for template in given if isinstance(template, str)]
    # before they are looked at: a request can have millions
    if len(given) > limits.templates or max(lengths, default=0) > 4 * limits.word_length:
        raise ValueError(
            f"Got {len(given)} templates with up to {max(lengths, default=0)} characters; expected at most "
            f"{limits.templates} templates with up to {4 * limits.word_length} characters. Use fewer or shorter "
            "templates."
        )
    return resolve_templates(templates)


def check_prompts(limits: Limits, num_words: int, num_templates: int) -> None:
    """Checks the number of words, and of words times templates.

    Raises:
        ValueError: If there are too many.
    """
    if num_words > limits.words or num_words * num_templates > limits.prompts:
        raise ValueError(
            f"{num_words} words in {num_templates} templates make {num_words * num_templates} prompts; expected "
            f"at most {limits.words} words and {limits.prompts} prompts. Use fewer words or templates."
        )
