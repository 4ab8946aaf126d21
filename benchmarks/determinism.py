# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What is bit-equal when the same images are segmented in another way, and how much changes where it is not.

    python benchmarks/determinism.py

The embedded checkpoint, drawn scenes and all 192 names. Each row compares with one image at a time, in float32, with
one thread.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from dinov3seg_hf import TINY
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.loading import load_pipeline

Results = list[tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8, help="number of scenes (default: 8)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_pipeline(TINY, "cpu")
    images = [Image.fromarray(draw_scene(seed).image) for seed in range(options.scenes)]
    names = list(NAMES)

    def segment(labels=names, **arguments) -> Results:
        found = pipe(
            images, candidate_labels=labels, return_label_map=True, return_scores=True, return_masks=False, **arguments
        )
        places = np.array([names.index(label) for label in labels])
        inverse = np.argsort(places)
        return [(places[one["label_map"]], np.asarray(one["scores"])[inverse]) for one in found]

    def with_threads(count: int) -> Results:
        torch.set_num_threads(count)
        try:
            return segment()
        finally:
            torch.set_num_threads(1)

    def with_chunks(size: int) -> Results:
        before, pipe.model.config.class_chunk_size = pipe.model.config.class_chunk_size, size
        try:
            return segment()
        finally:
            pipe.model.config.class_chunk_size = before

    def in_bfloat16() -> Results:
        pipe.model.to(torch.bfloat16)
        try:
            return segment()
        finally:
            pipe.model.float()

    shuffled = [names[place] for place in np.random.default_rng(0).permutation(len(names))]
    rows: dict[str, Callable[[], Results]] = {
        "the same call again": segment,
        "four images in a batch": lambda: segment(batch_size=4),
        "16 classes in a chunk": lambda: with_chunks(16),
        "64 classes in a chunk": lambda: with_chunks(64),
        "the labels in another order": lambda: segment(shuffled),
        "two threads": lambda: with_threads(2),
        "bfloat16": in_bfloat16,
    }
    reference = segment()
    print("| against one call | bit-equal | other labels | largest difference of a score |\n|---|---|---|---|")
    for name, call in rows.items():
        print(f"| {name} | {' | '.join(compared(reference, call()))} |", flush=True)


def compared(reference: Results, found: Results) -> tuple[str, str, str]:
    """Whether all is equal, the share of pixels with another label, and the largest difference of a score."""
    equal = all(np.array_equal(a, b) for one, other in zip(reference, found) for a, b in zip(one, other))
    labels = np.concatenate([(one[0] != other[0]).ravel() for one, other in zip(reference, found)])
    scores = max(np.abs(one[1].astype(float) - other[1].astype(float)).max() for one, other in zip(reference, found))
    return "yes" if equal else "no", f"{labels.mean():.3%}", f"{scores:.1e}"


if __name__ == "__main__":
    main()
