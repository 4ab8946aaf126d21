# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Every benchmark runs, at small sizes: nothing else runs the code of a table that is made again after months."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HEAD = ("--classes", "3", "--patches", "8")
DEVICE_WORK = ("--batch-size", "1", "--classes", "3")
ARGUMENTS = {
    "active_classes": ("--classes", "20", "--patches", "8", "--things", "4"),
    "compile": ("--sides", "96", "--classes", "20", "--repeats", "1", "--backend", "aot_eager"),
    "decoder": ("--classes", "1", "--repeats", "1"),
    "determinism": ("--scenes", "1"),
    "device_work": DEVICE_WORK,
    "device_work, padded": (*DEVICE_WORK, "--padded-windows"),
    "device_work, on a device": (*DEVICE_WORK, "--side", "64", "--layers", "1", "--device", "cpu", "--kernels", "2"),
    "exports": ("--scenes", "1", "--kinds", "onnx"),
    "head": (*HEAD, "--repeats", "1"),
    "head, padded": (*HEAD, "--repeats", "1", "--twins", "padded windows", "ours"),
    "head, profile": (*HEAD, "--profile"),
    "image_memory": ("--side", "200"),
    "label_maps": ("--repeats", "1"),
    "large_images": ("--sides", "512"),
    "matmul_rates": ("--classes", "1", "--patches", "8", "--repeats", "1"),
    "metric": ("--images", "2", "--size", "64", "48", "--classes", "5"),
    "pipeline": ("--classes", "3", "--repeats", "1"),
    "pixel_refinement": (),
    "processor": ("--repeats", "1"),
    "startup": ("--repeats", "1"),
    "text": ("--layers", "1", "--names", "4"),
    "training_step": ("--classes", "3", "--crop", "64"),
    "videos": ("--scenes", "1", "--frames", "4", "8"),
}
NEEDS_ANOTHER_RELEASE = {"evaluation"}
# What the output must have beside figures.
PRINTS = {"device_work, on a device": (" ms |", "| kernel | calls | ms |", "aten::")}


def test_every_benchmark_is_run():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert scripts == {name.split(",")[0] for name in ARGUMENTS} | NEEDS_ANOTHER_RELEASE


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_benchmark_prints_its_figures(name):
    command = [sys.executable, str(BENCHMARKS / f"{name.split(',')[0]}.py"), *ARGUMENTS[name]]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    assert "nan" not in run.stdout.lower()
    figures = [word for word in run.stdout.replace("|", " ").split() if word[0].isdigit()]
    assert len(figures) >= 3, run.stdout
    assert all(text in run.stdout for text in PRINTS.get(name, ())), run.stdout
