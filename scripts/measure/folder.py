# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures `dinov3seg segment FOLDER`: images per second before and after, and what a killed run leaves to the next.

    python scripts/measure/folder.py
    python scripts/measure/folder.py --images 100 --few 20

The images are crops of the photographs that scikit-image brings along, or drawn scenes where it is not installed.
"Before" is the first release, which took one image: a command for each image, or a loop over the pipeline. The killed
run gets SIGKILL when half of its masks are written; the next one continues with --skip-existing, and its masks are
compared with those of a run that nobody disturbed. Images per second are on the clock, without the start of Python but
for the commands; CPU seconds, which other work on the machine disturbs less, are those of the whole command. Exits with
1 if a mask is missing or damaged.
"""

import argparse
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.model.image_input import read_label_map
from dinov3seg_hf.visualization.files import save_mask

LABELS = "red, green, blue, yellow, black, white"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png")


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--few", type=int, default=200, help="images of the runs that are only there to compare")
    parser.add_argument("--starts", type=int, default=5, help="images with a command for each")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = make_images(root / "images", options.images, options.size)
        few = root / "few"
        few.mkdir()
        for path in sorted((root / "images").iterdir())[: options.few]:
            os.link(path, few / path.name)
        paths = sorted(few.iterdir())

        start = cpu_seconds()
        seconds = commands(paths[: options.starts], root / "single.png")
        rows = [("before: a command for each image", options.starts, options.starts / seconds, cpu_seconds() - start)]
        seconds, cpu = loop(paths, root / "loop")
        rows.append(("before: a loop over the pipeline", len(paths), len(paths) / seconds, cpu))
        for title, folder, batch in (
            ("the folder, one at a time", few, 1),
            (f"the folder, --batch-size {options.batch_size}", root / "images", options.batch_size),
        ):
            start = cpu_seconds()
            run(folder, root / f"batch{batch}", batch).wait()
            rows.append((title, len(list(folder.iterdir())), rate_of(root / f"batch{batch}"), cpu_seconds() - start))
        whole = root / f"batch{options.batch_size}"
        found, seconds, num_damaged = kill_and_resume(root / "images", root / "killed", options.batch_size)

        size = f"{options.size} x {options.size} pixels"
        print(f"{options.images} images of {size}, {source}; {torch.get_num_threads()} threads of torch\n")
        print("| | images | images per second | CPU seconds per image |\n|---|---|---|---|")
        for title, number, rate, cpu in rows:
            print(f"| {title} | {number} | {rate:.2f} | {cpu / number:.3f} |")
        print(
            f"\nKilled with {found} masks written, {num_damaged} of them damaged; the next run took {seconds:.0f} s "
            f"for the other {options.images - found}."
        )
        print(f"one at a time and the loop: {compared(root / 'batch1', root / 'loop')}")
        print(f"batches and the loop: {compared(whole, root / 'loop')}")
        print(f"killed and resumed, and undisturbed: {compared(root / 'killed', whole)}")
        is_whole = len(list((root / "killed").iterdir())) == len(list(whole.iterdir())) == options.images
        return 0 if is_whole and not num_damaged else 1


def make_images(folder: Path, number: int, size: int) -> str:
    """Writes the images as PNG; returns what they show."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    found = importlib.util.find_spec("skimage")
    photographs = []
    if found is not None and found.origin is not None:
        data = Path(found.origin).parent / "data"
        photographs = [Image.open(data / name).convert("RGB") for name in PHOTOGRAPHS if (data / name).is_file()]
    for index in tqdm(range(number), desc="Making images", unit="image"):
        if photographs:
            photograph = photographs[index % len(photographs)]
            left, top = (int(rng.integers(0, side - size + 1)) for side in photograph.size)
            image = photograph.crop((left, top, left + size, top + size))
        else:
            image = Image.fromarray(draw_scene(index, "seen", size).image)
        image.save(folder / f"{index:06d}.png")
    return f"crops of {len(photographs)} photographs" if photographs else "drawn scenes"


def commands(paths: Sequence[Path], mask: Path) -> float:
    """Starts a command for each image; returns the seconds."""
    start = time.perf_counter()
    for path in paths:
        subprocess.run([*command(path), "--mask", str(mask)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def loop(paths: Sequence[Path], folder: Path) -> tuple[float, float]:
    """Segments the images one by one in Python, as with the first release; returns seconds and CPU seconds."""
    folder.mkdir()
    pipe = load_pipeline("embedded", "cpu")
    names = LABELS.split(", ")
    pipe(str(paths[0]), names)  # libraries load their code at the first call
    start, cpu = time.perf_counter(), time.process_time()
    for path in tqdm(paths, desc="Loop", unit="image"):
        result = pipe(str(path), names, return_label_map=True)
        save_mask(folder / f"{path.stem}_mask.png", result["label_map"], len(names))
    return time.perf_counter() - start, time.process_time() - cpu


def cpu_seconds() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(images: Path) -> list[str]:
    return [sys.executable, "-m", "dinov3seg_hf", "segment", str(images), "--labels", LABELS, "--device", "cpu"]


def run(images: Path, masks: Path, batch_size: int, *more: str) -> subprocess.Popen:
    """Starts the command for a folder."""
    arguments = ["--mask", f"{masks}/", "--batch-size", str(batch_size), *more]
    return subprocess.Popen([*command(images), *arguments], stdout=subprocess.DEVNULL)


def rate_of(folder: Path) -> float:
    """Images per second from the first mask to the last."""
    times = sorted(path.stat().st_mtime for path in folder.iterdir())
    first = sum(moment == times[0] for moment in times)
    return (len(times) - first) / (times[-1] - times[0])


def kill_and_resume(images: Path, masks: Path, batch_size: int) -> tuple[int, float, int]:
    """Kills a run in its middle and continues it.

    Returns:
        The number of masks that the first run left; the seconds of the second one; how many of the masks that the first
        run left cannot be read.
    """
    process, half = run(images, masks, batch_size), len(list(images.iterdir())) // 2
    while process.poll() is None and (not masks.is_dir() or len(list(masks.glob("*_mask.png"))) < half):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left, num_damaged = list(masks.glob("*_mask.png")), 0
    for path in left:
        try:
            read_label_map(path)
        except ValueError:
            num_damaged += 1
    start = time.perf_counter()
    run(images, masks, batch_size, "--skip-existing").wait()
    return len(left), time.perf_counter() - start, num_damaged


def compared(folder: Path, other: Path) -> str:
    """How far the masks with the same names are equal."""
    shares = []
    for path in sorted(folder.iterdir()):
        if (other / path.name).is_file():
            first, second = (read_label_map(item).numpy() for item in (path, other / path.name))
            shares.append((first == second).mean())
    num_equal = sum(share == 1 for share in shares)
    return f"{num_equal} of {len(shares)} masks are equal, and {100 * np.mean(shares):.4f} % of all pixels"


if __name__ == "__main__":
    sys.exit(main())
