# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Refinement by pixels, from shares to labels and scores, at 640 x 640 pixels.

    python benchmarks/pixel_refinement.py
    python benchmarks/pixel_refinement.py --threads 2

The shares are a softmax of random logits of 40 x 40 patches. *Regions*: every label wins in a region of its own, and
has noise elsewhere. *Noise*: every label can win anywhere, the worst case. The plain twin refines all maps of labels
that win somewhere, one neighbor after the other, eight maps at a time, like the first version. Seconds of the CPU and
on the clock, and the peak of memory above that of the inputs, of a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

from dinov3seg_hf.model.pixel_refinement import DILATIONS, NUM_STEPS, neighbor_offsets, neighbor_weights
from dinov3seg_hf.model.refined_label_maps import label_and_score_refined

SIZE, PATCHES = (640, 640), 40
CASES = (("regions", 5), ("regions", 30), ("regions", 150), ("noise", 150))


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the process of a cell
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    print("| shares | labels | plain twin: CPU s, s, MiB | ours: CPU s, s, MiB | ratio |\n|---|---|---|---|---|")
    for case in CASES:
        cells = []
        for twin in ("plain", "ours"):
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", json.dumps([twin, *case])]
            cells.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
        texts = [f"{cpu:.2f}, {clock:.2f}, {mib:.0f}" for cpu, clock, mib in cells]
        print(f"| {case[0]} | {case[1]} | {texts[0]} | {texts[1]} | {cells[0][0] / cells[1][0]:.1f} |", flush=True)


@torch.inference_mode()
def measure(twin: str, kind: str, num_labels: int) -> tuple[float, float, float]:
    """Returns CPU seconds, seconds on the clock and MiB of one call, after a small one."""
    generator = torch.Generator().manual_seed(0)
    pixels = F.avg_pool2d(torch.rand(3, *SIZE, generator=generator), 9, 1, 4)
    logits = torch.randn(num_labels, PATCHES, PATCHES, generator=generator)
    if kind == "regions":
        centers = torch.rand(num_labels, 2, generator=generator) * PATCHES
        places = torch.cartesian_prod(torch.arange(PATCHES), torch.arange(PATCHES)) + 0.5
        logits -= torch.cdist(centers, places).square().view_as(logits)
    shares = logits.softmax(dim=0)
    call = refine_plainly if twin == "plain" else refine
    call(shares[:, :2, :2], pixels[:, :32, :32])
    before, cpu, clock = peak_mib(), time.process_time(), time.perf_counter()
    call(shares, pixels)
    return time.process_time() - cpu, time.perf_counter() - clock, peak_mib() - before


def refine(shares: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours."""
    return label_and_score_refined(shares, torch.arange(len(shares)), neighbor_weights(pixels), tuple(pixels.shape[1:]))


def refine_plainly(shares: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain twin."""
    size, margin, band_height = pixels.shape[1:], max(DILATIONS), 16
    weights = neighbor_weights(pixels).permute(2, 0, 1).contiguous()
    labels, best = torch.zeros(size, dtype=torch.int64), torch.full(size, -1.0)
    for first in range(0, len(shares), 8):
        maps = F.interpolate(shares[None, first : first + 8], size=size, mode="bilinear", align_corners=False)[0]
        for _ in range(NUM_STEPS):
            around = F.pad(maps[None], [margin] * 4, mode="replicate")[0]
            maps = torch.zeros_like(maps)
            for top in range(0, size[0], band_height):
                band = maps[:, top : top + band_height]
                for weight, (down, right) in zip(weights, neighbor_offsets()):
                    rows = slice(margin + top + down, margin + top + down + band.shape[1])
                    columns = slice(margin + right, margin + right + size[1])
                    band.addcmul_(weight[top : top + band_height], around[:, rows, columns])
        chunk_best, chunk_labels = maps.max(dim=0)
        wins = chunk_best > best
        labels, best = torch.where(wins, first + chunk_labels, labels), torch.where(wins, chunk_best, best)
    return labels, best


def peak_mib() -> float:
    """The peak of the memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
