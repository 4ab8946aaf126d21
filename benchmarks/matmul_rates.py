# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What a CPU does in the layers of the full head: GFLOP/s of each shape with torch's public settings.

    python benchmarks/matmul_rates.py
    python benchmarks/matmul_rates.py --classes 1 5 20 --threads 2
    python benchmarks/matmul_rates.py --settings float32 bfloat16

The head has our default sizes: 40 x 40 patches and 128 channels per class. `--classes` are those of a chunk; the
default is the number that the model takes on a CPU in float32. The square product is that of the other benchmarks.
Times are CPU seconds with one thread, and seconds on the clock with more; medians, after a run that does not count. "Of
the best" is the share of the largest rate in the table. A setting that this torch does not have is left out. `medium`:
`torch.set_float32_matmul_precision`. `mkldnn bf16` and `mkldnn tf32`: `fp32_precision` of
`torch.backends.mkldnn.matmul` and `.conv`. `autocast`: `torch.autocast` to bfloat16, with weights and inputs in
float32. The decoder's convolutions are also measured in the memory format channels-last.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from pipeline import milliseconds
from torch import nn

from dinov3seg_hf.compat import product_counter
from dinov3seg_hf.model.chunking import resolve_chunk_size

PATCHES, CHANNELS, SQUARE = 40, 128, 1024
FLOAT32_SETTINGS = ("float32", "medium", "mkldnn tf32", "mkldnn bf16", "autocast")
SETTINGS = (*FLOAT32_SETTINGS, "bfloat16")

Layer = tuple[str, nn.Module, tuple[int, ...]]  # what it is, the module, the shape of its input


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[classes_of_a_chunk()])
    parser.add_argument("--patches", type=int, default=PATCHES, help="side of the patch grid (default: 40)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        (f"{name} | {shape[0] if isinstance(module, nn.Conv2d) else '-'} | {text}", *rate)
        for name, module, shape in layers_of(options)
        for text, *rate in rates(module, shape, options)
    ]
    best = max(rate for _, _, rate in rows)
    print("| layer | maps | shape | setting | GFLOP/s | of the best |\n|---|---|---|---|---|---|")
    for text, setting, rate in rows:
        print(f"| {text} | {setting} | {rate / 1e9:.1f} | {rate / best:.0%} |")


def classes_of_a_chunk() -> int:
    """How many classes the model processes at once on a CPU."""
    size = resolve_chunk_size("auto", PATCHES**2 * CHANNELS * torch.float32.itemsize, torch.device("cpu"))
    assert size is not None
    return size


def layers_of(options: argparse.Namespace) -> Iterator[Layer]:
    """The layers of the head whose products take its time; see `late_refinement.py` and `decoder.py`."""
    side, width = options.patches, CHANNELS
    yield "square product", nn.Linear(SQUARE, SQUARE, bias=False), (SQUARE, SQUARE)
    for classes in options.classes:
        rows = classes * side**2
        yield "query, key, value, output", nn.Linear(width, width), (rows, width)
        yield "feed-forward, up", nn.Linear(width, 4 * width), (rows, width)
        yield "feed-forward, down", nn.Linear(4 * width, width), (rows, 4 * width)
        yield "embedding of correlations", nn.Conv2d(2, width, 7, padding=3), (classes, 2, side, side)
        # a decoder step on a CPU: upsampling and first convolution as one, then the second convolution
        yield "decoder, first", nn.Conv2d(width, 4 * 64, 2, padding=1), (classes, width, side, side)
        yield "decoder, second", nn.Conv2d(64, 64, 3, padding=1), (classes, 64, 2 * side, 2 * side)


@torch.inference_mode()
def rates(module: nn.Module, shape: tuple[int, ...], options: argparse.Namespace) -> Iterator[tuple[str, str, float]]:
    """Returns shape, setting and FLOP per second of a layer with each setting."""
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with product_counter() as counter:
        result = module(inputs)
    flop = counter.get_total_flops()
    text = f"{' x '.join(map(str, shape[-2:]))} to {' x '.join(map(str, result.shape[-2:]))}"
    if isinstance(module, nn.Conv2d):
        kernel = " x ".join(map(str, module.kernel_size))
        text = f"{shape[-2]} x {shape[-1]}, {module.in_channels} to {module.out_channels}, {kernel}"
    clock = time.process_time if options.threads == 1 else time.perf_counter
    formats = {"": torch.contiguous_format}
    if isinstance(module, nn.Conv2d):
        formats[", channels-last"] = torch.channels_last
    for setting in options.settings:
        for suffix, memory_format in formats.items():
            dtype = torch.bfloat16 if setting == "bfloat16" else torch.float32
            layer = module.to(dtype=dtype, memory_format=memory_format)
            pixels = inputs.to(dtype).contiguous(memory_format=memory_format)
            with applied(setting) as known:
                if known:
                    call = partial(layer, pixels)
                    yield (
                        text,
                        setting + suffix,
                        1000 * flop / milliseconds(call, pixels.device, options.repeats, clock),
                    )


@contextmanager
def applied(setting: str) -> Iterator[bool]:
    """Applies a setting inside the context; gives whether this torch has it."""
    undo: list[Callable[[], None]] = []
    known = True
    if setting == "medium":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        undo.append(lambda: torch.set_float32_matmul_precision(before))
    elif setting.startswith("mkldnn"):
        parts = [getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv")]
        known = all(hasattr(part, "fp32_precision") for part in parts)
        for part in parts if known else ():
            undo.append(lambda part=part, before=part.fp32_precision: setattr(part, "fp32_precision", before))
            part.fp32_precision = setting.split()[1]
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=setting == "autocast"):
            yield known
    finally:
        for step in undo:
            step()


if __name__ == "__main__":
    main()
