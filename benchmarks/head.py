# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The full head alone, at our default sizes (after CAT-Seg): 40 x 40 patches, 128 channels, two layers.

    python benchmarks/head.py
    python benchmarks/head.py --classes 847 --repeats 1 --dtype bfloat16
    python benchmarks/head.py --classes 847 --repeats 1 --twins ours
    python benchmarks/head.py --chunks 1 2 4 8 16 --classes 150    # how the size of chunks was chosen
    python benchmarks/head.py --device cuda --dtype bfloat16
    python benchmarks/head.py --classes 150 --cat-seg CAT-Seg --sed SED    # clones; they need einops and timm
    python benchmarks/head.py --classes 24 --profile               # what the time of ours goes to

The plain twin pads the map to whole windows and processes 64 classes at once, like the first release; "padded windows"
differs from ours in the padding only. Times are seconds of one thread (on a GPU: on the clock), medians of alternating
runs. Memory is the peak above that of the inputs, on a CPU of a process of its own. "Of the peak" is the rate of the
products and convolutions that the twin computes, as a share of that of large square matrices of the same dtype in the
same run; `matmul_rates.py` has that of each layer.
CAT-Seg's aggregator has windows of 10 x 10, because its 12 x 12 do not divide 40. SED's has a quarter of the cells,
because its encoder, ConvNeXt, has a stride of 32 pixels, and upsamples once more, to the same size.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from pipeline import matmul_peak
from torch.nn import functional as F

from dinov3seg_hf import Dinov3SegConfig, Dinov3SegForSemanticSegmentation
from dinov3seg_hf.compat import product_counter
from dinov3seg_hf.model import late_refinement
from dinov3seg_hf.model.window_attention import attend_in_padded_windows, attend_in_windows

WIDTH = 64  # of the encoders, which are not measured
TWINS: dict[str, dict] = {
    "plain twin": {"padded": True, "chunk": 64},
    "padded windows": {"padded": True, "chunk": "auto"},
    "ours": {"padded": False, "chunk": "auto"},
}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 150, 847])
    parser.add_argument("--patches", type=int, default=40, help="side of the patch grid (default: 40)")
    parser.add_argument("--chunks", type=int, nargs="+", help="compare these sizes of chunks")
    parser.add_argument(
        "--twins", nargs="+", default=["plain twin", "ours"], choices=TWINS, help="default: plain twin, ours"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--cat-seg", type=Path, metavar="CLONE", help="also measure the aggregator of CAT-Seg")
    parser.add_argument("--sed", type=Path, metavar="CLONE", help="also measure the aggregator of SED")
    parser.add_argument("--profile", action="store_true", help="print the shares of operations in the time of ours")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the process of a row
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(cost(options, **json.loads(options.measure))))
        return
    if options.profile:
        for num_classes in options.classes:
            print_profile(options, num_classes)
        return
    twins = {name: TWINS[name] for name in options.twins}
    if options.chunks:
        twins = {f"chunks of {size}": {"padded": False, "chunk": size} for size in options.chunks}
    if options.cat_seg:
        twins["CAT-Seg"] = {"padded": False, "chunk": "CAT-Seg"}
    if options.sed:
        twins["SED"] = {"padded": False, "chunk": "SED"}
    peak = matmul_peak(torch.device(options.device), getattr(torch, options.dtype), clock_of(options.device))
    print(f"{options.dtype}; the largest matrix products run at {peak / 1e9:.3g} GFLOP/s\n")
    print("| classes | |", " | ".join(f"{name}, s | of the peak | MiB" for name in twins), "|")
    print("|---|---|", "---|" * (3 * len(twins)), sep="")
    for num_classes in options.classes:
        heads = {name: make_head(options, num_classes, **twin) for name, twin in twins.items()}
        if options.device != "cpu":  # the first calls load kernels
            for head in heads.values():
                timed(head, options.device)
        seconds: dict[str, list[float]] = {name: [] for name in twins}
        for _ in range(options.repeats):
            for name, head in heads.items():
                seconds[name].append(timed(head, options.device))
        del heads
        cells = []
        for name, twin in twins.items():
            mib, flop = alone(__file__, options.device, partial(cost, options), classes=num_classes, **twin)
            median = statistics.median(seconds[name])
            cells.append(f"{median:.4g} | {flop / median / peak:.0%} | {mib:.0f}")
        print(f"| {num_classes} | {options.dtype} |", " | ".join(cells), "|", flush=True)


