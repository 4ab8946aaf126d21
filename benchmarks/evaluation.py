# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images per second of a whole evaluation, against the first release: read, segment, label, count.

    git clone . FIRST && git -C FIRST checkout ddf6667    # the first release
    python benchmarks/evaluation.py --first-release FIRST
    python benchmarks/evaluation.py --first-release FIRST --architecture first    # the same weights in both
    python benchmarks/evaluation.py --first-release FIRST --architecture paper --batch-size 1

Both evaluate the same drawn scenes, from the same files, with the 192 names of the drawn world, enlarged to the shorter
side of the first column. `--architecture own`: each release its own embedded checkpoint, whose architectures differ.
`first`: both the embedded checkpoint of the first release without its early refinement, which ours no longer has, so
that the mIoU must be equal. `paper`: both its encoders and a head of our default size (128 channels, windows of
12 x 12), untrained, which labels like the zero-shot head, and again no early refinement. Ours chooses the size of its
chunks of classes itself; the configurations of the first release fix it.
Processes have one thread each. A command with few images is subtracted from one with more, so that starting does not
count; medians of alternating runs. A rate of nan: the difference is below the noise, so take more images.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("train", "accelerate", "datasets", "evaluate", "filelock")

from dinov3seg_hf.data.drawn_world import drawn_world
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.seeds import CARD

HERE = Path(__file__).resolve().parents[1]
EMBEDDED = Path("dinov3seg_hf", "checkpoints", "tiny")  # in both releases

# Run by the first release, whose values both releases know: its defaults are the default sizes of ours.
MAKE_CHECKPOINT = """
import shutil, sys
import torch
from dinov3seg_hf import TINY, Dinov3SegConfig, Dinov3SegForSemanticSegmentation
torch.manual_seed(0)
architecture, folder = sys.argv[1:]
embedded = Dinov3SegForSemanticSegmentation.from_pretrained(TINY)
encoders = ("stem_channels", "vision_head_num_layers", "vision_head_intermediate_size")
parts = {name: getattr(embedded.config, name).to_dict() for name in ("vision_config", "text_config")}
for generated in ("stage_names", "out_features", "out_indices"):
    parts["vision_config"].pop(generated, None)
values = {name: getattr(embedded.config, name) for name in encoders}
kept = ("vision_model.", "text_model.", "logit_scale")
if architecture == "first":
    config, kept = Dinov3SegConfig.from_dict({**embedded.config.to_dict(), "use_early_refinement": False}), ""
else:
    config = Dinov3SegConfig(prior_config=None, use_early_refinement=False, **parts, **values)
model = Dinov3SegForSemanticSegmentation(config)
model.load_state_dict({k: v for k, v in embedded.state_dict().items() if k.startswith(kept)}, strict=False)
shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("config.json", "model.safetensors"))
model.save_pretrained(folder)
"""


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-release", type=Path, required=True, metavar="CLONE")
    parser.add_argument("--architecture", choices=("own", "first", "paper"), default="own")
    parser.add_argument("--images", type=int, nargs=2, default=(4, 24), metavar=("FEW", "MORE"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 384], metavar="PIXELS")
    parser.add_argument("--modes", nargs="+", default=["whole", "local-global"])
    parser.add_argument("--batch-size", type=int, default=8, help="of ours (default: 8); the first release has 1")
    parser.add_argument("--processes", type=int, default=2, help="processes of an evaluation (default: 2)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    few, more = options.images
    if not 0 < few < more:
        parser.error(f"--images is {few} {more}; expected a number of images, and a larger one.")
    twins = {"first release": (options.first_release.resolve(), 1), "ours": (HERE, options.batch_size)}
    with tempfile.TemporaryDirectory() as scratch:
        scenes, checkpoints = Path(scratch) / "scenes", make_checkpoints(options, Path(scratch))
        drawn_world(more, "unseen", CARD).save_to_disk(scenes)
        print(f"{len(NAMES)} names; checkpoints of the architecture {options.architecture!r}\n")
        rates_and_scores = [f"{name}, images/s | mIoU, %" for name in twins]
        print("| shorter side | mode |", " | ".join(rates_and_scores), "| ratio |\n|---|---|---|---|---|---|---|")
        for size in options.sizes:
            for mode in options.modes:
                rates: dict[str, list[float]] = {name: [] for name in twins}
                scores: dict[str, float] = {}
                for _ in range(options.repeats):
                    for name, (clone, batch_size) in twins.items():
                        arguments = [*f"--shortest-edge {size} --inference {mode} --batch-size {batch_size}".split()]
                        arguments += ["--benchmark", str(scenes), "--model", str(checkpoints[name])]
                        short, _ = evaluate(clone, options.processes, [*arguments, "--images", str(few)])
                        long, scores[name] = evaluate(clone, options.processes, [*arguments, "--images", str(more)])
                        rates[name].append((more - few) / (long - short) if long > short else math.nan)
                medians = {name: statistics.median(values) for name, values in rates.items()}
                cells = " | ".join(f"{medians[name]:.2f} | {100 * scores[name]:.2f}" for name in twins)
                ratio = medians["ours"] / medians["first release"]
                print(f"| {size} | {mode} | {cells} | {ratio:.1f} |", flush=True)


def make_checkpoints(options: argparse.Namespace, scratch: Path) -> dict[str, Path]:
    """Returns the checkpoint of each release."""
    first = options.first_release.resolve() / EMBEDDED
    if options.architecture == "own":
        return {"first release": first, "ours": HERE / EMBEDDED}
    first = scratch / "first"
    run([sys.executable, "-c", MAKE_CHECKPOINT, options.architecture, str(first)], options.first_release.resolve())
    ours = Path(shutil.copytree(first, scratch / "ours"))
    config = json.loads((ours / "config.json").read_text())
    del config["early_window_size"]  # of the early refinement, which is off
    (ours / "config.json").write_text(json.dumps({**config, "class_chunk_size": "auto"}))
    return {"first release": first, "ours": ours}


def evaluate(clone: Path, num_processes: int, arguments: list[str]) -> tuple[float, float]:
    """Returns the seconds on the clock of an evaluation by the code of a clone, and the mean IoU."""
    command = [sys.executable]
    if num_processes > 1:
        command += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes)]
    command += ["scripts/evaluate.py", "--cpu", "--training-classes", "none", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run([*command, "--output", folder], clone)
        seconds = time.perf_counter() - start
        return seconds, json.loads((Path(folder) / "results.json").read_text())["scores"]["mean_iou"]


def run(command: list[str], clone: Path) -> None:
    """Runs a command with the code of a clone."""
    environment = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())


if __name__ == "__main__":
    main()
