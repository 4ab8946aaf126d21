# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Memory, time and agreement of tiles, with the embedded checkpoint on a large drawn scene.

    python benchmarks/large_images.py --sides 4096 20480           # memory of tiles
    python benchmarks/large_images.py --agreement                  # tiles against the whole image
    python benchmarks/large_images.py --whole 9000 12000           # memory of the ordinary command

The image is a mosaic of drawn scenes, repeated. Memory is the largest resident set of a process, above that of the same
process when it has loaded the model and segmented one small image. Each row runs in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("large", "rasterio")

import numpy as np

SCENE_SIDE = 96
LABELS = [
    "black plain background", "orange dotted square", "red plain triangle", "green dotted triangle",
    "yellow plain triangle", "purple striped square", "blue striped circle", "white plain star",
    "green plain background", "red striped cross",
]  # fmt: skip


def main() -> None:
    """Measures what the arguments ask for and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 20480], help="sides of square images, in pixels")
    parser.add_argument("--scale", type=float, default=0.125, help="scale of tiles for the model (default: 0.125)")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--whole", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the process of a row
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(**json.loads(options.measure))))
    elif options.agreement:
        print("| tile | context | labels of the whole image | right labels |\n|---|---|---|---|")
        for tile, context in ((0, False), (192, True), (192, False), (288, True), (288, False)):
            row = in_a_process(kind="agreement", tile=tile, context=context)
            name = tile or "the whole image"
            print(f"| {name} | {'yes' if context else 'no'} | {row['same']:.1%} | {row['right']:.1%} |", flush=True)
    else:
        print("| image | MiB above the model | seconds |\n|---|---|---|")
        sizes = [options.whole] if options.whole else [(side, side) for side in options.sides]
        for size in sizes:
            row = in_a_process(kind="whole" if options.whole else "tiles", size=size, scale=options.scale)
            print(f"| {size[1]} x {size[0]} | {row['mib']:.0f} | {row['seconds']:.0f} |", flush=True)


def in_a_process(**arguments: object) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", json.dumps(arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(kind: str, **arguments) -> dict:
    """One row; see `main`."""
    from dinov3seg_hf.loading import load_pipeline

    pipe = load_pipeline("embedded", "cpu")
    pipe(mosaic(1, 1), LABELS)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "agreement":
            return agreement(pipe, Path(folder), **arguments)
        return memory(pipe, Path(folder), kind, **arguments)


def mosaic(rows: int, columns: int) -> np.ndarray:
    """Drawn scenes side by side, uint8 `(96 rows, 96 columns, 3)`."""
    return _tiled([[np.asarray(scene.image) for scene in row] for row in _scenes(rows, columns)])


def _scenes(rows: int, columns: int) -> list[list]:
    from dinov3seg_hf.drawn_world.scenes import draw_scene

    return [[draw_scene(1000 + row * columns + column, "all") for column in range(columns)] for row in range(rows)]


def _tiled(parts: list[list[np.ndarray]]) -> np.ndarray:
    return np.vstack([np.hstack(row) for row in parts])


def agreement(pipe, folder: Path, tile: int, context: bool) -> dict:
    """The shares of pixels with the label that the whole image gets, in its own size, and with the right one."""
    import rasterio

    from dinov3seg_hf import segment_large
    from dinov3seg_hf.drawn_world.names import NAMES

    image, truth = mosaic(4, 4), _tiled([[np.asarray(scene.labels) for scene in row] for row in _scenes(4, 4)])
    present, truth = np.unique(truth, return_inverse=True)
    names, truth = [NAMES[index] for index in present], truth.reshape(image.shape[:2])
    size = {"height": image.shape[0], "width": image.shape[1]}
    whole = labels = pipe(image, names, return_label_map=True, size=size)["label_map"]
    if tile:
        segment_large(pipe, image, names, folder / "labels.tif", tile=tile, context=context)
        with rasterio.open(folder / "labels.tif") as file:
            labels = file.read(1)
    return {"same": float((labels == whole).mean()), "right": float((labels == truth).mean())}


def memory(pipe, folder: Path, kind: str, size: tuple[int, int], scale: float) -> dict:
    """The memory above that of the loaded model, and the time. The image is written by another process."""
    path = folder / ("image.tif" if kind == "tiles" else "image.jpg")
    write = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import large_images; "
    subprocess.run([sys.executable, "-c", f"{write}large_images.draw({str(path)!r}, {tuple(size)})"], check=True)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if kind == "tiles":
        from dinov3seg_hf import segment_large

        segment_large(pipe, path, LABELS, folder / "labels.tif", scale=scale, inference="whole")
    else:
        from dinov3seg_hf.cli import main as command

        command(
            ["segment", str(path), "--labels", ", ".join(LABELS), "--mask", str(folder / "mask.png"), "--device", "cpu"]
        )
    seconds = time.perf_counter() - start
    return {"mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, "seconds": seconds}


def draw(path: str, size: tuple[int, int]) -> None:
    """Writes an image of repeated scenes."""
    import rasterio
    from PIL import Image

    scenes = mosaic(4, 4)
    if path.endswith(".jpg"):
        repeated = np.tile(scenes, (-(-size[0] // 384), -(-size[1] // 384), 1))[: size[0], : size[1]]
        Image.fromarray(repeated).save(path)
        return
    row = np.tile(scenes, (1, -(-size[1] // 384), 1))[:, : size[1]].transpose(2, 0, 1)
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "compress": "deflate"}
    with rasterio.open(path, "w", height=size[0], width=size[1], photometric="rgb", **options) as file:
        for top in range(0, size[0], 384):
            height = min(384, size[0] - top)
            file.write(row[:, :height], window=rasterio.windows.Window(0, top, size[1], height))


if __name__ == "__main__":
    main()
