# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures `dinov3seg label` in several processes, and whether they write what one process writes.

    python scripts/measure/processes.py
    python scripts/measure/processes.py --processes 1 8 --images 2000

The images are drawn scenes, and each process has one thread. Prints the seconds of the whole command, those between the
first shard and the last one (without the start of Python), and the CPU seconds of all processes. Exits with 1 if a file
differs.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from dinov3seg_hf.drawn_world.names import SEEN
from dinov3seg_hf.drawn_world.scenes import draw_scene


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--rows-per-shard", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()

    print(f"{os.cpu_count()} cores\n")
    print("| processes | seconds | images per second | CPU seconds | files |\n|---|---|---|---|---|")
    expected: dict[str, bytes] | None = None
    is_equal = True
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        photos.mkdir()
        for index in tqdm(range(options.images), desc="Drawing", unit="image"):
            Image.fromarray(draw_scene(index, "seen", 96).image).save(photos / f"{index:06d}.png")
        for number in options.processes:
            output = Path(name) / f"labeled{number}"
            command = [*launcher(number), "-m", "dinov3seg_hf", "label", "--dataset", str(photos), "--device", "cpu"]
            command += ["--labels", ", ".join(SEEN[: options.labels]), "--output", str(output)]
            command += [f"--rows-per-shard={options.rows_per_shard}", f"--batch-size={options.batch_size}"]
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            run = subprocess.run(command, env=environment, capture_output=True, text=True)
            if run.returncode:
                sys.exit(run.stderr)
            seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            shards = sorted((output / "data").glob("*.parquet"), key=lambda path: path.stat().st_mtime)
            # the first shards of the processes are written at about the same time, and are not counted
            between = shards[-1].stat().st_mtime - shards[number - 1].stat().st_mtime
            rate = (len(shards) - number) * options.rows_per_shard / between
            files = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
            expected = expected or files
            same = files == expected
            is_equal = is_equal and same
            word = "equal to the first row's" if same else "different"
            print(f"| {number} | {seconds:.1f} | {rate:.2f} | {cpu:.0f} | {len(files)}, {word} |", flush=True)
    return 0 if is_equal else 1


def launcher(number: int) -> list[str]:
    """Returns the beginning of a command in as many processes: Python alone, or Accelerate's launcher."""
    if number == 1:
        return [sys.executable]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1"]
    return [
        *launch,
        f"--num_processes={number}",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--main_process_port=0",
    ]


if __name__ == "__main__":
    sys.exit(main())
