# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What the formats of an export cost: the embedded checkpoint on drawn scenes, with `run.py` of each export.

    python benchmarks/exports.py
    python benchmarks/exports.py --scenes 4 --kinds onnx onnx-int8

One row per export: the size of its graphs, the share of right pixels among all names of the drawn world, the share of
pixels with the label of the first row, and CPU seconds per image. Takes two minutes per export to write it.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("onnx", "onnx", "onnxscript", "onnxruntime")

import numpy as np
import torch
from PIL import Image

from dinov3seg_hf import TINY
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.exporting import export_checkpoint

FIRST_SEED = 700_000  # scenes that no training and no other measurement draws
GRAPHS = (".onnx", ".xml", ".bin", ".pt2", ".data")
KINDS = {"onnx": ("onnx", False), "onnx-int8": ("onnx", True), "openvino": ("openvino", False)}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if "openvino" in options.kinds:
        exit_without_extra("openvino", "openvino")
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    scenes = [draw_scene(FIRST_SEED + index, "all") for index in range(options.scenes)]
    truth = np.stack([scene.labels for scene in scenes])
    expected: np.ndarray | None = None
    print(
        "| export | graphs, MB | right pixels, % | same label, % | CPU s per image |\n|---|---|---|---|---|", flush=True
    )
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as scratch:
            folder, (format, int8) = Path(scratch) / "export", KINDS[kind]
            export_checkpoint(TINY, folder, format, int8=int8)
            size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in GRAPHS)
            segmenter = load_segmenter(folder)
            text = segmenter.encode_words(NAMES)
            segmenter.segment(Image.fromarray(scenes[0].image), text)
            start = time.process_time()
            labels = np.stack([segmenter.segment(Image.fromarray(scene.image), text) for scene in scenes])
            seconds = (time.process_time() - start) / len(scenes)
        expected = labels if expected is None else expected
        shares = [(labels == other).mean() for other in (truth, expected)]
        print(
            f"| {kind} | {size / 1e6:.1f} | {shares[0]:.2%} | {shares[1]:.2%} | {seconds:.2f} |".replace("%", ""),
            flush=True,
        )


def load_segmenter(folder: Path):
    """Returns the `Segmenter` of the `run.py` of an export."""
    sys.path.insert(0, str(folder))  # text_cleaning
    spec = importlib.util.spec_from_file_location("run", folder / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.pop(0)
    return module.Segmenter(folder)


if __name__ == "__main__":
    main()