def head_and_inputs(options: argparse.Namespace, num_classes: int) -> tuple[torch.nn.Module, dict]:
    """A model with a head of our default size behind small encoders, and the inputs of this head."""
    torch.manual_seed(0)
    small = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"projection_dim": 2 * WIDTH, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}
    config = Dinov3SegConfig(
        vision_config={**small, "patch_size": 16}, text_config={**small, **words}, prior_config=None
    )
    model = Dinov3SegForSemanticSegmentation(config).eval().requires_grad_(False)  # for the counter of products
    model = model.to(options.device, getattr(torch, options.dtype))
    pixels = torch.randn(1, 3, 16 * options.patches, 16 * options.patches).to(model.device, model.dtype)
    with torch.inference_mode():
        features = model.get_image_features(pixels, head="full")
    text = F.normalize(torch.randn(num_classes, 2, WIDTH), dim=-1).to(model.device, model.dtype)
    return model, {"image_features": features, "text_embeds": text}


def make_head(options: argparse.Namespace, classes: int, padded: bool, chunk: int | str) -> Callable[[], object]:
    """Returns a function that computes the logits of all classes."""
    if chunk in PEERS:
        return PEERS[chunk](options, classes)
    model, inputs = head_and_inputs(options, classes)

    def head() -> object:
        late_refinement.attend_in_windows = attend_in_padded_windows if padded else attend_in_windows
        model.config.class_chunk_size = chunk
        return model(**inputs)

    return head


def cat_seg(options: argparse.Namespace, num_classes: int) -> Callable[[], object]:
    """The aggregator of CAT-Seg with the same number of layers and channels, for all classes at once."""
    side = options.patches
    sizes = {"feature_resolution": (side, side), "window_size": 10, "pooling_size": (2, 2), "pad_len": 0}
    widths = {"text_guidance_dim": WIDTH, "appearance_guidance_dim": WIDTH, "decoder_guidance_dims": (WIDTH, WIDTH)}
    code = code_of(options.cat_seg / "cat_seg/modeling/transformer")
    aggregator = (
        code.Aggregator(num_layers=2, **sizes, **widths).eval().to(options.device, getattr(torch, options.dtype))
    )
    like = next(aggregator.parameters())
    guidance = [torch.randn(1, WIDTH, scale * side, scale * side).to(like) for scale in (1, 2, 4)]
    text = torch.randn(1, num_classes, 1, WIDTH).to(like)
    return lambda: aggregator(guidance[0], text, guidance)


def sed(options: argparse.Namespace, num_classes: int) -> Callable[[], object]:
    """The aggregator of SED with the sizes of its larger model: 80 prompts of a class, no text guidance."""
    side = options.patches // 2
    widths = {"decoder_dims": (64, 32, 16), "decoder_guidance_dims": (WIDTH,) * 3}
    widths |= {"decoder_guidance_proj_dims": (32, 16, 8), "decoder_corr_guidance_dims": (80, 32, 16)}
    code = code_of(options.sed / "sed/modeling/transformer")
    aggregator = code.Aggregator(text_guidance_dim=0, pooling_size=(2, 2), kernel_size=(9, 9, 9), **widths)
    aggregator = aggregator.eval().to(options.device, getattr(torch, options.dtype))
    like = next(aggregator.parameters())
    guidance = [torch.randn(1, WIDTH, scale * side, scale * side).to(like) for scale in (1, 2, 4, 8)]
    text, logit_scale = (torch.randn(size).to(like) for size in ((1, num_classes, 80, WIDTH), ()))
    return lambda: aggregator(guidance[0], text, guidance, logit_scale)


