# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Peak memory of opening small files with many pixels, as images and as masks; each in a process of its own.

python benchmarks/image_memory.py
"""

import argparse
import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
from PIL import Image

from dinov3seg_hf import Vocabulary
from dinov3seg_hf.data.rows import RowReader
from dinov3seg_hf.model.image_input import MAX_IMAGE_PIXELS, open_image

KINDS = {"PNG, RGBA": ("RGBA", ".png"), "PNG, RGB": ("RGB", ".png"), "PNG, 16-bit gray": ("I;16", ".png")}
KINDS |= {"JPEG": ("RGB", ".jpg")}

# Mode, coding and raw ids of masks in rows of a data set.
MASKS = {
    "mask: PNG, gray": ("L", "integers", None),
    "mask: PNG, gray, raw ids": ("L", "integers", {0: 0, 1: 1}),
    "mask: PNG, 16-bit gray": ("I;16", "integers", None),
    "mask: PNG, gray as RGB": ("RGB", "integers", None),
    "mask: PNG, colors of ADE20K": ("RGB", "ade20k-rgb", None),
}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=int(MAX_IMAGE_PIXELS**0.5), help="default: that of the limit")
    options = parser.parse_args()
    print("| file | KiB | pixels, million | peak above the start, MiB | bytes per pixel |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, (mode, ending) in KINDS.items():
            report(title, open_image, mode, options.side, Path(folder) / f"image{ending}")
        for title, (mode, coding, raw_ids) in MASKS.items():
            report(title, mask_reader(coding, raw_ids), mode, options.side, Path(folder) / "mask.png")


def report(title: str, call: Callable[[Path], object], mode: str, side: int, path: Path) -> None:
    """Writes a file of one color, and prints the line of the table."""
    Image.new(mode, (side, side)).save(path)
    peak, pixels, size = measured(call, path), side**2, path.stat().st_size / 1024
    print(f"| {title} | {size:.0f} | {pixels / 1e6:.0f} | {peak / 2**20:.0f} | {peak / pixels:.1f} |", flush=True)


def mask_reader(coding: str, raw_ids: dict[int, int] | None) -> Callable[[Path], object]:
    """The function that reads a file as the mask of a row."""
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [], "mask": []}, features=features)
    reader = RowReader(rows, Vocabulary(["cat", "dog"], raw_ids=raw_ids), None, None, None, coding)
    return lambda path: reader.read_mask({"bytes": None, "path": str(path)})


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
