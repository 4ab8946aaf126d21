# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A decoder step on a CPU: upsampling and first convolution as one, against one after the other.

    python benchmarks/decoder.py

The steps have our default widths (after CAT-Seg) and those of the embedded checkpoint. CPU seconds of one thread for
the classes of a chunk, medians of alternating runs.
"""

import argparse
import statistics
import time
from unittest.mock import patch

import torch

from dinov3seg_hf.model.decoder import Dinov3SegDecoderStep

# channels before and after the step and of the prior, side of the maps before it
STEPS = ((128, 64, 32, 40), (64, 32, 16, 80), (32, 24, 16, 48), (24, 8, 8, 96))


@torch.inference_mode()
def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=4, help="classes at once (default: 4)")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| channels | maps before | plain twin, ms | ours, ms | ratio | difference |\n|---|---|---|---|---|---|")
    for in_size, out_size, prior_size, side in STEPS:
        step = Dinov3SegDecoderStep(in_size, out_size, prior_size).eval()
        hidden_states = torch.randn(options.classes, in_size, side, side)
        prior_feature = torch.randn(1, prior_size, 2 * side, 2 * side)
        with patch.object(Dinov3SegDecoderStep, "_fuses", return_value=False):
            plain = step.guide(prior_feature)
        fused = step.guide(prior_feature)
        difference = (step(hidden_states, *plain) - step(hidden_states, *fused)).abs().max()
        times: list[list[float]] = [[], []]
        for _ in range(options.repeats):
            for row, guides in zip(times, (plain, fused)):
                start = time.process_time()
                step(hidden_states, *guides)
                row.append(1000 * (time.process_time() - start))
        before, after = map(statistics.median, times)
        print(
            f"| {in_size} to {out_size} | {side} x {side} | {before:.0f} | {after:.0f} | {before / after:.2f} | "
            f"{difference:.0e} |"
        )


if __name__ == "__main__":
    main()