# Parts of the names of operations and kernels, for the profile; an operation belongs to the first kind that has a part.
KINDS = {
    "attention": ("attention", "flash", "fmha", "softmax", "bmm", "baddbmm"),
    "linear layers": ("addmm", "::mm", "linear", "gemm"),
    "convolutions": ("conv",),
    "normalization": ("norm", "var", "mean"),
    "activations": ("gelu", "relu"),
    "copies": ("copy", "clone", "cat", "contiguous", "roll", "index", "pad"),
    "sums": ("::add", "::sub", "::mul", "::div"),
}

PEERS: dict[str | int, Callable] = {"CAT-Seg": cat_seg, "SED": sed}


def code_of(folder: Path) -> ModuleType:
    """Imports `model.py` of a folder, and what it imports from there, without the packages around the folder."""
    package = ModuleType(f"peer_{folder.parts[-3]}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return import_module(f"{package.__name__}.model")


def clock_of(device: str) -> Callable[[], float]:
    """Seconds of this process on a CPU, which other processes do not change; on the clock elsewhere."""
    return time.process_time if device == "cpu" else time.perf_counter


@torch.inference_mode()
def timed(head: Callable[[], object], device: str) -> float:
    """Seconds of one call of the head."""
    clock = clock_of(device)
    start = clock()
    head()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def alone(script: str, device: str, measure: Callable[..., tuple[float, float]], **row: object) -> tuple[float, float]:
    """Measures the memory of a row, on a CPU in a process of its own: what a process has freed can stay with it.

    Args:
        script: The script, which calls `measure` with the row that it gets as `--measure`, in JSON.
        device: The device that is measured.
        measure: Returns two numbers.
        row: Its arguments.
    """
    if device != "cpu":
        return measure(**row)
    command = [sys.executable, script, *sys.argv[1:], "--measure", json.dumps(row)]
    first, second = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return first, second


def cost(options: argparse.Namespace, classes: int, **twin) -> tuple[float, float]:
    """Returns the MiB that a call takes above its inputs, and the operations of its products and convolutions."""
    head = make_head(options, classes, **twin)
    with product_counter() as counter:
        if options.device == "cpu":
            with open("/proc/self/clear_refs", "w") as file:  # Linux: begins a new peak
                file.write("5")
            before = peak_mib()
            timed(head, options.device)
            return peak_mib() - before, counter.get_total_flops()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        timed(head, options.device)
        return (torch.cuda.max_memory_allocated() - before) / 2**20, counter.get_total_flops()


def print_profile(options: argparse.Namespace, classes: int) -> None:
    """Prints the shares of kinds of operations in the time of ours, and of the system, which is mostly page faults."""
    head = make_head(options, classes, **TWINS["ours"])
    on_cpu = options.device == "cpu"
    activity = torch.profiler.ProfilerActivity.CPU if on_cpu else torch.profiler.ProfilerActivity.CUDA
    timed(head, options.device)
    before = resource.getrusage(resource.RUSAGE_SELF)
    with torch.profiler.profile(activities=[activity]) as profiler:
        seconds = timed(head, options.device)
    after = resource.getrusage(resource.RUSAGE_SELF)
    times = {
        event.key: event.self_cpu_time_total if on_cpu else event.self_device_time_total
        for event in profiler.key_averages()
    }
    shares = dict.fromkeys([*KINDS, "other"], 0.0)
    for name, spent in times.items():
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
        shares[kind] += spent / sum(times.values())
    cells = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items(), key=lambda item: -item[1]))
    print(f"{classes} classes, {options.dtype}, {seconds:.2f} s: {cells}")
    if on_cpu:
        system = (after.ru_stime - before.ru_stime) / seconds
        print(f"time in the system, mostly page faults: {system:.0%} ({after.ru_minflt - before.ru_minflt} faults)")


def peak_mib() -> float:
    """The largest resident memory of this process since the last reset."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
