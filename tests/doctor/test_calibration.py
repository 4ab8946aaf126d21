# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Calibration: the bounds make the fewest errors, and the calibrated vocabulary is what `segment` reads."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinov3seg_hf.cli import main
from dinov3seg_hf.doctor import Finding, apply_findings
from dinov3seg_hf.doctor.calibration import IGNORED, NO_CLASS, Measurement, best_bound, calibrate, labels_of_mask
from dinov3seg_hf.drawn_world.names import COLORS, NAMES
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.model.calibration import Calibration
from dinov3seg_hf.model.text_embeddings import TextEmbeddings
from dinov3seg_hf.model.vocabulary import Vocabulary, as_vocabulary

CALIBRATION = Calibration((0.25, 0.1, 1e-17), "dinotxt", "abc")
WORDS = Vocabulary(["cat", "dog", "sky"], calibration=CALIBRATION)


def embeddings(num_labels=3):
    return TextEmbeddings(torch.rand(num_labels, 2, 4), tuple("abcdefgh"[:num_labels]), "v", "m")


def measured(labels, best, truth=None, runner_up=None):
    best = torch.tensor(best)
    return Measurement(
        torch.tensor(labels),
        best,
        torch.zeros_like(best) if runner_up is None else torch.tensor(runner_up),
        best,
        None if truth is None else torch.tensor(truth),
    )


# --- the bounds ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40))
def test_no_bound_makes_fewer_errors(points):
    confidence = torch.tensor([value / 8 for value, _ in points])
    is_right = torch.tensor([right for _, right in points])

    def errors(bound):
        return ((confidence >= bound) != is_right).sum().item()

    assert errors(best_bound(confidence, is_right)) == min(errors(bound / 16) for bound in range(-1, 22))


def test_with_masks_each_class_gets_its_bound_and_ignored_points_do_not_count():
    images = [
        measured(
            [0, 0, 1, 1, 1],
            [0.2, 0.8, 0.2, 0.1, 0.01],
            [NO_CLASS, 0, 1, NO_CLASS, IGNORED],
        )
        for _ in range(1000)
    ]
    bounds = calibrate(images, embeddings(), "full").thresholds
    assert 0.2 < bounds[0] <= 0.8 and 0.1 < bounds[1] <= 0.2
    few = calibrate(images[:1], embeddings(), "full").thresholds
    assert few[2] == bounds[2] or 0.1 < few[2] < 0.8  # a class that wins nowhere gets the bound of all
    assert abs(few[0] - few[2]) < abs(bounds[0] - bounds[2])  # one image moves a bound only a little


def test_without_masks_all_classes_get_the_bound_between_right_labels_and_runners_up():
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(20):
        missing = torch.rand(500, generator=generator) < 0.4
        low = 0.2 * torch.rand(2, 500, generator=generator)
        best = torch.where(missing, low[0], 0.5 + torch.rand(500, generator=generator))
        images.append(Measurement(torch.zeros(500, dtype=torch.long), best, low[1], best, None))
    bounds = set(calibrate(images, embeddings(), "dinotxt").thresholds)
    assert len(bounds) == 1 and 0.19 <= bounds.pop() <= 0.51


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ValueError, match="Got no images"):
        calibrate([], embeddings(), "dinotxt")
    with pytest.raises(ValueError, match="Got no masks for the full head"):
        calibrate([measured([0], [0.5])], embeddings(), "full")
    with pytest.raises(ValueError, match="Got 2 labels; expected at least 3"):
        calibrate([measured([0], [0.5])], embeddings(2), "dinotxt")


def test_values_without_a_class_are_no_class_and_the_ignore_label_stays_ignored():
    mask = np.array([[0, 1, 2], [7, 255, 3]])
    assert labels_of_mask(Vocabulary(["a", "b", "c"]), mask).tolist() == [[0, 1, 2], [NO_CLASS, IGNORED, NO_CLASS]]
    raw = Vocabulary(["a", "b"], raw_ids={7: 0, 1: 1}, ignore_label=3)
    assert labels_of_mask(raw, mask).tolist() == [[NO_CLASS, 1, NO_CLASS], [0, NO_CLASS, IGNORED]]


# --- the vocabulary --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tsv", ".json"])
def test_files_keep_the_calibration_exactly(tmp_path, suffix):
    path = tmp_path / f"words{suffix}"
    WORDS.save(path)
    assert Vocabulary.from_file(path) == WORDS
    assert Vocabulary.from_file(path, templates="{}").calibration is None


def test_embeddings_keep_the_calibration(tmp_path):
    text = TextEmbeddings(torch.rand(3, 2, 4), WORDS.names, WORDS.fingerprint, "m", CALIBRATION)
    text.save(tmp_path / "text.safetensors")
    assert TextEmbeddings.load(tmp_path / "text.safetensors").calibration == CALIBRATION


