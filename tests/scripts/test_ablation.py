# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`scripts/drawn_world/ablation.py` cut short: it goes on run by run and writes the table that it measured."""

import json
import re

import pytest

from dinov3seg_hf import TINY
from dinov3seg_hf.cli.console import execute
from dinov3seg_hf.data.drawn_world import drawn_world
from dinov3seg_hf.data.presets import drawn_world_vocabulary
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.drawn_world.seeds import ABLATION
from dinov3seg_hf.loading import load_model, load_processor
from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.inference_settings import InferenceSettings
from dinov3seg_hf.training.config import SWITCHES

from places import SCRIPTS, load_script

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SCRIPT = SCRIPTS / "drawn_world" / "ablation.py"


@pytest.fixture(scope="module")
def ablation():
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def table_module():
    return load_script(SCRIPTS / "drawn_world" / "ablation_table.py")


@pytest.fixture
def recipe(tmp_path, tiny_checkpoint):
    fields = {
        "init": str(tiny_checkpoint),
        "dataset": "drawn-world",
        "split": "seen[:4]",
        "num_workers": 0,
        "crop_size": 32,
        "steps": 2,
        "batch_size": 2,
        "warmup_steps": 1,
        "sampled_classes": [3],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(fields))
    return tmp_path / "recipe.yaml"


def test_every_contribution_with_a_switch_has_a_variant(ablation, table_module):
    left_out = [switch for switches in ablation.VARIANTS.values() for switch in switches]
    assert set(left_out) == set(SWITCHES) and ablation.VARIANTS[table_module.FULL] == []
    assert all(hasattr(Dinov3SegConfig(), switch) for switch in SWITCHES)


@pytest.mark.parametrize("head", ["fresh", "keep"])
def test_runs_that_have_their_scores_are_not_repeated_and_the_table_is_theirs(
    head, ablation, table_module, recipe, tmp_path, monkeypatch, capsys
):
    table = tmp_path / "docs" / "ablation.md"
    table.parent.mkdir()
    table.write_text(
        f"# Ablation\n\nWhy.\n\n{table_module.MARKS[head][0]}\nold\n{table_module.MARKS[head][1]}\n\nWhat follows.\n"
    )
    arguments = ["--recipe", recipe, "--output", tmp_path / "runs", "--table", table, "--seeds", 2, "--scenes", 2]
    arguments = list(map(str, [*arguments, "--head", head, "--variants", "no early refinement"]))
    monkeypatch.setattr(ablation.sys, "argv", [str(SCRIPT), *arguments])

    def main(arguments):
        return execute(ablation, "ablation", arguments)

    assert main(arguments) == 0
    printed = capsys.readouterr().out
    text = table.read_text()
    assert text.startswith("# Ablation\n\nWhy.\n") and text.endswith("\nWhat follows.\n") and "old" not in text
    assert printed.strip() in text

    rows = re.findall(r"^\| (.+?) \|(.*)\|$", text, flags=re.MULTILINE)
    names = ["full model", "no early refinement", table_module.NO_LOCAL_GLOBAL, table_module.ZERO_SHOT]
    assert [name for name, _ in rows if not name.startswith("|")][-4:] == names
    scores = [
        json.loads((tmp_path / "runs" / "full-model" / f"seed-{seed}" / "ablation.json").read_text())["scores"]
        for seed in (0, 1)
    ]
    mean = 50 * (scores[0]["unseen"] + scores[1]["unseen"])
    assert dict(rows)["full model"].split("|")[0].strip().startswith(f"{mean:.1f} ±")
    assert f"--recipe {recipe}" in text  # the command

    # again: nothing is trained, but for the one whose scores are missing
    trained = []
    trainer = ablation.Trainer

    def counted(config, **options):
        trained.append(config.output)
        return trainer(config, **options)

    monkeypatch.setattr(ablation, "Trainer", counted)
    assert main(arguments) == 0 and not trained
    missing = tmp_path / "runs" / "no-early-refinement" / "seed-1"
    before = json.loads((missing / "ablation.json").read_text())
    (missing / "ablation.json").unlink()
    assert main(arguments) == 0 and trained == [str(missing)]
    assert json.loads((missing / "ablation.json").read_text())["scores"] == before["scores"]

    # scores of other options are not passed off as these
    assert main([*arguments, "--steps", "3"]) == 2
    assert "were computed with steps 2; expected 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "sampled, words", [([1, 8, 24], "1, 8 or 24 classes"), ([8, 24], "8 or 24 classes"), ([3], "3 classes")]
)
def test_the_numbers_of_classes_of_a_step_can_be_set_and_are_named(sampled, words, ablation, recipe, tmp_path):
    arguments = ["--recipe", str(recipe), "--output", str(tmp_path), "--sampled-classes", *map(str, sampled)]
    options = ablation.make_parser("ablation").parse_args(arguments)
    configs = ablation.configurations(options)
    assert all(config.sampled_classes == sampled for config in configs.values())
    (line,) = [line for line in ablation.notes_of(options, next(iter(configs.values())), {}) if "trained for" in line]
    assert f"of 2 scenes, {words} per step" in line


