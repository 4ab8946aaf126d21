# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The phrases that describe drawn names, for training: groups of competing phrases, their words, and sampling."""

import itertools

import numpy as np
import torch

from dinov3seg_hf.drawn_world.names import NAMES, SEEN, factors_of, phrases_of

# Shares of the groups among phrases that are asked alone, in the order of `Phrases.groups`. The last is that of the
# kinds, such as "circle", which are the hardest: with a share of a tenth, their scores were low (docs/decisions.md).
ALONE = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4)


class Phrases:
    """All phrases that are true of a seen name, in seven groups. One phrase of each group is true of a seen name."""

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
        # background[name]: the seen name is one of a background, in the order of the first group
        names = self.phrases[self.groups[0]]
        self.background = torch.tensor([float(name.endswith("background")) for name in names])
        # words[phrase, word]: the words of each phrase with several words, for the additivity of text embeddings
        self.words = torch.zeros(self.groups[4].start, len(self.phrases))
        for phrase in self.phrases[: self.groups[4].start]:
            self.words[index[phrase], [index[word] for word in phrase.split()]] = 1.0
        # independent[word, word]: the words are of different factors
        factors = torch.cat([torch.full((group.stop - group.start,), i) for i, group in enumerate(self.groups[4:])])
        self.independent = factors[:, None] != factors
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

    def to(self, device: str) -> "Phrases":
        """Moves all tables to a device."""
        for name, table in vars(self).items():
            if isinstance(table, torch.Tensor):
                setattr(self, name, table.to(device))
        return self


def sample_pool(phrases: Phrases, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Samples the phrases that a vocabulary is chosen from: the full names, one other group, or some of every group.

    For one class, the pool is a whole group, drawn by `ALONE`.

    Args:
        phrases: All phrases.
        num_classes: Number of phrases of the vocabulary; users who type few words rarely type full names.
        rng: Random generator of the choice.

    Returns:
        Indices of phrases, int64, ascending.
    """
    everything = np.arange(len(phrases.phrases))
    if num_classes == 1:
        return everything[phrases.groups[rng.choice(len(phrases.groups), p=ALONE)]]
    kind = rng.choice(["names", "group", "mixed"], p=[0.5, 0.3, 0.2] if num_classes > 3 else [0.25, 0.5, 0.25])
    if kind == "mixed":  # as many of each group, because the groups of single words are small
        smallest = min(group.stop - group.start for group in phrases.groups)
        each = max(smallest, -(-num_classes // len(phrases.groups)))
        return np.sort(np.concatenate([rng.permutation(everything[group])[:each] for group in phrases.groups]))
    return everything[phrases.groups[0 if kind == "names" else rng.integers(1, len(phrases.groups))]]
