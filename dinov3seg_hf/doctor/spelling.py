# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds words that a text encoder reads badly: written as one, misspelled, or with several meanings."""

import difflib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..model.vocabulary import Vocabulary, word_key
from .findings import Finding, Kind

# Words that stand for several visible things, each with phrases for one of them. Ours; the first one is what labels of
# photographs mean most often.
MEANINGS = {
    "bank": ("bank building", "river bank"),
    "bat": ("baseball bat", "bat animal"),
    "block": ("building block", "concrete block"),
    "board": ("wooden board", "notice board"),
    "bow": ("ribbon bow", "archery bow"),
    "cap": ("baseball cap", "bottle cap"),
    "chest": ("storage chest", "human chest"),
    "club": ("golf club", "night club"),
    "counter": ("kitchen counter", "shop counter"),
    "court": ("tennis court", "court building"),
    "crane": ("construction crane", "crane bird"),
    "date": ("date fruit", "calendar date"),
    "drill": ("power drill", "drill exercise"),
    "fan": ("electric fan", "sports fan"),
    "file": ("paper file", "metal file"),
    "fly": ("fly insect", "zipper fly"),
    "fork": ("table fork", "fork in the road"),
    "glasses": ("eyeglasses", "drinking glasses"),
    "ground": ("bare ground", "coffee grounds"),
    "jam": ("fruit jam", "traffic jam"),
    "key": ("door key", "keyboard key"),
    "kite": ("toy kite", "kite bird"),
    "light": ("lamp light", "traffic light"),
    "match": ("matchstick", "sports match"),
    "mole": ("mole animal", "skin mole"),
    "mouse": ("computer mouse", "mouse animal"),
    "nail": ("metal nail", "finger nail"),
    "organ": ("pipe organ", "body organ"),
    "palm": ("palm tree", "palm of the hand"),
    "pen": ("ballpoint pen", "animal pen"),
    "pitcher": ("water pitcher", "baseball pitcher"),
    "plane": ("airplane", "carpenter's plane"),
    "plant": ("green plant", "power plant"),
    "pool": ("swimming pool", "pool table"),
    "pot": ("cooking pot", "flower pot"),
    "rail": ("railroad track", "hand rail"),
    "ring": ("finger ring", "boxing ring"),
    "rock": ("stone rock", "rock music"),
    "ruler": ("measuring ruler", "king"),
    "screen": ("computer screen", "folding screen"),
    "seal": ("seal animal", "wax seal"),
    "slide": ("playground slide", "presentation slide"),
    "stand": ("market stand", "grandstand"),
    "step": ("stair step", "foot step"),
    "table": ("dining table", "table of numbers"),
    "tank": ("water tank", "military tank"),
    "tap": ("water tap", "tap dance"),
    "tie": ("necktie", "cable tie"),
    "trunk": ("tree trunk", "car trunk", "elephant trunk"),
    "watch": ("wristwatch", "night watch"),
    "wave": ("sea wave", "hand wave"),
}
# A word of English that a text encoder saw often has one or two pieces.
MAX_PIECES = 3
MIN_PART = 3  # letters of each part of a joined word


def find_spelling(vocabulary: Vocabulary, tokenizer: Any = None) -> list[Finding]:
    """Finds joined words, words with several meanings and, with a tokenizer, words that it tears apart.

    A word that the vocabulary has, or another finding proposes, is not proposed.

    Args:
        vocabulary: The vocabulary.
        tokenizer: The tokenizer of the text encoder. `None`: words are not tokenized.
    """
    findings = []
    taken = {word_key(word) for words in (vocabulary.names, *vocabulary.synonyms) for word in words}

    def add(kind: Kind, label: int, message: str, word: str, *proposals: str) -> None:
        better = next((proposal for proposal in proposals if word_key(proposal) not in taken), None)
        if better is None:
            message += f" There is {proposals[0]!r} already."
        else:
            taken.add(word_key(better))
        findings.append(Finding(kind, (label,), message, {} if better is None else {word: better}))

    for label, words in enumerate(vocabulary.synonyms):
        for word in words:
            if (spaced := separated(word, tokenizer)) != word:
                message = f"{word!r} is written as one word; text encoders know {spaced!r}."
                add("joined", label, message, word, spaced)
            elif len(words) == 1 and word.lower() in MEANINGS:
                first, *others = MEANINGS[word.lower()]
                message = f"{word!r} has several meanings, such as {first!r} and {', '.join(map(repr, others))}."
                add("meanings", label, message, word, first, *others)
            elif tokenizer is not None and (torn := torn_part(word, tokenizer)):
                part, pieces = torn
                message = (
                    f"{part!r} in {word!r} is {pieces} pieces to the tokenizer, so the text encoder hardly knows it"
                )
                near = difflib.get_close_matches(part.lower(), known_words(), n=1, cutoff=0.8)
                if near and near[0] != part.lower():
                    message += f"; {near[0]!r} is spelled like it."
                    add("torn", label, message, word, word.replace(part, near[0]))
                else:
                    findings.append(Finding("torn", (label,), f"{message}."))
    return findings


def separated(word: str, tokenizer: Any = None) -> str:
    """Returns a word with spaces where `_`, `/` or a change of case joins parts, and between two known words.

    Args:
        word: The word.
        tokenizer: A word that is one piece to it is known, so it stays whole: "background".
    """
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])|[_/]+", " ", word).split()
    if parts != word.split():  # "TrafficLight"
        parts = [part.lower() for part in parts]
    return " ".join(_split_at_known_words(part, tokenizer) for part in parts)


def _split_at_known_words(word: str, tokenizer: Any) -> str:
    known = known_words()
    lower = word.lower()
    if lower in known or not lower.isalpha() or (tokenizer is not None and _num_pieces(lower, tokenizer) == 1):
        return word
    for place in range(MIN_PART, len(word) - MIN_PART + 1):
        if lower[:place] in known and lower[place:] in known:
            return f"{word[:place]} {word[place:]}"
    return word


@lru_cache
def known_words() -> frozenset[str]:
    """Returns the words of the benchmark vocabularies and of `MEANINGS`, in lower case."""

    def phrases() -> Iterator[str]:
        for preset in Vocabulary.presets():
            for words in Vocabulary.from_preset(preset).synonyms:
                yield from words
        for word, meanings in MEANINGS.items():
            yield from (word, *meanings)

    return frozenset(part for phrase in phrases() for part in re.findall(r"[a-z]+", phrase.lower()))


def torn_part(word: str, tokenizer: Any) -> tuple[str, int] | None:
    """Returns the part of a word with the most pieces for the tokenizer, if it has more than `MAX_PIECES`."""
    counts = [(_num_pieces(part, tokenizer), part) for part in word.split()]
    pieces, part = max(counts)
    return (part, pieces) if pieces > MAX_PIECES else None


def _num_pieces(word: str, tokenizer: Any) -> int:
    return len(tokenizer(word, add_special_tokens=False)["input_ids"])
