# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The scripts behind the embedded checkpoint run as their headers say, cut short."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel

import dinov3seg_hf
from dinov3seg_hf.about import EMBEDDED
from dinov3seg_hf.cli.console import execute
from dinov3seg_hf.drawn_world.names import COLORS, KINDS, NAMES, PATTERNS, SEEN, factors_of, phrases_of
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.model.inference_settings import InferenceSettings

from forked import Script
from places import SCRIPTS, load_script


def run(script: str, *arguments: object) -> str:
    process = Script([SCRIPTS / script, *arguments]).wait()
    assert process.returncode == 0, process.stderr
    return process.stdout


def run_anew(script: str, *arguments: object) -> str:
    """As people do."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both stages, two steps each: (folder of the alignment, folder of the refinement)."""
    folder = tmp_path_factory.mktemp("runs")
    short = ("--steps", 2, "--upsample-steps", 2, "--validate-every", 2, "--validation-scenes", 2)
    run_anew("drawn_world/train_tiny.py", "align", "--output", folder / "align", "--batch-size", 2, *short)
    run(
        "drawn_world/train_tiny.py",
        "refine",
        "--init",
        folder / "align",
        "--output",
        folder / "refine",
        "--maps-per-step",
        24,
        *short,
    )
    return folder / "align", folder / "refine"


@pytest.mark.multiprocess
def test_the_second_stage_leaves_dinotxt_as_the_first_made_it(trained):
    aligned, refined = (AutoModel.from_pretrained(folder).state_dict() for folder in trained)
    frozen = {name for name in aligned if name.startswith(("vision_model.", "text_model.", "logit_scale"))}
    assert all(torch.equal(aligned[name], refined[name]) for name in frozen)
    # the first step of a zero-initialized classifier reaches the classifier alone, the second everything
    changed = {name.split(".")[0] for name in aligned if not torch.equal(aligned[name], refined[name])}
    assert changed == {"early_refinement", "semantic_prior", "correlation_embedding", "late_refinement", "decoder"}


@pytest.mark.multiprocess
def test_a_run_keeps_its_curve(trained):
    for folder, head in zip(trained, ("dinotxt", "full")):
        line = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
        assert {"stage", "step", "minutes", f"unseen/{head}", f"seen/{head}", "loss"} <= set(line)
        assert (line["stage"], line["step"]) == (folder.name, 2)


@pytest.mark.parametrize("size, expected", [((96, 96), 16), ((80, 112), 16), ((128, 128), 9), ((192, 192), 4)])
def test_a_step_of_larger_scenes_has_the_first_of_them(size, expected):
    module = load_script(SCRIPTS / "drawn_world" / "train_tiny.py")
    assert size in module.SIZES
    images, labels = module.Scenes(0, 16, (size,), equal_pixels=True)[3]
    assert len(images) == len(labels) == expected
    every_image, every_label = module.Scenes(0, 16, (size,))[3]
    assert len(every_image) == 16
    assert torch.equal(images, every_image[:expected]) and torch.equal(labels, every_label[:expected])


