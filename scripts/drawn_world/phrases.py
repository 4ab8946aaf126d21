# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The phrases that describe drawn names, for training: groups of competing phrases, their words, and sampling."""

import itertools

import numpy as np
import torch

from dinov3seg_hf.drawn_world.names import NAMES, SEEN, factors_of, phrases_of


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
        # words[phrase, word]: the words of each phrase with several words, for the additivity of text embeddings
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
    phrases: Phrases, present: torch.Tensor, num_classes: int, rng: np.random.Generator, left_out: float = 0.0
) -> np.ndarray:
    """Samples phrases from the full names, from one other group, or from all groups.

    Phrases that are true of something in the batch come before other phrases.

    Args:
        phrases: All phrases.
        present: Whether each phrase is true of something in the batch, bool `(phrases,)`.
        num_classes: Number of phrases.
        rng: Random generator of the choice.
        left_out: Probability that a phrase that is true of something in the batch is left out. Pixels of which none of
            the phrases is true teach the model which logits mean "none".

    Returns:
        Indices of phrases, int64 `(num_classes,)`, or fewer if the group has fewer phrases.
    """
    everything = np.arange(len(phrases.phrases))
    # users who type few words rarely type full names
    kind = rng.choice(["names", "group", "mixed"], p=[0.5, 0.3, 0.2] if num_classes > 3 else [0.25, 0.5, 0.25])
    weights = np.ones(len(everything))
    if kind == "mixed":  # all groups are equally likely, because the groups of single words are small
        for group in phrases.groups:
            weights[group] /= group.stop - group.start
    else:
        pool = phrases.groups[0 if kind == "names" else rng.integers(1, len(phrases.groups))]
        weights[: pool.start], weights[pool.stop :] = 0, 0
    out = present.numpy() & (rng.random(len(everything)) < left_out)
    if weights[~out].any():  # small groups can be present as a whole
        weights[out] = 0
    # a weighted draw without replacement is the order of Exp(1) / weight
    order = np.argsort(rng.exponential(size=len(everything)) / np.maximum(weights, 1e-9))[: np.count_nonzero(weights)]
    shown = present.numpy()[order]
    return np.concatenate([order[shown], order[~shown]])[:num_classes]
