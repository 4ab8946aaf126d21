# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""scripts/evaluate.py as its header says, in this process and under `accelerate launch`."""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from dinov3seg_hf import Vocabulary
from dinov3seg_hf.cli import evaluate, main, train
from dinov3seg_hf.cli.evaluation import Task
from dinov3seg_hf.data.parquet import encode_png, write_parquet
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.drawn_world.seeds import CARD

from places import SCRIPTS

SCRIPT = SCRIPTS / "evaluate.py"
VOCABULARY = Vocabulary(["red circle", "blue square", "yellow triangle"])


def make_folder(folder: Path, num_images: int = 5, split: str = "validation") -> Path:
    rng = np.random.default_rng(0)
    columns = {"image": [], "mask": []}
    for _ in range(num_images):
        columns["image"].append({"bytes": encode_png(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)), "path": None})
        columns["mask"].append({"bytes": encode_png(rng.integers(0, 3, (40, 48)).astype(np.uint8)), "path": None})
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    write_parquet(datasets.Dataset.from_dict(columns, features=features), folder, split)
    (folder / "README.md").write_text(f"---\nclass_names: {json.dumps(VOCABULARY.names)}\n---\n")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def script(*arguments: object) -> int:
    return main(["evaluate", "--cpu", "--resamples", "50", *map(str, arguments)])


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_the_drawn_world_is_scored_on_the_scenes_of_the_model_card(tiny_checkpoint, tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        "dinov3seg_hf.data.drawn_world.draw_scene", lambda seed, *rest: seeds.append(seed) or draw_scene(seed, *rest)
    )
    assert (
        script("--benchmark", "drawn-world", "--images", 2, "--model", tiny_checkpoint, "--output", tmp_path / "o") == 0
    )
    assert set(seeds) == {CARD, CARD + 1}


def test_a_data_set_is_scored_from_its_folder_alone(tiny_checkpoint, tmp_path, capsys):
    data = make_folder(tmp_path / "mine")
    assert script("--model", tiny_checkpoint, "--benchmark", data, "--output", tmp_path / "out", "--per-class") == 0
    captured = capsys.readouterr()
    results = results_of(tmp_path / "out")
    assert [row["name"] for row in results["per_class"]] == list(VOCABULARY.names)
    assert results["num_images"] == 5 and results["model"]["name"] == str(tiny_checkpoint)
    assert f"{100 * results['scores']['mean_iou']:.2f}" in captured.out and "blue square" in captured.out
    assert "Evaluating: 100%" in captured.err
    assert (tmp_path / "out" / "results.txt").read_text() == captured.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.json", "results.txt"]

    assert script("--model", tiny_checkpoint, "--benchmark", data, "--output", tmp_path / "out") == 2
    assert "already exists" in capsys.readouterr().err
    arguments = ("--model", tiny_checkpoint, "--benchmark", data, "--output", tmp_path / "out", "--overwrite")
    assert script(*arguments, "--images", 2, "--streaming") == 0
    assert results_of(tmp_path / "out")["num_images"] == 2


def test_several_benchmarks_give_one_table(tiny_checkpoint, tmp_path, capsys):
    first, second = (make_folder(tmp_path / name, num_images) for name, num_images in (("one", 2), ("two", 3)))
    assert script("--model", tiny_checkpoint, "--benchmark", first, second, "--output", tmp_path / "out") == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["images", "inference"]
    assert [row.split()[-3:] for row in rows] == [["2", "whole", "64"], ["3", "whole", "64"]]
    assert len(list((tmp_path / "out").glob("*/results.json"))) == 2


def test_benchmarks_are_found_where_they_were_prepared(tiny_checkpoint, tmp_path, capsys):
    assert script("--benchmark", "A-150", "--data", tmp_path) == 2
    error = capsys.readouterr().err
    assert f"'{tmp_path}/ade20k-150'" in error and "dinov3seg prepare A-150" in error
    make_folder(tmp_path / "pascal-voc-20", 2)
    arguments = ("--model", tiny_checkpoint, "--benchmark", "PAS-20", "--data", tmp_path)
    assert script(*arguments, "--mask-values", "labels", "--classes", "pascal-voc-20") == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("PAS-20 ") and line.split()[-3:] == ["97.86", "98.5", "DPSeg"]


