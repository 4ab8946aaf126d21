# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Peak memory of opening small files with many pixels; each in a process of its own.

python benchmarks/image_memory.py
"""

import argparse
import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from dinov3seg_hf.model.image_input import MAX_IMAGE_PIXELS, open_image

KINDS = {"PNG, RGBA": ("RGBA", ".png"), "PNG, RGB": ("RGB", ".png"), "PNG, 16-bit gray": ("I;16", ".png")}
KINDS |= {"JPEG": ("RGB", ".jpg")}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=int(MAX_IMAGE_PIXELS**0.5), help="default: that of the limit")
    options = parser.parse_args()
    print("| file | KiB | pixels, million | peak above the start, MiB | bytes per pixel |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, (mode, ending) in KINDS.items():
            path = Path(folder) / f"image{ending}"
            Image.new(mode, (options.side, options.side)).save(path)
            peak, pixels = measured(open_image, path), options.side**2
            size = path.stat().st_size / 1024
            print(
                f"| {title} | {size:.0f} | {pixels / 1e6:.0f} | {peak / 2**20:.0f} | {peak / pixels:.1f} |", flush=True
            )


def measured(call: Callable[[Path], object], path: Path) -> int:
    """The peak memory of a call, in bytes, above what the process had before."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_measure, args=(call, path, results))
    process.start()
    peak = results.get()
    process.join()
    return peak


def _measure(call: Callable[[Path], object], path: Path, results) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call(path)
    results.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


if __name__ == "__main__":
    main()
