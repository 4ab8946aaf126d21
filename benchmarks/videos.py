# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What smoothing does to a video, and what its length does to memory, with the embedded checkpoint on drawn scenes.

    python benchmarks/videos.py --scenes 2            # smoothing
    python benchmarks/videos.py --frames 100 1000     # memory

A clip is a drawn scene with noise of its own in every frame, still or moving to the left. Right: pixels with the right
label. Flicker: pixels whose label is not that of the frame before, though the truth is. Memory is the largest resident
set of a process, above that of the same process when it has segmented one image; each row runs in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("video", "av")

import numpy as np

SIDE, NUM_FRAMES, NOISE = 96, 10, 25.0
SPEEDS, SMOOTHINGS = (0, 2), (0.0, 0.1, 0.3)  # pixels per frame at 25 frames per second; seconds


def main() -> None:
    """Measures what the arguments ask for and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2, help="number of scenes (default: 2)")
    parser.add_argument("--frames", type=int, nargs="+", help="lengths of clips, for memory")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)  # in the process of a row
    options = parser.parse_args()
    if options.measure:
        print(memory(options.measure))
    elif options.frames:
        print("| frames of 320 x 240 pixels | MiB above the model |\n|---|---|")
        for length in options.frames:
            command = [sys.executable, __file__, "--measure", str(length)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(f"| {length} | {float(done.stdout.splitlines()[-1]):.0f} |", flush=True)
    else:
        print("| pixels per frame | smoothing | right | flicker |\n|---|---|---|---|")
        for speed in SPEEDS:
            for smoothing, right, flicker in quality(options.scenes, speed):
                print(f"| {speed} | {smoothing} s | {right:.1%} | {flicker:.1%} |", flush=True)


def quality(num_scenes: int, speed: int) -> list[tuple[float, float, float]]:
    """(smoothing, share of right labels, share of flickering labels) of clips with this speed."""
    from dinov3seg_hf.drawn_world.names import NAMES
    from dinov3seg_hf.drawn_world.scenes import draw_scene
    from dinov3seg_hf.loading import load_pipeline
    from dinov3seg_hf.video import new_video, segment_video

    pipe, rng = load_pipeline("embedded", "cpu"), np.random.default_rng(0)
    rows = []
    for smoothing in SMOOTHINGS:
        right, flicker = [], []
        for seed in range(num_scenes):
            scene = draw_scene(seed, "seen", (SIDE, SIDE + speed * NUM_FRAMES))
            names = list(scene.names)
            truth = np.vectorize({NAMES.index(name): index for index, name in enumerate(names)}.get)(scene.labels)
            windows = [slice(speed * number, speed * number + SIDE) for number in range(NUM_FRAMES)]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "clip.mp4"
                with new_video(path) as clip:
                    for number, window in enumerate(windows):
                        noisy = scene.image[:, window] + rng.normal(0, NOISE, (SIDE, SIDE, 3))
                        clip.add(noisy.clip(0, 255).astype(np.uint8), number / 25)
                results = segment_video(pipe, path, names, smoothing=smoothing, progress=False)
                found = [result.labeled.label_map for result in results]
            expected = [truth[:, window] for window in windows]
            right += [(one == other).mean() for one, other in zip(found, expected)]
            for number in range(1, NUM_FRAMES):
                same = expected[number] == expected[number - 1]
                flicker.append((found[number] != found[number - 1])[same].mean())
        rows.append((smoothing, float(np.mean(right)), float(np.mean(flicker))))
    return rows


def memory(num_frames: int) -> float:
    """MiB of a clip of which every 50th frame is segmented, above those of one image."""
    from dinov3seg_hf.loading import load_pipeline
    from dinov3seg_hf.video import new_video, segment_video

    pipe, labels = load_pipeline("embedded", "cpu"), ["red plain circle", "blue plain square", "white plain background"]
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    pipe(frame, labels)
    with tempfile.TemporaryDirectory() as folder:
        writer = f"""
import numpy as np
from dinov3seg_hf.video import new_video
with new_video({folder!r} + "/clip.mp4") as clip:
    for number in range({num_frames}):
        clip.add(np.full((240, 320, 3), number % 256, np.uint8), number / 25)
"""
        subprocess.run([sys.executable, "-c", writer], check=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with new_video(Path(folder) / "out.mp4") as overlay:
            for result in segment_video(pipe, Path(folder) / "clip.mp4", labels, every=50, progress=False):
                overlay.add(result.frame.pixels, result.frame.time)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