def test_classes_of_training_split_the_scores(tiny_model, tiny_processor, tmp_path, capsys):
    data = make_folder(tmp_path / "mine", 2)
    tiny_model.save_pretrained(tmp_path / "run")
    tiny_processor.save_pretrained(tmp_path / "run")
    Vocabulary(["red circle"]).save(tmp_path / "run" / "training_vocabulary.json")
    arguments = ("--model", tmp_path / "run", "--benchmark", data, "--output", tmp_path / "out", "--overwrite")
    assert script(*arguments) == 0
    assert [row["seen"] for row in results_of(tmp_path / "out")["per_class"]] == [True, False, False]
    assert "harmonic" in capsys.readouterr().out
    assert script(*arguments, "--training-classes", "none") == 0
    assert "harmonic_mean" not in results_of(tmp_path / "out")["scores"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--benchmark", "nobody/nothing"), "cannot be opened"),
        (("--benchmark", "FOLDER", "--split", "test"), "test"),
        (("--benchmark", "FOLDER", "--mask-column", "masks"), "mask_column is 'masks'"),
        (("--benchmark", "FOLDER", "--classes", "ade20k-15"), "Unknown class names 'ade20k-15'"),
        (("--benchmark", "FOLDER", "--model", "nowhere/at/all"), "Checkpoint folder 'nowhere/at/all' was not found"),
        (("--benchmark", "drawn-world", "--classes", "ade20k-150"), "--classes is not supported for drawn-world"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_a_model_is_run(tmp_path, capsys, arguments, reason):
    data = make_folder(tmp_path / "mine", 1)
    assert script(*(str(data) if argument == "FOLDER" else argument for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and reason in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("dinov3seg evaluate: error: ")


def launch(*arguments: object) -> subprocess.Popen:
    """As the script's header says, in two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2]
    command += ["--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    command += [SCRIPT, "--resamples", 50, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_classes_of_training_are_found_on_the_hub(tiny_model, monkeypatch, tmp_path):
    Vocabulary(["red circle"]).save(tmp_path / "training_vocabulary.json")
    asked = []

    def download(repo, file, **options):
        asked.append((repo, file))
        if repo == "me/offline":
            raise LocalEntryNotFoundError("offline")
        return str(tmp_path / file)

    monkeypatch.setattr("dinov3seg_hf.loading.hf_hub_download", download)
    options = {"training_classes": None, "output": None}
    assert Task(Namespace(model="me/mine", **options), "data").training_classes().names == ("red circle",)
    assert Task(Namespace(model="me/offline", **options), "data").training_classes() is None
    assert asked == [(name, "training_vocabulary.json") for name in ("me/mine", "me/offline")]


@pytest.mark.parametrize("streaming", [(), ("--streaming",)])
def test_black_and_white_masks_are_warned_of(tiny_checkpoint, tmp_path, capsys, streaming):
    columns = {"image": [], "mask": []}
    mask = np.zeros((40, 48), np.uint8)
    mask[8:16] = 255
    for _ in range(2):
        columns["image"].append({"bytes": encode_png(np.zeros((40, 48, 3), np.uint8)), "path": None})
        columns["mask"].append({"bytes": encode_png(mask), "path": None})
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    write_parquet(datasets.Dataset.from_dict(columns, features=features), tmp_path / "mine", "validation")
    (tmp_path / "classes.txt").write_text("ground\ncrack\n")
    arguments = ("--model", tiny_checkpoint, "--benchmark", tmp_path / "mine", *streaming)
    assert script(*arguments, "--classes", tmp_path / "classes.txt") == 0
    warning = "warning: In 2 rows of the data, the masks show no class but 'ground', and ignored pixels (value 255)"
    assert capsys.readouterr().err.count(warning) == 1
    (tmp_path / "classes.tsv").write_text("raw_id\tnames\n0\tground\n255\tcrack\n")  # what the warning proposes
    assert script(*arguments, "--classes", tmp_path / "classes.tsv") == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.multiprocess
def test_two_processes_give_the_figures_of_one(tiny_checkpoint, tmp_path):
    arguments = ("--model", tiny_checkpoint, "--benchmark", make_folder(tmp_path / "mine"))  # five images
    process = launch(*arguments, "--output", tmp_path / "two")
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 2  # the table, once
    assert script(*arguments, "--output", tmp_path / "one") == 0
    assert results_of(tmp_path / "two") == results_of(tmp_path / "one")


def test_a_training_run_stands_for_the_model_that_it_trained(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    arguments = ("--benchmark", make_folder(tmp_path / "mine", 2), "--model", tmp_path / "run")
    assert script(*arguments) == 2
    assert "is not finished and does not contain a model yet" in capsys.readouterr().err
    shutil.copytree(tiny_checkpoint, tmp_path / "run" / "model")
    Vocabulary(VOCABULARY.names[:2]).save(tmp_path / "run" / "model" / "training_vocabulary.json")
    assert script(*arguments, "--output", tmp_path / "out") == 0
    assert "seen_mean_iou" in results_of(tmp_path / "out")["scores"]


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on(tiny_checkpoint, tmp_path):
    arguments = ("--model", tiny_checkpoint, "--benchmark", make_folder(tmp_path / "mine", 300))
    process = launch(*arguments, "--output", tmp_path / "killed")
    progress = tmp_path / "killed" / ".progress"
    deadline = time.monotonic() + 300
    while sum(path.read_text().count("\n") > 2 for path in progress.glob("*.jsonl")) < 2:  # both have begun
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    for each in (*psutil.Process(process.pid).children(recursive=True), process):
        each.kill()  # SIGKILL; the launcher's processes are groups of their own
    process.communicate()
    assert not (tmp_path / "killed" / "results.json").exists()
    done = sum(path.read_text().count("\n") - 1 for path in progress.glob("*.jsonl"))
    assert 0 < done < 300
    assert script(*arguments, "--output", tmp_path / "killed") == 0  # in one process now
    assert script(*arguments, "--output", tmp_path / "whole") == 0
    assert results_of(tmp_path / "killed") == results_of(tmp_path / "whole")
    assert not progress.exists()


@pytest.mark.parametrize("option", ["--batch-size", "--shortest-edge", "--square"])
def test_numbers_that_are_no_sizes_are_refused(capsys, option):
    with pytest.raises(SystemExit, match="2"):
        script("--benchmark", "drawn-world", option, "0")
    assert "got '0'; expected an integer of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_processes_wait_for_each_other_for_hours(monkeypatch, command):
    """Not for minutes, the default of torch: one may download the data meanwhile, or have slower images."""
    waits = []

    def note(patience=None, cpu=False):
        waits.append(patience)
        raise ValueError("noted")

    monkeypatch.setattr("dinov3seg_hf.cli.evaluation.start_processes", note)
    monkeypatch.setattr("dinov3seg_hf.distributed.start_processes", note)
    with pytest.raises(ValueError, match="noted"):
        if command == "train":
            train.run(Namespace(run_config=(None, False)))
        else:
            evaluate.run(evaluate.make_parser("evaluate").parse_args(["--benchmark", "drawn-world"]))
    assert waits[0] >= timedelta(hours=1)
