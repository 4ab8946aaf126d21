# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures the memory that one request of `dinov3seg serve` takes at each of its stages, on Linux.

    OMP_NUM_THREADS=1 python scripts/measure/service_memory.py

Sends a drawn scene of the largest size that the service takes. Prints the memory above that of the idle service: the
peak while the image is read, what it keeps while it waits for the model, the peak while the model computes it, and the
peak while the answer is made.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("serve", "fastapi")

from fastapi.testclient import TestClient
from PIL import Image

from dinov3seg_hf.about import EMBEDDED
from dinov3seg_hf.drawn_world.names import SEEN
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.serving.allocator import give_back_freed_memory
from dinov3seg_hf.serving.api import build_app
from dinov3seg_hf.serving.engine import SegmentationEngine


def main() -> int:
    """Prints the memory of one request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=50)
    parser.add_argument("--labels", type=int, default=6)
    options = parser.parse_args()

    give_back_freed_memory()
    pipe = load_pipeline(EMBEDDED, "cpu")
    engine = SegmentationEngine(pipe)
    measured: dict[str, float] = {}
    side = int((options.megapixels * 1e6) ** 0.5)
    scene = Image.fromarray(draw_scene(1, "seen", 96).image)
    small, large = (png_of(scene.resize((size, size), Image.Resampling.NEAREST)) for size in (96, side))
    encode, segment = pipe.encode_prepared, pipe.segment_prepared

    def encode_prepared(*arguments: Any) -> Any:
        measured["peak while it is read"], measured["kept while it waits"] = peak(), resident()
        forget_peak()
        return encode(*arguments)

    def segment_prepared(*arguments: Any, **settings: Any) -> Any:
        result = segment(*arguments, **settings)
        measured["peak while it is computed"] = peak()
        forget_peak()
        return result

    vars(pipe).update(encode_prepared=encode_prepared, segment_prepared=segment_prepared)
    data = {"labels": ", ".join(SEEN[: options.labels]), "format": "rle"}
    with TestClient(build_app(engine)) as client:
        client.post("/segment", files={"image": small}, data=data).raise_for_status()
        idle = resident()
        forget_peak()
        client.post("/segment", files={"image": large}, data=data).raise_for_status()
        measured["peak while the answer is made"] = peak()
    print(f"an image of {side} x {side} pixels in a file of {len(large) / 2**20:.1f} MiB, MiB above {idle:.0f}:")
    for stage, mib in measured.items():
        print(f"{stage}: {mib - idle:.0f}")
    return 0


def png_of(image: Image.Image) -> bytes:
    """Encodes an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def resident() -> float:
    """The memory of this process in MiB."""
    return _status("VmRSS")


def peak() -> float:
    """The largest memory of this process since `forget_peak`, in MiB."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Begins a new measurement of the peak."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
