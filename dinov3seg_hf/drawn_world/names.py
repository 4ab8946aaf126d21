# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The names of the drawn world, "{color} {pattern} {kind}", and which of them training never sees.

About a quarter of the 192 names is held out (`UNSEEN`) by fixed product blocks, see `HOLDOUT_BLOCKS`.
"""

import itertools

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")

PATTERNS = ("plain", "striped", "dotted", "checkered")

SHAPES = ("circle", "square", "triangle", "star", "cross")

KINDS = (*SHAPES, "background")

NAMES = tuple(" ".join(factors) for factors in itertools.product(COLORS, PATTERNS, KINDS))

# Product blocks (colors x patterns x kinds) over two halves of the colors and two halves of the patterns. Two factors
# of an unseen name leave 3 or 4 unseen colors, 2 unseen patterns or 2 to 4 unseen kinds for the third and never give
# it away; and each color-pattern, color-kind and pattern-kind pair is still met in training. Backgrounds are held out
# in color-pattern pairs in which objects are, so that their kind is no giveaway either.
HOLDOUT_BLOCKS = (
    (("red", "yellow", "blue", "white"), ("plain", "dotted"), ("circle", "triangle", "cross")),
    (("orange", "green", "purple", "black"), ("striped", "checkered"), ("square", "star")),
    (("red", "blue", "white"), ("plain", "dotted"), ("background",)),
    (("orange", "green", "black"), ("striped", "checkered"), ("background",)),
)

HELD_OUT = {" ".join(factors) for block in HOLDOUT_BLOCKS for factors in itertools.product(*block)}

SEEN = tuple(name for name in NAMES if name not in HELD_OUT)

UNSEEN = tuple(name for name in NAMES if name in HELD_OUT)

SPLITS = {"seen": SEEN, "unseen": UNSEEN, "all": NAMES}

LABEL_OF = {name: label for label, name in enumerate(NAMES)}


def factors_of(name: str) -> tuple[str, str, str]:
    """The (color, pattern, kind) of a full name.

    Raises:
        ValueError: the name is none of ``NAMES``.
    """
    if name not in LABEL_OF:
        raise ValueError(
            f"{name!r} is not a name of the drawn world. Expected '{{color}} {{pattern}} {{kind}}' with a color of "
            f"{', '.join(COLORS)}, a pattern of {', '.join(PATTERNS)} and a kind of {', '.join(KINDS)}."
        )
    color, pattern, kind = name.split()
    return color, pattern, kind


def phrases_of(name: str) -> tuple[str, ...]:
    """All seven phrases that are true of a name: every non-empty choice of its words in their natural order.

    Example:
        "red striped circle" -> "red", "striped", "circle", "red striped", "red circle", "striped circle" and the name.
    """
    words = factors_of(name)
    return tuple(" ".join(chosen) for count in (1, 2, 3) for chosen in itertools.combinations(words, count))


def phrase_groups() -> dict[str, tuple[str, ...]]:
    """The phrases of one word and of two, by what they speak of: of each group, just one is true of any name.

    Returns:
        `color`, `pattern`, `kind`, `color pattern`, `color kind` and `pattern kind`, with all their phrases.
    """
    parts = {"color": COLORS, "pattern": PATTERNS, "kind": KINDS}
    return {
        " ".join(chosen): tuple(" ".join(words) for words in itertools.product(*(parts[part] for part in chosen)))
        for count in (1, 2)
        for chosen in itertools.combinations(parts, count)
    }


def true_phrase(group: tuple[str, ...]) -> np.ndarray:
    """Of each of ``NAMES``, which phrase of a group is true: `(192,)` int, indices into the group."""
    truths = [[i for i, phrase in enumerate(group) if phrase in phrases_of(name)] for name in NAMES]
    return np.array([index for (index,) in truths])
