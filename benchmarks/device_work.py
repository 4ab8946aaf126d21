# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Counts what a device has to do for each part of the model of the paper: kernels, bytes and products. Needs no device.

    python benchmarks/device_work.py
    python benchmarks/device_work.py --batch-size 1 --classes 847
    python benchmarks/device_work.py --device cuda --kernels 8    # and how long each part, and its kernels, take there

The model is run on the device "meta", which has shapes and no values, and takes the ways of an accelerator. An
operation that returns a view starts no kernel; one that torch splits up counts as its parts. Bytes are those of inputs
and results of every operation, as if no cache held them. Times are medians of five runs.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from head import timed
from torch.utils.flop_counter import FlopCounterMode

from dinov3seg_hf import Dinov3SegConfig, Dinov3SegForSemanticSegmentation
from dinov3seg_hf.compat import work_of


@torch.no_grad()
def main() -> None:
    """Prints the table, and the kernels of each part that take the longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--side", type=int, default=640, help="side of the images in pixels (default: 640)")
    parser.add_argument("--device", help="also measure the times on this device")
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="also print the N longest of each part")
    options = parser.parse_args()
    counted = parts_on(torch.device("meta"), options)
    timed_parts = parts_on(torch.device(options.device), options) if options.device else {}
    print("| part | kernels | GB | TFLOP |", " ms |" if options.device else "", sep="")
    print("|---|---|---|---|", "---|" if options.device else "", sep="")
    for name, part in counted.items():
        cells = [name, *work(part)]
        if options.device:
            cells.append(f"{milliseconds(timed_parts[name], options.device):.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)
    if options.kernels:
        for name, part in timed_parts.items():
            print(f"\n{name}\n\n| kernel | calls | ms |\n|---|---|---|")
            for row in longest_kernels(part, options.kernels):
                print("|", " | ".join(row), "|")


def parts_on(device: torch.device, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The parts of the model with random weights in bfloat16, on random images."""
    with device:
        model = Dinov3SegForSemanticSegmentation(Dinov3SegConfig()).eval().requires_grad_(False).to(torch.bfloat16)
        pixels = torch.randn(options.batch_size, 3, options.side, options.side, dtype=torch.bfloat16)
        text = torch.randn(options.classes, 2, model.config.vision_config.hidden_size, dtype=torch.bfloat16)
        side = model.config.prior_config.image_size
        pixels_of_sam = torch.randn(options.batch_size, 3, side, side, dtype=torch.bfloat16)
    features = model.get_image_features(pixels, head="full")
    patches = model.vision_model(pixels).patch_tokens
    return {
        "dino.txt": partial(model.vision_model, pixels),
        "SAM": partial(model.semantic_prior.encoder, pixels_of_sam),
        "early refinement": partial(model.early_refinement, patches, pixels),
        "correlation, late refinement, decoder": partial(model, image_features=features, text_embeds=text),
    }


def work(part: Callable[[], Any]) -> list[str]:
    """The number of kernels, the gigabytes and the products of a part, in 10^12 operations."""
    with work_of() as operations, FlopCounterMode(display=False) as products:
        part()
    num_bytes = sum(size for _, size in operations)
    return [str(len(operations)), f"{num_bytes / 1e9:.1f}", f"{products.get_total_flops() / 1e12:.2f}"]


def milliseconds(part: Callable[[], Any], device: str) -> float:
    """The median time of a part, after a first run that does not count."""
    return 1000 * statistics.median([timed(part, device) for _ in range(6)][1:])


def longest_kernels(part: Callable[[], Any], number: int) -> list[list[str]]:
    """The kernels (on a CPU: operations) that take the longest in sum: name, calls, milliseconds."""
    activities = torch.profiler.supported_activities()
    with torch.profiler.profile(activities=activities) as profiler:
        part()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    on_cpu = not torch.cuda.is_available()
    times = {
        event.key: (event.count, event.self_cpu_time_total if on_cpu else event.self_device_time_total)
        for event in profiler.key_averages()
    }
    rows = sorted(times.items(), key=lambda item: -item[1][1])[:number]
    return [[name[:90].replace("|", "/"), str(count), f"{spent / 1000:.2f}"] for name, (count, spent) in rows]


if __name__ == "__main__":
    main()
