# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The time of the model, eager and compiled by `torch.compile`, with the embedded checkpoint on random pixels.

    python benchmarks/compile.py
    python benchmarks/compile.py --dynamic never    # a graph for each row, compiled for its sizes alone
    python benchmarks/compile.py --device cuda --dtype bfloat16 --sides 640

Runs of both alternate in one process, and a row has their medians and the median of their ratios. "New graphs" are
those that the first run of a row had to compile; other rows use a graph of the rows above. The time until all are ready
is in the line below the table.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from dinov3seg_hf.about import EMBEDDED
from dinov3seg_hf.loading import load_model

DYNAMIC = {"auto": None, "always": True, "never": False}


def main() -> None:
    """Measures the rows and prints them as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, metavar="DIR", help="checkpoint (default: embedded)")
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 192], help="sides of images, in pixels")
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 150], help="numbers of classes")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each row (default: 5)")
    parser.add_argument(
        "--dynamic",
        choices=DYNAMIC,
        default="auto",
        help="sizes that a graph leaves open: those that have changed (auto, the default of torch), all, or none",
    )
    parser.add_argument("--backend", default="inductor", help="backend of torch.compile (default: inductor)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()

    model = load_model(options.model, getattr(torch, options.dtype)).eval().to(options.device)
    compiled = torch.compile(model, backend=options.backend, fullgraph=True, dynamic=DYNAMIC[options.dynamic])
    print("| pixels | classes | new graphs | eager ms | compiled ms | eager / compiled | largest difference |")
    print("|---|---|---|---|---|---|---|")
    until_ready, graphs = 0.0, 0
    for side in options.sides:
        for num_classes in options.classes:
            inputs = example(model, side, num_classes)
            new = needs_a_graph(compiled, inputs)
            start = time.perf_counter()
            found = run(compiled, inputs)
            until_ready, graphs = until_ready + time.perf_counter() - start, graphs + new
            difference = (found - run(model, inputs)).abs().max().item()
            eager, fast = alternate([model, compiled], inputs, options.repeats)
            ratio = statistics.median(one / other for one, other in zip(eager, fast))
            times = " | ".join(f"{1000 * statistics.median(runs):.0f}" for runs in (eager, fast))
            cells = f"{side} x {side} | {num_classes} | {int(new)} | {times} | {ratio:.2f} | {difference:.1e}"
            print(f"| {cells} |", flush=True)
    print(f"\n{graphs} graphs in all; first calls of all rows, with compilation: {until_ready:.0f} s")


def example(model: torch.nn.Module, side: int, num_classes: int) -> dict[str, torch.Tensor]:
    """Returns random pixels `(1, 3, side, side)` and text embeddings `(num_classes, 2, D)`."""
    generator = torch.Generator().manual_seed(0)
    width = model.config.vision_config.hidden_size
    text_embeds = torch.randn(num_classes, 2, width, generator=generator)
    inputs = {
        "pixel_values": torch.randn(1, 3, side, side, generator=generator),
        "text_embeds": torch.nn.functional.normalize(text_embeds, dim=-1),
    }
    return {name: tensor.to(model.device, model.dtype) for name, tensor in inputs.items()}


def needs_a_graph(compiled: Callable, inputs: dict[str, torch.Tensor]) -> bool:
    """Whether none of the compiled graphs serves these inputs. A full graph is one graph."""
    try:
        with torch.compiler.set_stance("fail_on_recompile"):
            run(compiled, inputs)
    except RuntimeError as error:
        if "fail_on_recompile" not in str(error):
            raise
        return True
    return False


@torch.inference_mode()
def run(model: Callable, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the logits, computed to the end also on an accelerator."""
    logits = model(**inputs).logits
    if logits.is_cuda:
        torch.cuda.synchronize()
    return logits


def alternate(models: list[Callable], inputs: dict[str, torch.Tensor], repeats: int) -> list[list[float]]:
    """Returns the times of models in seconds; their runs alternate, so that the load of the machine hits all."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(repeats):
        for model, runs in zip(models, times):
            start = time.perf_counter()
            run(model, inputs)
            runs.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