@pytest.mark.multiprocess
def test_an_interrupted_stage_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    module = load_script(SCRIPTS / "drawn_world" / "train_tiny.py")
    monkeypatch.setattr(module, "validate", lambda *_: {})
    monkeypatch.setattr(module.Run, "SAVE_EVERY", 2)
    loss, calls = module.alignment_loss, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(*arguments)

    def align(folder, *more):
        command = ["train_tiny.py", "align", "--output", str(tmp_path / folder), "--steps", "4", "--batch-size", "2"]
        monkeypatch.setattr(sys, "argv", [*command, *more])
        module.main()
        return torch.load(tmp_path / folder / "align.pt", weights_only=True)["model"]

    whole = align("whole")
    monkeypatch.setattr(module, "alignment_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align("parts")
    parts = align("parts")
    assert len(calls) == 6  # three steps and the interruption, then the two steps after the last saved state
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(ValueError, match=r"holds a run with .*'seed': '0'.*use its options or another --output"):
        align("parts", "--seed", "1")


@pytest.mark.multiprocess
def test_evaluation_scores_heads_and_oracles(trained, tmp_path):
    few = ("--scenes", 2, "--phrase-scenes", 1)
    printed = run("drawn_world/evaluate_tiny.py", "--model", trained[1], *few, "--output", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    for split in ("seen", "unseen"):
        assert list(scores[split]) == [
            "full model",
            "full model, refined pixels",
            "zero-shot head",
            "zero-shot head, refined features",
            "zero-shot head, refined pixels",
            "zero-shot head, refined features and pixels",
            "full model, shuffled names",
            "oracle blind to color",
            "oracle blind to pattern",
            "oracle blind to shape",
        ]
        # it knows backgrounds for what they are
        assert scores[split]["oracle blind to shape"]["miou_backgrounds"] == 100
    assert all(name in printed for name in scores["seen"])


@pytest.mark.multiprocess
def test_drawing_a_scene_names_what_is_in_it(tmp_path):
    printed = run("draw_scenes.py", "--seed", 7, "--split", "unseen", "--output", tmp_path / "scene.png")
    scene = draw_scene(7, "unseen")
    assert np.array_equal(np.array(Image.open(tmp_path / "scene.png")), scene.image)
    assert [line.split("   (")[0] for line in printed.splitlines()] == list(scene.names)


@pytest.fixture(scope="module")
def phrases_module():
    return load_script(SCRIPTS / "drawn_world" / "phrases.py")


def test_a_phrase_competes_with_just_those_that_make_a_seen_name_in_its_place(phrases_module):
    phrases = phrases_module.Phrases()
    for label, name in enumerate(NAMES):
        color, pattern, kind = factors_of(name)
        chosen = {phrase for phrase, is_choice in zip(phrases.phrases, phrases.choices[label]) if is_choice}
        assert {word for word in chosen if word in KINDS} == {
            other for other in KINDS if f"{color} {pattern} {other}" in SEEN
        }
        assert {word for word in chosen if word in COLORS} == {
            other for other in COLORS if f"{other} {pattern} {kind}" in SEEN
        }
        assert set(SEEN) <= chosen
        if name in SEEN:
            assert set(phrases_of(name)) <= chosen


def test_words_of_different_factors_are_independent(phrases_module):
    phrases = phrases_module.Phrases()
    words = [phrase for group in phrases.groups[4:] for phrase in phrases.phrases[group]]
    assert words == phrases.phrases[phrases.groups[4].start :]
    for one, row in zip(words, phrases.independent):
        for other, independent in zip(words, row):
            assert independent == (not any({one, other} <= set(factor) for factor in (COLORS, PATTERNS, KINDS)))


@pytest.mark.parametrize("num_classes", [1, 3, 24, 140])
def test_a_pool_is_a_group_or_has_as_many_phrases_of_every_group(phrases_module, num_classes):
    phrases = phrases_module.Phrases()
    sizes = [group.stop - group.start for group in phrases.groups]
    kinds = set()
    for seed in range(40):
        pool = phrases_module.sample_pool(phrases, num_classes, np.random.default_rng(seed))
        counts = [int(((pool >= group.start) & (pool < group.stop)).sum()) for group in phrases.groups]
        assert len(set(pool.tolist())) == len(pool) == sum(counts)
        whole = [count == size for count, size in zip(counts, sizes)]
        if sum(count > 0 for count in counts) == 1:
            assert any(count and all_of_it for count, all_of_it in zip(counts, whole))
            kinds.add("names" if counts[0] else "group")
        else:
            assert all(count == max(counts) or all_of_it for count, all_of_it in zip(counts, whole))
            assert len(pool) >= min(num_classes, sum(min(size, max(counts)) for size in sizes))
            kinds.add("mixed")
    assert kinds == ({"names", "group"} if num_classes == 1 else {"names", "group", "mixed"})


def test_kinds_are_often_asked_alone(phrases_module):
    phrases = phrases_module.Phrases()
    pools = [phrases_module.sample_pool(phrases, 1, np.random.default_rng(seed)) for seed in range(200)]
    asked = [phrases.phrases[pool[0]] in KINDS for pool in pools]
    assert 60 < sum(asked) < 100


def test_none_is_scored_as_what_no_label_names():
    module = load_script(SCRIPTS / "drawn_world" / "evaluate_background.py")
    scene = draw_scene(3, "seen")
    labels = sorted({NAMES[label] for label in np.unique(scene.labels)} - {scene.objects[0].name})
    truth = module.truth_of(scene, labels)
    missing = scene.labels == scene.objects[0].label
    assert ((truth == module.NO_CLASS) == missing).all()
    perfect, blind = module.Score(), module.Score()
    perfect.update(labels, np.where(missing, -1, truth), truth)
    blind.update(labels, np.where(missing, 0, truth), truth)
    assert perfect.summary() == {"precision": 100, "recall": 100, "f": 100, "wrongly none": 0, "miou": 100}
    assert blind.summary()["recall"] == 0 and blind.summary()["miou"] < 100


def test_lists_leave_out_what_they_say():
    module = load_script(SCRIPTS / "drawn_world" / "evaluate_background.py")
    scene = draw_scene(3, "seen")
    present = {NAMES[label] for label in np.unique(scene.labels)}
    lists = module.lists_of(scene, np.random.default_rng(0))
    objects = {item.name for item in scene.objects}
    for name in ("short", "all but one"):
        (gone,) = present - set(lists[name])
        assert gone in objects and len(set(lists[name])) == len(lists[name])
    assert present <= set(lists["complete"]) and not present & set(lists["nothing"])


@pytest.mark.multiprocess
def test_the_background_is_measured_as_its_header_says(tmp_path):
    output = run("drawn_world/evaluate_background.py", "--scenes", 1, "--output", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert "full, nothing" in scores and scores["dinotxt, a third"].keys() == {
        "never",
        "auto",
        "calibrated without masks",
        "calibrated with masks",
    }
    assert "wrongly none" in output


def test_a_constant_finds_more_of_a_word_and_labels_more_of_what_no_name_is_for(capsys):
    module = load_script(SCRIPTS / "drawn_world" / "explain_words.py")
    assert execute(module, "explain_words", ["--scenes", "2", "--constants", "0", "4"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    columns = header.split(" | ")
    for before, after in (rows[:2], rows[2:]):  # seen and unseen scenes
        cells = [
            [float(cell.strip(" |%")) for cell in row.split(" | ")[2:] if "nan" not in cell] for row in (before, after)
        ]
        lower, higher = np.array(cells)
        assert (higher[:-1] >= lower[:-1]).all() and higher[-2] > lower[-2] and higher[-1] <= lower[-1]
    assert columns[-2:] == ["labeled", "rejected |"]


def test_words_of_another_checkpoint_are_explained(tmp_path, capsys):
    module, tiny = load_script(SCRIPTS / "drawn_world" / "explain_words.py"), Path(dinov3seg_hf.TINY)
    model = AutoModel.from_pretrained(tiny)
    with torch.no_grad():
        model.decoder.correlation_offset.add_(100.0)  # no class anywhere
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    options = ["--scenes", "1", "--constants", "0", "--model", str(tmp_path)]
    assert execute(module, "explain_words", options) == 0
    assert all(row.endswith("| 0.0 % | 100.0 % |") for row in capsys.readouterr().out.splitlines()[2:])


@pytest.mark.multiprocess
def test_rejected_classes_are_compared_with_all_classes_scene_by_scene(tmp_path):
    options = (
        "--scenes",
        2,
        "--words",
        "none",
        "--rules",
        1,
        "auto",
        "--groups",
        2,
        "--output",
        tmp_path / "scores.json",
    )
    printed = run("drawn_world/evaluate_active_classes.py", "--choice", *options)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["scenes"], scores["names"]) == (2, len(NAMES)) and printed.startswith("192 names, 2 scenes")
    assert list(scores["rules"]) == ["None, 0 groups", "1, 2 groups", "auto, 2 groups"]
    every, few, some = scores["rules"].values()
    assert every["gain"] == every["changed"] == 0 and every["ratio"] == 1
    assert few["ratio"] > 1 and few["changed"] > some["changed"]


@pytest.fixture(scope="module")
def stitching():
    return load_script(SCRIPTS / "drawn_world" / "stitching.py")


@pytest.fixture(scope="module")
def embedded_pipe():
    return load_pipeline(EMBEDDED, "cpu")


def views_and_features(stitching, pipe, size: tuple[int, int], window: int):
    options = {"inference": "local-global", "head": "dinotxt", "refine_features": False, "window_size": window}
    options |= {"window_stride": window // 2, "size": {"height": size[0], "width": size[1]}}
    image = Image.fromarray(draw_scene(1, "all", size).image)
    prepared = pipe.prepare(image, InferenceSettings(**options))
    features = pipe.encode_image(image, **options).features.patch_features
    return stitching.Views.of(pipe.model.vision_model, prepared.tensors), features


@torch.inference_mode()
def test_the_trial_of_stitching_compares_with_the_local_global_features_of_the_model(stitching, embedded_pipe):
    views, features = views_and_features(stitching, embedded_pipe, (72, 100), 48)
    encoder = stitching.Encoder(embedded_pipe.model)
    torch.testing.assert_close(encoder.local_global(views), features)
    for name, encode in encoder.variants().items():
        assert encode(views).shape == features.shape, name
        assert name == "local-global" or not torch.allclose(encode(views), features, atol=1e-3), name
    # nothing of the model is left changed
    torch.testing.assert_close(encoder.local_global(views), features)


@torch.inference_mode()
def test_one_window_is_stitched_to_itself_and_no_share_of_likeness_changes_nothing(stitching, embedded_pipe):
    views, features = views_and_features(stitching, embedded_pipe, (64, 72), 96)
    encoder = stitching.Encoder(embedded_pipe.model, share=0.0)
    for encode in encoder.variants().values():
        torch.testing.assert_close(encode(views), features)


@torch.inference_mode()
def test_windows_are_stitched_in_any_order(stitching, embedded_pipe):
    views, _ = views_and_features(stitching, embedded_pipe, (72, 100), 48)
    order = torch.randperm(len(views.windows), generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(views, windows=views.windows[order], boxes=views.boxes[order])
    encoder = stitching.Encoder(embedded_pipe.model)
    torch.testing.assert_close(encoder.stitched(shuffled), encoder.stitched(views))
    # a window sees the others
    other = dataclasses.replace(views, windows=torch.cat([views.windows[:1], views.windows[1:].flip(2)]))
    assert not torch.allclose(encoder.stitched(other)[..., :3, :3], encoder.stitched(views)[..., :3, :3], atol=1e-3)


def test_each_patch_attends_by_likeness_to_those_that_are_more_alike_than_most(stitching):
    patches = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    weights = stitching.similarity_weights(patches)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 9))
    assert (weights.diagonal(dim1=1, dim2=2) == weights.amax(dim=-1)).all() and (weights == 0).any()
    # equal patches: each attends at least to itself
    assert torch.isfinite(stitching.similarity_weights(torch.ones(1, 4, 8))).all()


@pytest.mark.multiprocess
def test_stitching_prints_a_row_for_each_size_and_split(tmp_path):
    options = ("--scenes", 2, "--sizes", 72, "--window", 48, "--output", tmp_path / "scores.json")
    rows = run("drawn_world/stitching.py", *options).splitlines()
    assert len(rows) == 4 and rows[2].startswith("| 9 x 9 | 6 x 6 | unseen | 2 | ")
    assert len({row.count("|") for row in rows}) == 1
    scores = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert [row["split"] for row in scores] == ["unseen", "seen"]
    assert scores[0]["variants"]["local-global"]["gain_interval"] == [0, 0]
