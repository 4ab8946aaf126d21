# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The phrases that are true of drawn names, for training: which compete, what they are made of, which are asked for."""

import itertools

import numpy as np
import torch

from dinov3seg_hf.drawn_world.names import NAMES, SEEN, factors_of, phrases_of


class Phrases:
    """Every phrase that is true of a seen name, in seven groups; each group divides the names among its phrases."""

    def __init__(self):
        parts = ("color", "pattern", "kind")
        self.phrases: list[str] = []
        self.groups: list[slice] = []
        for length in (3, 2, 1):
            for chosen in itertools.combinations(range(len(parts)), length):
                group = []
                for name in SEEN:
                    phrase = " ".join(factors_of(name)[part] for part in chosen)
                    if phrase not in group:
                        group.append(phrase)
                self.groups.append(slice(len(self.phrases), len(self.phrases) + len(group)))
                self.phrases += group
        index = {phrase: i for i, phrase in enumerate(self.phrases)}
        # truth[name, phrase]: the phrase is true of the name; only seen names have rows
        self.truth = torch.zeros(len(NAMES), len(self.phrases))
        for label, name in enumerate(NAMES):
            if name in SEEN:
                for phrase in phrases_of(name):
                    self.truth[label, index[phrase]] = 1.0
        # words[phrase, word]: the words of each phrase of several, for the additivity of text embeddings
        self.words = torch.zeros(self.groups[4].start, len(self.phrases))
        for phrase in self.phrases[: self.groups[4].start]:
            self.words[index[phrase], [index[word] for word in phrase.split()]] = 1.0
        # choices[name, phrase]: with the name's other words, the phrase makes a seen name
        self.choices = torch.zeros(len(NAMES), len(self.phrases))
        for label, name in enumerate(NAMES):
            words = factors_of(name)
            for other in SEEN:
                others = factors_of(other)
                for length in (3, 2, 1):
                    for chosen in itertools.combinations(range(len(parts)), length):
                        if all(words[part] == others[part] for part in range(len(parts)) if part not in chosen):
                            self.choices[label, index[" ".join(others[part] for part in chosen)]] = 1.0


def sample_vocabulary(
    phrases: Phrases, present: torch.Tensor, num_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """Indices of phrases: what the batch shows before random others, of whole names, of one group, or of all groups.

    Args:
        phrases: All that there are.
        present: `(phrases,)` bool, true of something in the batch.
        num_classes: How many are wanted.
        rng: Of the choice.

    Returns:
        int64 `(num_classes,)`, or fewer where the group has no more.
    """
    everything = np.arange(len(phrases.phrases))
    # who types one word rarely types a whole name
    kind = rng.choice(["names", "group", "mixed"], p=[0.5, 0.3, 0.2] if num_classes > 3 else [0.25, 0.5, 0.25])
    weights = np.ones(len(everything))
    if kind == "mixed":  # the groups of words are small: each group is as likely as any other
        for group in phrases.groups:
            weights[group] /= group.stop - group.start
    else:
        pool = phrases.groups[0 if kind == "names" else rng.integers(1, len(phrases.groups))]
        weights[: pool.start], weights[pool.stop :] = 0, 0
    # a weighted draw without replacement is the order of Exp(1) / weight
    order = np.argsort(rng.exponential(size=len(everything)) / np.maximum(weights, 1e-9))[: np.count_nonzero(weights)]
    shown = present.numpy()[order]
    return np.concatenate([order[shown], order[~shown]])[:num_classes]
