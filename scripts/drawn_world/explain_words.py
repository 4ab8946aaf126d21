# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures what a constant that is added to all logits gains for a single word, and what it costs elsewhere.

    python scripts/drawn_world/explain_words.py

A word of a kind, such as "circle", is the only class of an image: its mean score over the pixels of all images where it
is true, and over the others. Then 24 names are the classes, and half of the names that an image shows are left out.
Their pixels should have no logit above 0 ("labeled"), and the pixels of the other names one ("rejected").
"""

import argparse
import sys

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dinov3seg_hf import TINY
from dinov3seg_hf.cli.console import EXIT_OK, Parser, execute, positive
from dinov3seg_hf.drawn_world.names import KINDS, NAMES, true_phrase
from dinov3seg_hf.drawn_world.scenes import batch
from dinov3seg_hf.drawn_world.seeds import VALIDATION
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.training.batches import normalize

SIDE, NUM_NAMES = 96, 24


def make_parser(prog: str) -> Parser:
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(TINY), metavar="DIR", help="checkpoint (default: embedded)")
    parser.add_argument("--scenes", type=positive, default=24, help="per split (default: 24)")
    parser.add_argument("--constants", type=float, nargs="+", default=[0, 1, 2, 3, 4, 5])
    return parser


def run(options: argparse.Namespace) -> int:
    pipe = load_pipeline(options.model, "cpu")
    columns = [f"{kind}, {where}" for kind in KINDS for where in ("true", "elsewhere")] + ["labeled", "rejected"]
    print("| split | constant | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|", sep="\n")
    for split in ("seen", "unseen"):
        scenes = [batch([VALIDATION + scene], split, SIDE) for scene in range(options.scenes)]
        words, left_out, shown = logits_of(pipe, scenes)
        for constant in options.constants:
            cells = [f"{(logits + constant).sigmoid().mean():.3f}" for pair in words for logits in pair]
            labeled, rejected = (left_out + constant > 0).float(), (shown + constant <= 0).float()
            cells += [f"{100 * share.mean():.1f} %" for share in (labeled, rejected)]
            print(f"| {split} | {constant:+g} | " + " | ".join(cells) + " |", flush=True)
    return EXIT_OK


@torch.no_grad()
def logits_of(pipe, scenes: list) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor, torch.Tensor]:
    """Returns the logits of each kind where it is true and elsewhere, and the highest logits of pixels among names.

    The latter are those of pixels whose name is left out, and those of the others.
    """
    model, kinds, names = pipe.model, pipe.encode_labels(KINDS).tensor, pipe.encode_labels(NAMES).tensor
    kind_of = true_phrase(KINDS)
    words = [([], []) for _ in KINDS]
    left_out, shown = [], []
    for number, (images, labels) in enumerate(tqdm(scenes, desc="Scenes")):
        pixels = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        features = model.get_image_features(pixels, head="full")

        def segment(text_embeds):
            logits = model(image_features=features, text_embeds=text_embeds, head="full").logits  # noqa: B023
            return F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0]

        for index, pair in enumerate(words):
            logits, true = segment(kinds[[index]])[0], torch.from_numpy(kind_of[labels[0]] == index)
            pair[0].append(logits[true])
            pair[1].append(logits[~true])
        vocabulary, missing = half_of_the_names(labels, np.random.default_rng(number))
        highest, is_missing = segment(names[vocabulary]).amax(0), torch.from_numpy(np.isin(labels[0], missing))
        left_out.append(highest[is_missing])
        shown.append(highest[~is_missing])
    return [(torch.cat(true), torch.cat(other)) for true, other in words], torch.cat(left_out), torch.cat(shown)


def half_of_the_names(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the classes of an image, without half of the names that it shows, and this half."""
    present = rng.permutation(np.unique(labels))
    missing, kept = np.split(present, [len(present) // 2])
    others = rng.permutation(np.setdiff1d(np.arange(len(NAMES)), present))
    return np.concatenate([kept, others[: NUM_NAMES - len(kept)]]), missing


if __name__ == "__main__":
    sys.exit(execute(sys.modules[__name__], "scripts/drawn_world/explain_words.py"))
