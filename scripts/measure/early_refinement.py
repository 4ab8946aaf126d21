# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures CPU time and peak memory of early refinement (AnyUp) at the size of the paper.

    python scripts/measure/early_refinement.py
    python scripts/measure/early_refinement.py --dtype bfloat16

Features of ViT-L on a 40 x 40 grid, an image of 640 x 640 px, published widths, random weights, one thread. The plain
twin is the code for training: maps have their channels one after the other.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

SCALES = (1, 2, 4)


def measure(scale: int, side: int, width: int, dtype: str, is_plain: bool) -> dict[str, float]:
    """Returns CPU seconds and the growth of the peak memory in MiB of one call."""
    import torch

    from dinov3seg_hf import Dinov3SegConfig
    from dinov3seg_hf.model.early_refinement import Dinov3SegEarlyRefinement

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Dinov3SegEarlyRefinement(Dinov3SegConfig(early_refinement_scale=scale)).eval()
    features, image = torch.randn(1, width, side // 16, side // 16), torch.randn(1, 3, side, side)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1)
    module = module.to(getattr(torch, dtype)).requires_grad_(False)
    features, image = (each.to(getattr(torch, dtype)) for each in (features, image))
    with torch.set_grad_enabled(is_plain):
        module(features[..., :4, :4], image[..., :64, :64])  # libraries load their code at the first call
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        module(features, image)
        seconds = time.process_time() - start
    return {"seconds": seconds, "MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=640, help="side of the image in pixels (default: 640)")
    parser.add_argument("--width", type=int, default=1024, help="channels of the features (default: 1024)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--scale", type=int, choices=SCALES, help="only this scale, as JSON")
    parser.add_argument("--plain", action="store_true", help="the plain twin; with --scale")
    options = parser.parse_args()
    if options.scale is not None:
        found = measure(options.scale, options.side, options.width, options.dtype, options.plain)
        print(json.dumps(found))
        return
    print("| scale | dtype | plain twin | ours | ratio |\n|---|---|---|---|---|")
    for scale in SCALES:  # a process each, because the peak of a process never falls
        command = [sys.executable, __file__, *sys.argv[1:], f"--scale={scale}"]
        plain, ours = (
            json.loads(subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout)
            for more in (["--plain"], [])
        )
        cells = " | ".join(f"{found['seconds']:.1f} s, {found['MiB']:.0f} MiB" for found in (plain, ours))
        print(f"| {scale} | {options.dtype} | {cells} | {plain['seconds'] / ours['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
