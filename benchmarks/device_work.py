# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Counts what a device has to do for each part of the model of the paper: kernels, bytes and products. Needs no device.

    python benchmarks/device_work.py
    python benchmarks/device_work.py --batch-size 1 --classes 847

The model is run on the device "meta", which has shapes and no values, and takes the ways of an accelerator. An
operation that returns a view starts no kernel; one that torch splits up counts as its parts. Bytes are those of inputs
and results of every operation, as if no cache held them.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dinov3seg_hf import Dinov3SegConfig, Dinov3SegForSemanticSegmentation
from dinov3seg_hf.compat import work_of


@torch.no_grad()
def main() -> None:
    """Counts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--classes", type=int, default=150)
    options = parser.parse_args()
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(Dinov3SegConfig()).eval().requires_grad_(False).to(torch.bfloat16)
        pixels = torch.empty(options.batch_size, 3, 640, 640, dtype=torch.bfloat16)
        text = torch.empty(options.classes, 2, model.config.vision_config.hidden_size, dtype=torch.bfloat16)
    print("| part | kernels | GB | TFLOP |\n|---|---|---|---|")
    features = counted("dino.txt", lambda: model.vision_model(pixels)).patch_tokens
    counted("SAM", lambda: model.semantic_prior.encoder(pixels))
    counted("early refinement", lambda: model.early_refinement(features, pixels))
    image_features = model.get_image_features(pixels, head="full")
    counted("correlation, late refinement, decoder", lambda: model(image_features=image_features, text_embeds=text))


def counted(name: str, part: Callable[[], Any]) -> Any:
    """Prints a row; returns what the part returns."""
    with work_of() as operations, FlopCounterMode(display=False) as products:
        result = part()
    num_bytes = sum(size for _, size in operations)
    print(f"| {name} | {len(operations)} | {num_bytes / 1e9:.1f} | {products.get_total_flops() / 1e12:.2f} |")
    return result


if __name__ == "__main__":
    main()