def test_other_words_or_templates_are_not_calibrated():
    assert as_vocabulary(WORDS).calibration == CALIBRATION and as_vocabulary(WORDS, "{}").calibration is None
    assert apply_findings(WORDS, []).calibration == CALIBRATION
    better = Finding("joined", (1,), "", {"dog": "big dog"})
    merged = Finding("similar", (0, 1), "", merge=(0, 1))
    assert apply_findings(WORDS, [better]).calibration is apply_findings(WORDS, [merged]).calibration is None


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"head": "full"}, r"calibration is \['head'\]; expected head, model_fingerprint, thresholds"),
        (3, "calibration is 3; expected"),
        (Calibration((0.1,), "full", "m"), "Got 1 thresholds for 3 labels"),
        ({"head": "half", "model_fingerprint": "m", "thresholds": [0.1] * 3}, "The head of the calibration is 'half'"),
        ({"head": "full", "model_fingerprint": "", "thresholds": [0.1] * 3}, "expected text"),
        ({"head": "full", "model_fingerprint": "m", "thresholds": [0.1, -1, 0.1]}, "threshold of label 1 is -1"),
        ({"head": "full", "model_fingerprint": "m", "thresholds": [float("nan")] * 3}, "threshold of label 0 is nan"),
        ({"head": "full", "model_fingerprint": "m", "thresholds": ["a"] * 3}, "threshold of label 0 is 'a'"),
    ],
)
def test_calibrations_that_do_not_fit_are_refused(calibration, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(["cat", "dog", "sky"], calibration=calibration)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names\tthreshold\ncat\t0.1\n", "the calibration is None; expected both a column"),
        ('#: calibration {"head": "full", "model_fingerprint": "m"}\nnames\ncat\n', "Got 0 thresholds for 1 labels"),
        ('#: calibration {"head": "full", "model_fingerprint": "m"}\nnames\tthreshold\ncat\tx\n', "line 3 is 'x'"),
    ],
)
def test_broken_tables_are_refused(tmp_path, text, message):
    (tmp_path / "words.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_file(tmp_path / "words.tsv")


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Six drawn scenes with masks, and a vocabulary with half of the colors."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    scenes = [draw_scene(3_600_000 + index, "seen") for index in range(6)]
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / "images" / f"{index}.png")
        Image.fromarray(scene.labels.astype(np.uint8)).save(folder / "masks" / f"{index}.png")
    named = [label for label, name in enumerate(NAMES) if name.split()[0] in COLORS[:4]]
    table = [f"{label}\t{NAMES[label]}" for label in named]
    (folder / "words.tsv").write_text("raw_id\tnames\n" + "\n".join(table) + "\n")
    return folder, np.concatenate([~np.isin(scene.labels, named) for scene in scenes])


def command(folder, *arguments):
    return main(
        ["calibrate", "--labels-file", str(folder / "words.tsv"), "--images", str(folder / "images"), *arguments]
    )


@pytest.mark.parametrize("with_masks", [False, True])
def test_objects_without_a_word_lose_their_label_and_others_keep_it(folders, tmp_path, capsys, with_masks):
    folder, missing = folders
    written = tmp_path / "calibrated.tsv"
    masks = ["--masks", str(folder / "masks")] if with_masks else []
    assert command(folder, *masks, "--head", "dinotxt", "--write", str(written)) == 0
    assert "show none of the" in capsys.readouterr().out
    vocabulary = Vocabulary.from_file(written)
    assert (len(set(vocabulary.calibration.thresholds)) > 1) == with_masks

    outputs = ["--json", str(tmp_path / "json"), "--mask", str(tmp_path / "masks")]
    (tmp_path / "json").mkdir()
    words = ["--labels-file", str(written), "--head", "dinotxt"]
    assert main(["segment", str(folder / "images"), *words, *outputs]) == 0
    masks = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "masks").iterdir())]
    none = np.concatenate(masks) == 255
    assert none[missing].mean() - none[~missing].mean() > 0.7
    assert json.loads((tmp_path / "json" / "0.json").read_text())["background"] == "auto"


def test_bounds_of_another_checkpoint_are_warned_of_in_one_line(folders, tmp_path, capsys):
    folder, _ = folders
    foreign = Calibration((0.1,) * 3, "dinotxt", "another")
    Vocabulary(["red circle", "blue square", "star"], calibration=foreign).save(tmp_path / "words.tsv")
    arguments = ["segment", str(folder / "images"), "--labels-file", str(tmp_path / "words.tsv"), "--head", "dinotxt"]
    for options, lines in ([], 1), (["--background", "never"], 0):
        assert main([*arguments, *options]) == 0
        assert capsys.readouterr().err.count("warning: The labels were calibrated with another checkpoint") == lines


def test_errors_come_before_the_model_is_loaded(folders, tmp_path, capsys, monkeypatch):
    folder, _ = folders
    monkeypatch.setattr("dinov3seg_hf.loading.load_pipeline", None)
    for arguments, message in [
        (["--write", str(tmp_path / "words.txt")], "expected"),
        (["--masks", str(tmp_path / "no"), "--write", str(tmp_path / "w.tsv")], "was not found"),
        (["--masks", str(tmp_path), "--write", str(tmp_path / "w.tsv")], "has 0 masks in"),
    ]:
        assert command(folder, *arguments) == 2
        assert message in capsys.readouterr().err


def test_masks_of_another_size_and_a_full_head_without_masks_are_refused(folders, tmp_path, capsys):
    folder, _ = folders
    (tmp_path / "masks").mkdir()
    for index in range(6):
        Image.new("L", (9, 8)).save(tmp_path / "masks" / f"{index}.png")
    written = tmp_path / "w.tsv"
    assert command(folder, "--write", str(written), "--masks", str(tmp_path / "masks")) == 2
    assert "has 9 x 8 pixels and its image 96 x 96" in capsys.readouterr().err
    assert command(folder, "--write", str(written)) == 2
    assert "Got no masks for the full head" in capsys.readouterr().err
    assert not written.exists()
