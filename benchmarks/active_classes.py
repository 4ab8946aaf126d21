# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The full head alone with `active_classes`, against all classes, at our default sizes (after CAT-Seg).

    python benchmarks/active_classes.py
    python benchmarks/active_classes.py --patches 20 --things 4 16 64
    python benchmarks/active_classes.py --device cuda --dtype bfloat16

The features are those of an image with some things (`--things`), one feature for each, with noise: with real images,
the number of active classes depends on what they show. Seconds are of one thread (on a GPU: on the clock), medians
of alternating runs. What the rejected classes cost in mIoU: scripts/drawn_world/evaluate_active_classes.py.
"""

import argparse
import statistics

import torch
from head import head_and_inputs, timed
from torch.nn import functional as F

NOISE = 0.5  # length of the noise of a patch, relative to its feature


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=847)
    parser.add_argument("--patches", type=int, default=40, help="side of the patch grid (default: 40)")
    parser.add_argument("--things", type=int, nargs="+", default=[4, 16, 64], help="numbers of things in an image")
    parser.add_argument("--rule", default="auto", help="value of active_classes (default: auto)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rule = options.rule if options.rule == "auto" else int(options.rule)
    model, inputs = head_and_inputs(options, options.classes)
    refined = []  # the late refinement of what it gets, to count the classes
    model.late_refinement.register_forward_pre_hook(lambda _, arguments: refined.append(arguments[0].shape[1]))
    print("| classes | patches | things | active classes | all, s | active, s | ratio |\n|---|---|---|---|---|---|---|")
    every: list[float] = []  # does not depend on the features
    for num_things in options.things:
        show_things(inputs["image_features"], num_things)
        if options.device != "cpu":  # the first calls load kernels
            timed(lambda: model(**inputs, active_classes=rule), options.device)
            timed(lambda: model(**inputs), options.device)
        seconds = []
        for repeat in range(options.repeats):
            seconds.append(timed(lambda: model(**inputs, active_classes=rule), options.device))
            if repeat == len(every):
                every.append(timed(lambda: model(**inputs), options.device))
        active = min(refined)
        refined.clear()
        plain, ours = statistics.median(every), statistics.median(seconds)
        size = f"{options.patches} x {options.patches}"
        print(
            f"| {options.classes} | {size} | {num_things} | {active} | {plain:.4g} | {ours:.3g} | {plain / ours:.1f} |",
            flush=True,
        )


def show_things(features, num_things: int) -> None:
    """Replaces the refined features by those of `num_things` rectangles of equal size, one beside the other."""
    generator = torch.Generator().manual_seed(num_things)
    like = features.refined_features
    columns = max(1, round(num_things**0.5))
    rows = -(-num_things // columns)
    things = F.normalize(torch.randn(1, like.shape[1], rows, columns, generator=generator), dim=1)
    noise = F.normalize(torch.randn(like.shape, generator=generator), dim=1)
    features.refined_features = (F.interpolate(things, size=like.shape[2:]) + NOISE * noise).to(like)


if __name__ == "__main__":
    main()
