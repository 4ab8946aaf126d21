# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Counts what a device has to do for each part of the model of the paper: kernels, bytes and products. Needs no device.

    python benchmarks/device_work.py
    python benchmarks/device_work.py --batch-size 1 --classes 20 --padded-windows
    python benchmarks/device_work.py --device cuda --kernels 8    # and how long each part, and its kernels, take there

The model is run on the device "meta", which has shapes and no values. An operation that returns a view starts no
kernel; attention counts as one, as it is fused on an accelerator; an operation that torch splits up counts as its
parts. Bytes are those of inputs and results of every operation, as if no cache held them. Times are medians of five
runs.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pipeline import milliseconds
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from dinov3seg_hf import Dinov3SegConfig, Dinov3SegForSemanticSegmentation
from dinov3seg_hf.compat import work_of
from dinov3seg_hf.model import late_refinement
from dinov3seg_hf.model.window_attention import attend_in_padded_windows

REPEATS = 5


@torch.no_grad()
def main() -> None:
    """Prints the table and, if asked, the kernels of each part that take the longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--padded-windows", action="store_true", help="late refinement pads the map to whole windows")
    parser.add_argument("--side", type=int, default=640, help="side of the images in pixels (default: 640)")
    parser.add_argument("--layers", type=int, help="layers of each encoder, to try the script (default: all)")
    parser.add_argument("--device", help="also measure the times on this device")
    parser.add_argument(
        "--kernels", type=int, default=0, metavar="N", help="with --device: also print the N longest kernels of a part"
    )
    options = parser.parse_args()
    if options.kernels and not options.device:
        parser.error("--kernels measures times; name a --device.")
    if options.padded_windows:
        late_refinement.attend_in_windows = attend_in_padded_windows
    counted = parts_on(torch.device("meta"), options)
    timed = parts_on(torch.device(options.device), options) if options.device else {}
    print("| part | kernels | GB | TFLOP |", " ms |" if options.device else "", sep="")
    print("|---|---|---|---|", "---|" if options.device else "", sep="")
    for name, part in counted.items():
        cells = [name, *work(part)]
        if options.device:
            cells.append(f"{milliseconds(timed[name], torch.device(options.device), REPEATS):.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)
    if options.kernels:
        for name, part in timed.items():
            print(f"\n{name}\n\n| kernel | calls | ms |\n|---|---|---|")
            for row in longest_kernels(part, options.device, options.kernels):
                print("|", " | ".join(row), "|")


def parts_on(device: torch.device, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The parts of the model with random weights in bfloat16, on random images."""
    config = Dinov3SegConfig()
    config.prior_config.image_size = options.side  # SAM takes images of one size
    if options.layers:
        for encoder in (config.vision_config, config.text_config, config.prior_config):
            encoder.num_hidden_layers = options.layers
    with device:
        model = Dinov3SegForSemanticSegmentation(config).eval().requires_grad_(False).to(torch.bfloat16)
        pixels = torch.randn(options.batch_size, 3, options.side, options.side, dtype=torch.bfloat16)
        text = torch.randn(options.classes, 2, config.vision_config.hidden_size, dtype=torch.bfloat16)
    features = model.get_image_features(pixels, head="full")
    patches = model.vision_model(pixels).patch_tokens
    return {
        "dino.txt": partial(model.vision_model, pixels),
        "SAM": partial(model.semantic_prior.encoder, pixels),
        "early refinement": partial(model.early_refinement, patches, pixels),
        "correlation, late refinement, decoder": partial(model, image_features=features, text_embeds=text),
    }


def work(part: Callable[[], Any]) -> list[str]:
    """The number of kernels, the gigabytes and the products of a part, in 10^12 operations."""
    with work_of() as operations:
        part()
    with FlopCounterMode(display=False) as products:
        part()
    num_bytes = sum(size for _, size in operations)
    return [str(len(operations)), f"{num_bytes / 1e9:.1f}", f"{products.get_total_flops() / 1e12:.2f}"]


def longest_kernels(part: Callable[[], Any], device: str, number: int) -> list[list[str]]:
    """The kernels (on a CPU: operations) that take the longest in sum: name, calls, milliseconds."""
    on_cpu = device == "cpu"
    with torch.profiler.profile(activities=[ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA]) as profiler:
        part()
        if not on_cpu:
            torch.cuda.synchronize()
    times = {
        event.key: (event.count, event.self_cpu_time_total if on_cpu else event.self_device_time_total)
        for event in profiler.key_averages()
    }
    rows = sorted(times.items(), key=lambda item: -item[1][1])[:number]
    return [[name[:90].replace("|", "/"), str(count), f"{spent / 1000:.2f}"] for name, (count, spent) in rows]


if __name__ == "__main__":
    main()
