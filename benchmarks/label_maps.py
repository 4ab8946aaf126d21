# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""From logits to labels and scores: only classes that can win, against all classes in strips of rows.

    python benchmarks/label_maps.py    # and --device cuda

The logits are those of the embedded checkpoint for a drawn scene of 640 x 640 pixels, and the names are those of
public data sets, which it does not know: many names come close to each other everywhere, which is the hard case.
CPU seconds of one thread, medians of alternating runs. On a GPU, ours computes all classes, too, so the twins differ
little there; the time is that until the GPU is done, after a first run that does not count.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from PIL import Image

from dinov3seg_hf import TINY, Vocabulary
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.model.inference_settings import Head
from dinov3seg_hf.model.label_maps import ScoreFunction, label_and_score
from dinov3seg_hf.model.resizing import resized_strips

HEADS: dict[Head, ScoreFunction] = {"full": "sigmoid", "dinotxt": "softmax"}
SIZES = ((640, 640), (3000, 4000))


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each twin (default: 3)")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_pipeline(TINY, options.device)
    image = Image.fromarray(draw_scene(0).image).resize((640, 640), Image.Resampling.BICUBIC)
    print("| classes | pixels | head | all classes, s | ours, s | ratio |\n|---|---|---|---|---|---|")
    for preset in ("ade20k-150", "ade20k-847"):
        for head, function in HEADS.items():
            logits = logits_of(pipe, image, Vocabulary.from_preset(preset), head)
            temperature = 1.0 if head == "full" else float(pipe.model.logit_scale.detach().exp()) ** -1
            for size in SIZES:
                times: list[list[float]] = [[], []]
                if pipe.device.type != "cpu":
                    label_and_score(logits, size, function, temperature)
                for _ in range(options.repeats):
                    for row, twin in zip(times, (label_plainly, label_and_score)):
                        row.append(seconds(partial(twin, logits, size, function, temperature), pipe.device))
                plain, ours = map(statistics.median, times)
                pixels = f"{size[1]} x {size[0]}"
                print(
                    f"| {len(logits)} | {pixels} | {head} | {plain:.4g} | {ours:.3g} | {plain / ours:.1f} |", flush=True
                )


@torch.inference_mode()
def logits_of(pipe, image: Image.Image, vocabulary: Vocabulary, head: str) -> torch.Tensor:
    """The logits `(C, h, w)` of an image."""
    inputs = pipe.image_processor(image, return_tensors="pt").to(pipe.device)
    text = pipe.encode_labels(vocabulary)
    return pipe.model(inputs["pixel_values"], text_embeds=text.tensor.to(pipe.device), head=head).logits[0]


def label_plainly(
    logits: torch.Tensor, size: tuple[int, int], function: ScoreFunction, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain twin."""
    labels = torch.empty(size, dtype=torch.int32, device=logits.device)
    scores = torch.empty(size, device=logits.device)
    for rows, strip in resized_strips(logits, size):
        strip /= temperature
        best, winners = strip.max(dim=0)
        labels[rows] = winners.int()
        scores[rows] = best.sigmoid() if function == "sigmoid" else (best - strip.logsumexp(dim=0)).exp()
    return labels, scores


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """CPU seconds of a call, or the seconds until a GPU has done it."""
    if device.type == "cpu":
        start = time.process_time()
        function()
        return time.process_time() - start
    torch.accelerator.synchronize(device)
    start = time.perf_counter()
    function()
    torch.accelerator.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
