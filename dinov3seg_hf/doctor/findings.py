# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What the doctor found in a vocabulary, and the vocabulary with the proposals applied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..model.vocabulary import Vocabulary, word_key

Kind = Literal["joined", "torn", "meanings", "similar", "everywhere", "nowhere"]


@dataclass(frozen=True)
class Finding:
    """A problem of a vocabulary, with a proposal if there is one.

    Attributes:
        kind: `"joined"`: a word that is written as one but is two. `"torn"`: a word that the tokenizer does not know.
            `"meanings"`: a word with several meanings. `"similar"`: two classes that the text encoder hardly tells
            apart. `"everywhere"`, `"nowhere"`: a class that wins far too much, or nothing, in the images.
        labels: The labels of the classes.
        message: What was found, in a sentence.
        words: The proposal: words to replace, and the words that replace them.
        merge: The proposal: the second class becomes synonyms of the first one.
    """

    kind: Kind
    labels: tuple[int, ...]
    message: str
    words: Mapping[str, str] = field(default_factory=dict)
    merge: tuple[int, int] | None = None

    @property
    def has_proposal(self) -> bool:
        return bool(self.words) or self.merge is not None


def apply_findings(vocabulary: Vocabulary, findings: Sequence[Finding]) -> Vocabulary:
    """Applies the proposals: replaces words, then merges classes.

    Merged classes are numbered anew; the values of the annotation (`raw_ids`) follow. Without `raw_ids`, the labels of
    the original vocabulary become the raw ids, so that masks made with it still fit. A calibration does not fit other
    words, and is left out.

    Raises:
        ValueError: If two classes would have the same name.
    """
    synonyms = [list(words) for words in vocabulary.synonyms]
    names = list(vocabulary.names)
    for finding in findings:
        for label in finding.labels if finding.words else ():
            synonyms[label] = [finding.words.get(word, word) for word in synonyms[label]]
            names[label] = finding.words.get(names[label], names[label])

    target = list(range(len(names)))  # the class that each class becomes a part of
    for finding in findings:
        if finding.merge is not None:
            first, second = sorted(_root(target, label) for label in finding.merge)
            target[second] = first
    roots = [_root(target, label) for label in range(len(names))]
    kept = sorted(set(roots))
    if len(kept) == len(names):
        changed = replace(vocabulary, names=tuple(names), synonyms=tuple(map(tuple, synonyms)), calibration=None)
        return vocabulary if changed.fingerprint == vocabulary.fingerprint else changed

    if vocabulary.background_from is not None:
        raise ValueError(
            "The vocabulary merges background classes (background_from), so its classes cannot be merged otherwise. "
            "Apply only findings of other kinds."
        )
    number = {root: label for label, root in enumerate(kept)}
    raw_ids = vocabulary.raw_ids or {label: label for label in range(len(names))}
    merged = [[word for label, root in enumerate(roots) if root == of for word in synonyms[label]] for of in kept]
    return replace(
        vocabulary,
        names=tuple(names[label] for label in kept),
        synonyms=tuple(map(_without_repeats, merged)),
        raw_ids={raw_id: number[roots[label]] for raw_id, label in raw_ids.items()},
        calibration=None,
    )


def _root(target: list[int], label: int) -> int:
    while target[label] != label:
        label = target[label]
    return label


def _without_repeats(words: Sequence[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for word in words:
        first.setdefault(word_key(word), word)
    return tuple(first.values())
