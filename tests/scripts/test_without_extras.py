# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Every script that needs a library of an extra names the extra, in one line."""

import subprocess
import sys

import pytest

from places import REPO

LIBRARIES = (
    *("accelerate", "av", "datasets", "evaluate", "fastapi", "filelock", "gradio", "gradio_client", "onnx"),
    *("onnxruntime", "onnxscript", "openvino", "peft", "rasterio", "ray", "requests"),
)
PROGRAM = f"""
import os, runpy, sys, types
del sys.argv[0]
# no registration with transformers, which takes seconds; commands do without anyway
if "dinov3seg_command" not in open(sys.argv[0]).read():
    sys.modules["dinov3seg_command"] = types.SimpleNamespace(running=True)
for library in {LIBRARIES}:
    sys.modules[library] = None
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "extra"),
    [
        ("benchmarks/evaluation.py", "train"),
        ("benchmarks/exports.py", "onnx"),
        ("benchmarks/large_images.py", "large"),
        ("benchmarks/metric.py", "train"),
        ("benchmarks/videos.py", "video"),
        ("demo/app.py", "demo"),
        ("scripts/train.py", "train"),
        ("scripts/evaluate.py", "train"),
        ("scripts/prepare_benchmark.py", "train"),
        ("scripts/dev/every_command.py", "dev"),
        ("scripts/drawn_world/ablation.py", "train"),
        ("scripts/drawn_world/explain_ablation.py", "train"),
        ("scripts/measure/demo_load.py", "demo"),
        ("scripts/measure/labeling.py", "export"),
        ("scripts/measure/service_load.py", "dev"),
        ("scripts/measure/service_memory.py", "serve"),
    ],
)
def test_the_extra_is_named(script, extra):
    # only where the library is needed later than the options
    arguments = [] if script in ("benchmarks/metric.py", "scripts/dev/every_command.py") else ["--help"]
    command = [sys.executable, "-c", PROGRAM, script, *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and f'pip install "dinov3seg_hf[{extra}]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout
