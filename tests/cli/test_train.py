# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`scripts/train.py` as people start it: killed and gone on with, in two processes, with bad arguments."""

import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from forked import Script
from places import HELPERS, REPO

SCRIPT = REPO / "scripts" / "train.py"
SHARDED = HELPERS / "train_sharded.py"
NAMES = ["red", "green", "blue", "gray"]
# Many steps in a short time, so that a kill falls somewhere in between.
STEPS, CHECKPOINT_EVERY = 24, 3
# Adam's first moment after one step is this share of the gradient.
ONE_MINUS_BETA1 = 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_checkpoint):
    """The data of these runs: 16 images of 32 px, with more ignored pixels in some than in others; class names; what
    all runs have in common."""
    folder = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    colors = np.array([[220, 30, 30], [30, 200, 30], [30, 30, 220], [120, 120, 120]], np.uint8)
    images, masks = [], []
    for index in range(16):
        labels = np.full((32, 32), index % 4, np.uint8)
        labels[8:24, 4 : 10 + index] = (index + 1) % 4
        images.append(Image.fromarray(colors[labels] + rng.integers(0, 30, (32, 32, 3), dtype=np.uint8)))
        labels[: 2 * index % 30] = 255
        masks.append(Image.fromarray(labels))
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": images, "mask": masks}, features=features)
    rows.save_to_disk(folder / "data")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    recipe = {
        "init": str(tiny_checkpoint),
        "dataset": str(folder / "data"),
        "vocabulary": str(folder / "classes.txt"),
        "num_workers": 0,
        "crop_size": 24,
        "steps": STEPS,
        "batch_size": 4,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "feature_noise": 0.5,
        "sampled_classes": [2, 4],
        "ema_decay": 0.9,
        "checkpoint_every": CHECKPOINT_EVERY,
        "log_every": 1,
        "num_overlays": 0,
        "trackers": ["none"],
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}


def command(folder: Path, output: str, *flags: object, script: Path = SCRIPT) -> list[str]:
    return [
        *(str(script), "--config", str(folder / "recipe.yaml"), "--output", str(folder / output)),
        *map(str, flags),
    ]


def train(folder: Path, output: str, *flags: object) -> subprocess.CompletedProcess:
    return Script(command(folder, output, *flags)).wait()


def train_in_two_processes(
    folder: Path, output: str, *flags: object, script: Path = SCRIPT
) -> subprocess.CompletedProcess:
    return Script(command(folder, output, *flags, script=script), 2).wait()


def launch_two_processes(
    folder: Path, output: str, *flags: object, script: Path = SCRIPT
) -> subprocess.CompletedProcess:
    """As the script's header says."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    arguments = [sys.executable, *launcher, *command(folder, output, *flags)]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment())


def lines_of(folder: Path) -> list[dict]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines_of(folder) if "loss" in line]


@pytest.fixture(scope="module")
def uninterrupted(folder):
    arguments = [sys.executable, *command(folder, "uninterrupted")]
    process = subprocess.run(arguments, capture_output=True, text=True, env=environment())
    assert process.returncode == 0, process.stderr
    assert "The model is in" in process.stdout
    return folder / "uninterrupted"


@pytest.mark.multiprocess
def test_killed_at_any_step_a_run_goes_on_as_if_nothing_had_been(folder, uninterrupted):
    """Loss curve and weights, with noise, sampled classes and a moving average."""
    run = folder / "killed"
    chosen = random.Random().randint(CHECKPOINT_EVERY + 1, STEPS - 6)  # any step will do
    script = Script(command(folder, "killed"))
    (process,) = script.processes
    try:
        deadline = time.monotonic() + 900
        while (run / "log.jsonl").exists() is False or len((run / "log.jsonl").read_bytes().splitlines()) < chosen:
            assert process.exitcode is None and time.monotonic() < deadline, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        script.kill()
    assert script.wait().returncode == -signal.SIGKILL
    assert not (run / "model").exists()

    resumed = train(folder, "killed", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(run) == losses(uninterrupted), f"killed at step {chosen}"
    models = [load_file(each / "model" / "model.safetensors") for each in (run, uninterrupted)]
    assert models[0].keys() == models[1].keys()
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], rtol=0, atol=1e-6, msg=name)
    assert json.loads((run / "run.json").read_text())["resumed"][0]["from_step"] % CHECKPOINT_EVERY == 0


@pytest.mark.multiprocess
def test_told_to_stop_a_run_saves_its_step_and_says_how_to_go_on(folder, uninterrupted):
    run = folder / "stopped"
    script = Script(command(folder, "stopped", "--checkpoint-every", 1000))
    deadline = time.monotonic() + 900
    while len(lines_of(run)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(script.processes[0].pid, signal.SIGTERM)
    stopped = script.wait()
    assert stopped.returncode == 130 and "Resume the run with --resume" in stopped.stdout
    steps = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert steps == [f"step-{lines_of(run)[-1]['step']:08d}"]
    assert losses(run) == losses(uninterrupted)[: len(losses(run))]


@pytest.mark.multiprocess
@pytest.mark.parametrize("streaming", [(), ("--streaming", "--shuffle-buffer", 5)], ids=["stored", "streamed"])
def test_two_processes_give_the_gradients_and_the_scores_of_one(folder, streaming):
    flags = ("--steps", 3, "--checkpoint-every", 1, "--keep-checkpoints", 3, "--max-grad-norm", 0, "--ema-decay", 0)
    flags += ("--eval-split", "train", "--eval-images", 5, *streaming)
    names = [f"{count}-{'streamed' if streaming else 'stored'}" for count in ("one", "two")]
    start_two = train_in_two_processes if streaming else launch_two_processes
    one, two = train(folder, names[0], *flags), start_two(folder, names[1], *flags)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert json.loads((folder / names[1] / "run.json").read_text())["num_processes"] == 2

    def gradients(run: str) -> list[torch.Tensor]:
        state = torch.load(folder / run / "checkpoints" / "step-00000001" / "optimizer.bin")["state"]
        return [state[index]["exp_avg"] / ONE_MINUS_BETA1 for index in sorted(state)]

    pairs = list(zip(*map(gradients, names), strict=True))
    assert len(pairs) > 40 and any(gradient.abs().max() > 1e-3 for gradient, _ in pairs)
    for gradient, other in pairs:
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)
    curves = [[loss for _, loss in losses(folder / run)] for run in names]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)

    results = [json.loads((folder / run / "results.json").read_text()) for run in names]
    assert results[0]["num_images"] == results[1]["num_images"] == 5
    assert results[0]["scores"]["mean_iou"] == pytest.approx(results[1]["scores"]["mean_iou"], abs=2e-3)


@pytest.mark.multiprocess
@pytest.mark.parametrize("streaming", [(), ("--streaming",)], ids=["stored", "streamed"])
def test_a_bad_row_is_named_whoever_reads_it(folder, streaming):
    """By a worker of one of two processes; the first rows, which are looked at before training, are good."""
    rows = datasets.load_from_disk(folder / "data").cast_column("image", datasets.Image(decode=False))
    many = [dict(rows[index % 16]) for index in range(240)]
    for index in range(33, 240):  # but for those at which a look is taken
        if streaming or index not in {look * 240 // 32 for look in range(32)}:
            many[index]["image"] = {"bytes": b"nonsense", "path": None}
    name = f"bad-{'streamed' if streaming else 'stored'}"
    datasets.Dataset.from_list(many, features=rows.features).save_to_disk(folder / name)
    flags = ("--dataset", folder / name, "--num-workers", 1, *streaming)
    process = train_in_two_processes(folder, f"run-of-{name}", *flags)
    assert process.returncode != 0
    (line,) = [line for line in process.stderr.splitlines() if "train.py: error" in line]
    assert re.fullmatch(r"scripts/train.py: error: Row \d+: the image does not have a known image format.*", line), line


@pytest.mark.multiprocess
def test_weights_that_are_cut_up_between_processes_learn_the_same_and_go_on_exactly(folder):
    """FSDP: loss curve and weights of one process that holds them all; and again from the middle."""
    flags = ("--steps", 4, "--checkpoint-every", 2, "--ema-decay", 0, "--trainable-encoders", "vision")
    whole = train(folder, "whole", *flags)
    assert whole.returncode == 0, whole.stderr
    run = folder / "sharded"
    for resume in ((), ("--resume",)):
        sharded = train_in_two_processes(folder, "sharded", *flags, *resume, script=SHARDED)
        assert sharded.returncode == 0, sharded.stderr
        curves = [[loss for _, loss in losses(path)] for path in (folder / "whole", run)]
        assert len(curves[0]) == 4 and curves[0] == pytest.approx(curves[1], rel=1e-5)
        models = [load_file(path / "model" / "model.safetensors") for path in (folder / "whole", run)]
        assert models[0].keys() == models[1].keys()
        for name in models[0]:
            torch.testing.assert_close(models[0][name], models[1][name], rtol=0, atol=1e-5, msg=name)
        assert list((run / "checkpoints" / "step-00000004").glob("pytorch_model_fsdp_0/*_1_*"))  # parts of both
        shutil.rmtree(run / "checkpoints" / "step-00000004")
        shutil.rmtree(run / "model")
    assert json.loads((run / "run.json").read_text())["resumed"] == [{"from_step": 2}]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dataset", "./nowhere"], "Data set './nowhere' was not found"),
        (["--image-column", "photo"], "image_column is 'photo'"),
        (["--learning-rat", "1"], "learning-rat"),
        (["--init", "./nowhere"], "Checkpoint folder './nowhere' was not found"),
    ],
)
def test_bad_arguments_end_in_one_line_before_the_first_step(folder, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", command(folder, "bad", *flags))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "error" in line]
    assert line.startswith("scripts/train.py: error: ") and message in line
    assert not printed.out and not (folder / "bad").exists()


@pytest.mark.slow
def test_the_small_recipe_gives_a_head_that_segments_names_it_never_saw(tmp_path):
    """README's training example, a quarter of it."""
    recipe = REPO / "recipes" / "drawn_world.yaml"
    flags = ("--steps", 80, "--warmup-steps", 10, "--eval-images", 20, "--num-overlays", 1, "--log-every", 1)
    arguments = [sys.executable, str(SCRIPT), "--config", str(recipe), "--output", str(tmp_path / "run")]
    process = subprocess.run([*arguments, *map(str, flags)], capture_output=True, text=True, env=environment())
    assert process.returncode == 0, process.stderr
    curve = [loss for _, loss in losses(tmp_path / "run")]
    assert len(curve) == 80 and np.isfinite(curve).all()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["scores"]["mean_iou"] > 0.4
    assert list((tmp_path / "run" / "overlays").rglob("*.png"))
