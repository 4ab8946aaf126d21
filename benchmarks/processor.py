# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The image processor, from a decoded photo to pixels and windows: resize, rescale, normalize, cut.

    python benchmarks/processor.py

The plain twin is the Pillow processor of DeiT in transformers for the same size, and slices for the windows. Both get
a drawn scene of the size of a photo, as a PIL image. CPU seconds of one thread per image, medians of alternating runs.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

from dinov3seg_hf import Dinov3SegImageProcessorPil
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.model.windows import plan_windows

SIZES = ((640, 427), (1600, 1200), (4000, 3000))
SHORTEST, WINDOW, STRIDE = 640, 384, 192


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    photo = Image.fromarray(draw_scene(0, size=512).image)
    ours = Dinov3SegImageProcessorPil(
        size={"shortest_edge": SHORTEST, "longest_edge": 4 * SHORTEST}, window_size=WINDOW, window_stride=STRIDE
    )
    print("| photo | plain twin, s | ours, s | ours with windows, s | largest difference |\n|---|---|---|---|---|")
    for size in SIZES:
        image = photo.resize(size, Image.Resampling.BICUBIC)
        found = ours(image, do_windows=True, return_tensors="pt")
        height, width = found["pixel_values"].shape[-2:]
        twin = DeiTImageProcessorPil(
            size={"height": height, "width": width}, do_center_crop=False, image_mean=ours.image_mean,
            image_std=ours.image_std, resample=ours.resample,
        )  # fmt: skip
        calls: list[Callable[[], object]] = [
            lambda twin=twin, image=image: plain(twin, image),
            lambda image=image: ours(image, do_windows=False, return_tensors="pt"),
            lambda image=image: ours(image, do_windows=True, return_tensors="pt"),
        ]
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(options.repeats):
            for row, call in zip(times, calls):
                start = time.process_time()
                call()
                row.append(time.process_time() - start)
        pixels, windows = plain(twin, image)
        difference = max(
            np.abs(found["pixel_values"].numpy() - pixels).max(),
            np.abs(found["window_pixel_values"].numpy() - windows).max(),
        )
        cells = " | ".join(f"{statistics.median(row):.3f}" for row in times)
        print(f"| {size[0]} x {size[1]} | {cells} | {difference:.1e} |", flush=True)


def plain(twin: DeiTImageProcessorPil, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The plain twin: pixels `(1, 3, H, W)` and windows `(1, N, 3, S, S)`."""
    pixels = twin(image, return_tensors="np")["pixel_values"]
    boxes = plan_windows(pixels.shape[-2:], WINDOW, STRIDE)
    windows = [pixels[..., top : top + height, left : left + width] for top, left, height, width in boxes]
    return pixels, np.stack(windows, axis=1)


if __name__ == "__main__":
    main()
