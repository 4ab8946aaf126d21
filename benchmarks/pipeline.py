# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The way of an image through the model, stage by stage: encoders, head, label map; and the share of the peak.

    python benchmarks/pipeline.py                                           # the embedded checkpoint on the CPU
    python benchmarks/pipeline.py --model full-size --device cuda --dtype bfloat16 --batch-sizes 1 8

`full-size` is the model of the paper, ViT-L/16 and SAM ViT-L with images of 640 x 640 and windows of 384 every 128
pixels, with random weights. Images are already on the device and text is already encoded. Times are medians. The peak
is that of a product of large square matrices of the same dtype, measured in the same run; the operations of a row are
those of its products and convolutions. Memory is the largest that torch took, weights and inputs included.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from dinov3seg_hf import Dinov3SegConfig, Dinov3SegForSemanticSegmentation
from dinov3seg_hf.about import EMBEDDED
from dinov3seg_hf.compat import product_counter
from dinov3seg_hf.loading import load_model
from dinov3seg_hf.model.label_maps import label_and_score
from dinov3seg_hf.model.windows import cut_windows, plan_windows

FULL_SIZE = "full-size"


def main() -> None:
    """Measures the rows and prints them as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help=f"checkpoint, or {FULL_SIZE} (default: embedded)")
    parser.add_argument("--modes", nargs="+", default=["whole", "local-global"], choices=("whole", "local-global"))
    parser.add_argument("--heads", nargs="+", default=["full", "dinotxt"], choices=("full", "dinotxt"))
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 150])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model, side, window = make_model(options.model, device, dtype)
    peak = matmul_peak(device, dtype)
    print(f"{options.dtype}; the largest matrix products run at {peak / 1e12:.3g} TFLOP/s\n")
    columns = ["mode", "head", "classes", "batch", "encoders, ms", "head, ms", "labels, ms"]
    print("|", " | ".join([*columns, "images/s", "TFLOP/s", "of peak", "MiB"]), "|")
    print("|---" * 11 + "|")
    for mode in options.modes:
        for head in options.heads:
            for num_classes in options.classes:
                for size in options.batch_sizes:
                    row = measured(model, mode, head, num_classes, size, side, window, options.repeats, peak)
                    print(f"| {mode} | {head} | {num_classes} | {size} | {row} |", flush=True)


def make_model(name: str, device: torch.device, dtype: torch.dtype) -> tuple[torch.nn.Module, int, int]:
    """Returns the model, and the sides of images and windows in pixels."""
    if name != FULL_SIZE:
        return load_model(name, dtype).eval().requires_grad_(False).to(device), 96, 48
    torch.manual_seed(0)
    with device:
        model = Dinov3SegForSemanticSegmentation(Dinov3SegConfig())
    return model.eval().requires_grad_(False).to(dtype), 640, 384


@torch.inference_mode()
def measured(
    model, mode: str, head: str, num_classes: int, batch_size: int, side: int, window: int, repeats: int, peak: float
) -> str:
    """The cells of a row."""
    device, dtype = model.device, model.dtype
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch_size, 3, side, side, generator=generator).to(device, dtype)
    width = model.config.vision_config.hidden_size
    text = F.normalize(torch.randn(num_classes, 2, width, generator=generator), dim=-1).to(device, dtype)
    views: dict[str, torch.Tensor] = {}
    if mode == "local-global":
        boxes = torch.tensor(plan_windows((side, side), window, side // 5))
        views = {"window_pixel_values": cut_windows(pixels, boxes), "window_boxes": boxes}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def encode():
        return model.get_image_features(pixels, head=head, **views)

    features = encode()

    def refine() -> torch.Tensor:
        return model(image_features=features, text_embeds=text, head=head).logits

    logits = refine()

    def label() -> None:
        for maps in logits.float():
            label_and_score(maps, (side, side), "sigmoid" if head == "full" else "softmax", 1.0)

    times = [milliseconds(stage, device, repeats) for stage in (encode, refine, label)]
    with product_counter() as counter:
        encode()
        refine()
    seconds = sum(times) / 1000
    rate = counter.get_total_flops() / seconds
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if device.type == "cuda" else "-"
    cells = [*(f"{value:.1f}" for value in times), f"{batch_size / seconds:.2f}", f"{rate / 1e12:.3g}"]
    return " | ".join([*cells, f"{rate / peak:.0%}", memory])


def milliseconds(
    stage: Callable[[], object],
    device: torch.device,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The median time of a stage, which ran once before."""
    times = []
    for _ in range(repeats + 1):
        start = clock()
        stage()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (clock() - start))
    return statistics.median(times[1:])


@torch.inference_mode()
def matmul_peak(device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> float:
    """FLOP per second of a product of two large random matrices."""
    size = 1024 if device.type == "cpu" else 8192
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / (milliseconds(lambda: one @ other, device, 5, clock) / 1000)


if __name__ == "__main__":
    main()