def test_a_table_without_a_place_is_not_written_over(table_module, tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(ValueError, match="does not contain the marks of the table"):
        table_module.write_table(tmp_path / "notes.md", "| |")
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_changes_are_taken_seed_by_seed(table_module):
    full = {column: [50.0, 60.0] for column in table_module.COLUMNS}
    rows = {table_module.FULL: full, "less": {column: [48.0, 58.0] for column in table_module.COLUMNS}}
    less = table_module.markdown(rows, []).splitlines()[3]
    # seeds differ by 10, yet both lose 2
    assert less == "| less | " + " | ".join(["53.0 ± 7.1 | -2.0 ± 0.0"] * 3) + " |"


# --- why --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def explain(tmp_path, monkeypatch, capsys):
    """Runs explain_ablation.py on the embedded checkpoint, as if a run had ended with it -> lines."""
    module = load_script(SCRIPT.with_name("explain_ablation.py"))
    (tmp_path / "runs" / "full-model" / "seed-0").mkdir(parents=True)
    (tmp_path / "runs" / "full-model" / "seed-0" / "model").symlink_to(TINY)

    def run(*arguments: object) -> list[str]:
        assert execute(module, "explain", list(map(str, arguments))) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_the_local_half_names_patches_and_the_global_half_adds_nothing(explain):
    shares = [float(line.split()[-2]) for line in explain("halves", "--scenes", 3)]
    pure, by_global, by_local, only_global = shares
    assert 50 < pure < 95 and by_global < 50 and by_local > 80 and only_global <= 100 - by_local + 0.1


def test_noise_spoils_scores_and_few_names_raise_them(explain, tmp_path):
    def score(*arguments: object) -> float:
        line = explain(*arguments, "--scenes", 3, "--runs", tmp_path / "runs")[1]
        assert line.startswith("full-model")
        return float(line.split()[-1])

    clean = score("noise", "--strength", 0)
    assert score("noise", "--strength", 8) < 0.8 * clean
    assert score("few", "--names", 8) > clean


def test_a_single_name_is_found_where_it_is_and_hardly_elsewhere(explain, tmp_path):
    options = ("one", "--scenes", 2, "--runs", tmp_path / "runs", "--variants", "full-model")
    _, found, elsewhere = explain(*options)
    assert float(found.split()[-1]) > 60 and float(elsewhere.split()[-1]) < 5
    with pytest.raises(AssertionError):  # the command ends with an error
        explain(*options[:-1], "another")


def test_large_scenes_are_segmented_in_windows_or_in_one_piece(explain, tmp_path):
    def scores(mode: str) -> list[float]:
        return [float(line.split()[-1]) for line in explain(mode, "--scenes", 1, "--runs", tmp_path / "runs")[1:]]

    in_windows, in_one_piece = scores("slide"), scores("whole")
    assert min(in_windows) > 50 and in_windows[0] > in_one_piece[0]  # the encoders know one size of image


def test_the_parts_of_local_global_inference_are_told_apart(ablation, explain, tmp_path):
    lines = [line.split(": ")[1] for line in explain("merging", "--scenes", 1, "--runs", tmp_path / "runs")[1:]]
    assert len(lines) == 12
    scores, of_embedded = ([float(line.split()[-1]) for line in part] for part in (lines[:6], lines[6:]))
    assert scores == of_embedded  # the only run is the embedded checkpoint
    assert min(scores[3:]) > 60 and scores[3] > scores[0]  # the encoders know the windows, not the whole image

    data = SegmentationDataset(drawn_world(1, "unseen", ABLATION, 192), drawn_world_vocabulary())
    settings = InferenceSettings(inference="local-global", size={"shortest_edge": 192})
    sets = {"large": (data, settings)}
    for head, mine in (("full", scores[0]), ("dinotxt", scores[2])):
        expected = ablation.score(load_model(TINY).eval(), load_processor(TINY), sets, head=head)["large"]
        assert mine == pytest.approx(100 * expected, abs=0.051)


def test_the_zero_shot_heads_of_runs_are_scored_on_either_split(explain, tmp_path):
    options = ("noise", "--strength", 0, "--head", "dinotxt", "--scenes", 1, "--runs", tmp_path / "runs")
    seen, unseen = explain(*options, "--split", "seen"), explain(*options)
    assert seen[1:] != unseen[1:]
    for lines in (seen, unseen):
        assert lines[1].split()[-1] == lines[2].split()[-1]  # the only run is the embedded checkpoint
    with pytest.raises(AssertionError):  # the command ends with an error
        explain("one", *options[3:])
