# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The names of the drawn world, "{color} {pattern} {kind}", and the names that training does not use.

About a quarter of the 192 names is held out (`UNSEEN`). Fixed product blocks define these names, see `HOLDOUT_BLOCKS`.
"""

import itertools

import numpy as np

DRAWN_WORLD = "drawn-world"  # the name of its data sets

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")

PATTERNS = ("plain", "striped", "dotted", "checkered")

SHAPES = ("circle", "square", "triangle", "star", "cross")

KINDS = (*SHAPES, "background")

NAMES = tuple(" ".join(factors) for factors in itertools.product(COLORS, PATTERNS, KINDS))

# Product blocks (colors x patterns x kinds) over two halves of the colors and two halves of the patterns. Two factors
# of an unseen name do not determine the third factor: 3 or 4 unseen colors, 2 unseen patterns or 2 to 4 unseen kinds
# remain. Every color-pattern, color-kind and pattern-kind pair still occurs in training. Backgrounds are held out only
# for color-pattern pairs that also have held-out objects, so such a pair does not determine the kind.
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
        ValueError: If the name is not in `NAMES`.
    """
    if name not in LABEL_OF:
        raise ValueError(
            f"{name!r} is not a name of the drawn world; expected '{{color}} {{pattern}} {{kind}}' with one of the "
            f"colors {', '.join(COLORS)}, one of the patterns {', '.join(PATTERNS)} and one of the kinds "
            f"{', '.join(KINDS)}."
        )
    color, pattern, kind = name.split()
    return color, pattern, kind


def phrases_of(name: str) -> tuple[str, ...]:
    """The seven phrases that are true for a name: every non-empty subset of its words, in their order.

    Example:
        "red striped circle" -> "red", "striped", "circle", "red striped", "red circle", "striped circle" and the name.
    """
    words = factors_of(name)
    return tuple(" ".join(chosen) for count in (1, 2, 3) for chosen in itertools.combinations(words, count))


def phrase_groups() -> dict[str, tuple[str, ...]]:
    """The phrases of one and two words, grouped by factors. For every name, exactly one phrase per group is true.

    Returns:
        The groups `color`, `pattern`, `kind`, `color pattern`, `color kind` and `pattern kind`, with all their phrases.
    """
    parts = {"color": COLORS, "pattern": PATTERNS, "kind": KINDS}
    return {
        " ".join(chosen): tuple(" ".join(words) for words in itertools.product(*(parts[part] for part in chosen)))
        for count in (1, 2)
        for chosen in itertools.combinations(parts, count)
    }


def true_phrase(group: tuple[str, ...]) -> np.ndarray:
    """The index, in a group, of the phrase that is true for each of `NAMES`: int `(192,)`."""
    truths = [[i for i, phrase in enumerate(group) if phrase in phrases_of(name)] for name in NAMES]
    return np.array([index for (index,) in truths])
