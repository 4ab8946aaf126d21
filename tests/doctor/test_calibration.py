# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Calibration: the bounds make the fewest errors, and the calibrated vocabulary is what `segment` reads."""

import json
import warnings
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinov3seg_hf.cli import main
from dinov3seg_hf.doctor import Finding, apply_findings
from dinov3seg_hf.doctor import calibration as doctor_calibration
from dinov3seg_hf.doctor import points as doctor_points
from dinov3seg_hf.doctor.calibration import (
    IGNORED,
    NO_CLASS,
    PRIOR_IMAGES,
    best_bound,
    calibrate,
    labels_of_mask,
    measure,
)
from dinov3seg_hf.doctor.points import Measurement, Points
from dinov3seg_hf.drawn_world.names import COLORS, NAMES
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.model.background import bound_between
from dinov3seg_hf.model.calibration import Calibration
from dinov3seg_hf.model.checks import CalibrationWarning
from dinov3seg_hf.model.inference_settings import InferenceSettings
from dinov3seg_hf.model.pipeline import OpenVocabularySegmentationPipeline
from dinov3seg_hf.model.text_embeddings import TextEmbeddings
from dinov3seg_hf.model.vocabulary import Vocabulary, as_vocabulary

CALIBRATION = Calibration((0.25, 0.1, 1e-17), "dinotxt", "abc", "slide", "head", True, 0.07)
OLD = Calibration((0.25, 0.1, 1e-17), "dinotxt", "abc")  # of an earlier version
WORDS = Vocabulary(["cat", "dog", "sky"], calibration=CALIBRATION)


def embeddings(num_labels=3):
    return TextEmbeddings(torch.rand(num_labels, 2, 4), tuple("abcdefgh"[:num_labels]), "v", "m")


def settings_of(head="dinotxt", **options):
    given = {"inference": "whole", "patch_source": "head", "refine_features": False, "temperature": 0.01, **options}
    return InferenceSettings(head=head, **given)


def measured(labels, best, truth=None, runner_up=None, head="full"):
    best = torch.tensor(best)
    return Measurement(
        torch.tensor(labels),
        best,
        torch.zeros_like(best) if runner_up is None else torch.tensor(runner_up),
        best,
        None if truth is None else torch.tensor(truth),
        settings_of(head),
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
    bounds = calibrate(images, embeddings()).thresholds
    assert 0.2 < bounds[0] <= 0.8 and 0.1 < bounds[1] <= 0.2
    few = calibrate(images[:1], embeddings()).thresholds
    assert few[2] == bounds[2] or 0.1 < few[2] < 0.8  # a class that wins nowhere gets the bound of all
    assert abs(few[0] - few[2]) < abs(bounds[0] - bounds[2])  # one image moves a bound only a little


def test_without_masks_all_classes_get_the_bound_between_right_labels_and_runners_up():
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(20):
        missing = torch.rand(500, generator=generator) < 0.4
        low = 0.2 * torch.rand(2, 500, generator=generator)
        best = torch.where(missing, low[0], 0.5 + torch.rand(500, generator=generator))
        images.append(Measurement(torch.zeros(500, dtype=torch.long), best, low[1], best, None, settings_of()))
    bounds = set(calibrate(images, embeddings()).thresholds)
    assert len(bounds) == 1 and 0.19 <= bounds.pop() <= 0.51


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ValueError, match="Got no images"):
        calibrate([], embeddings())
    with pytest.raises(ValueError, match="Got no masks for the full head"):
        calibrate([measured([0], [0.5])], embeddings())
    with pytest.raises(ValueError, match="Got 2 labels; expected at least 3"):
        calibrate([measured([0], [0.5], head="dinotxt")], embeddings(2))
    with pytest.raises(ValueError, match="The masks ignore every pixel"):
        calibrate([measured([0], [0.5], [IGNORED])], embeddings())
    for other in measured([0], [0.5]), measured([0], [0.5], [0], head="dinotxt"):
        with pytest.raises(ValueError, match="with and without masks, or of different settings"):
            calibrate([measured([0], [0.5], [0]), other], embeddings())


def test_values_without_a_class_are_no_class_and_the_ignore_label_stays_ignored():
    mask = np.array([[0, 1, 2], [7, 255, 3]])
    assert labels_of_mask(Vocabulary(["a", "b", "c"]), mask).tolist() == [[0, 1, 2], [NO_CLASS, IGNORED, NO_CLASS]]
    raw = Vocabulary(["a", "b"], raw_ids={7: 0, 1: 1}, ignore_label=3)
    assert labels_of_mask(raw, mask).tolist() == [[NO_CLASS, 1, NO_CLASS], [0, NO_CLASS, IGNORED]]


# --- many images -----------------------------------------------------------------------------------------------------


def random_image(seed, num_points=400, with_mask=True, frequencies=(1.0, 0.2, 0.01)):
    """Points of three labels, of which the last one is rare."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor(frequencies), num_points, replacement=True, generator=generator)
    is_right = torch.rand(num_points, generator=generator) < 0.7
    best, runner_up = torch.rand(2, num_points, generator=generator)
    best = 0.3 * best + torch.where(is_right, 0.2 + 0.1 * labels, 0)
    truth = torch.where(is_right, labels, NO_CLASS)
    truth[torch.rand(num_points, generator=generator) < 0.1] = IGNORED
    return Measurement(labels, best, 0.3 * runner_up, best, truth if with_mask else None, settings_of("dinotxt"))


def bounds_of_all_points(images, num_labels=3):
    """The definition, with all points of all images in memory."""
    known = [image.truth != IGNORED for image in images]
    labels, best, truth = (
        torch.cat([getattr(image, name)[where] for image, where in zip(images, known)])
        for name in ("labels", "decisive", "truth")
    )
    common, bounds = best_bound(best, labels == truth), []
    for label in range(num_labels):
        mine = labels == label
        number = sum(bool((image.labels[where] == label).any()) for image, where in zip(images, known))
        own = best_bound(best[mine], truth[mine] == label) if number else common
        bounds.append(common + number / (number + PRIOR_IMAGES) * (own - common))
    return tuple(bounds)


@pytest.mark.parametrize("num_images", [1, 7])
def test_few_images_are_measured_exactly(num_images):
    images = [random_image(seed) for seed in range(num_images)]
    assert calibrate(images, embeddings()).thresholds == bounds_of_all_points(images)
    blind = [random_image(seed, with_mask=False) for seed in range(num_images)]
    bound = bound_between(torch.cat([image.best for image in blind]), torch.cat([image.runner_up for image in blind]))
    points = Points.of(blind)
    calibration = calibrate(points, embeddings())
    assert calibration.thresholds == (bound,) * 3
    none = torch.cat([image.decisive for image in blind]) < bound
    assert points.share_of_none(calibration) == pytest.approx(none.float().mean().item())


@pytest.mark.parametrize("with_mask", [True, False])
def test_memory_does_not_grow_with_the_number_of_images(monkeypatch, with_mask):
    monkeypatch.setattr(doctor_points, "MAX_POINTS", 3000)
    points, most = Points(), 0
    for seed in range(60):
        points.add(random_image(seed, with_mask=with_mask))
        most = max(most, len(points))
    assert most <= 1.5 * 3000 and points.num_images == 60
    columns = points.columns()
    assert 2500 < len(columns["label"]) <= 3000
    assert columns["weight"].sum().item() == pytest.approx(60 * 400)
    again = Points.of(random_image(seed, with_mask=with_mask) for seed in range(60))
    assert calibrate(again, embeddings()) == calibrate(points, embeddings())


def test_a_sample_makes_as_few_errors_and_has_all_points_of_rare_labels(monkeypatch):
    images = [random_image(seed, num_points=1000) for seed in range(60)]
    expected = calibrate(images, embeddings())
    labels, best = (torch.cat([getattr(image, name) for image in images]) for name in ("labels", "decisive"))
    is_right = torch.cat([image.truth == image.labels for image in images])
    is_known = torch.cat([image.truth != IGNORED for image in images])
    monkeypatch.setattr(doctor_points, "MAX_POINTS", 6000)
    points = Points.of(images)
    weights = points.columns()["weight"][points.columns()["label"] == 2]
    assert len(weights) == (labels == 2).sum() and (weights == 1).all()
    found = calibrate(points, embeddings())
    assert found != expected

    def errors(calibration):
        return (((best >= calibration.bounds_of(labels)) != is_right) & is_known).float().mean().item()

    assert abs(errors(found) - errors(expected)) < 0.01
    share = (best < found.bounds_of(labels)).float().mean().item()
    assert points.share_of_none(found) == pytest.approx(share, abs=0.02)


def test_every_point_of_a_frequent_label_is_kept_with_the_same_probability(monkeypatch):
    """Also those of images before the memory was full, and of labels that came late."""
    monkeypatch.setattr(doctor_points, "MAX_POINTS", 2000)
    frequencies = [(1.0, 0.0, 0.0)] * 20 + [(0.5, 0.5, 0.0)] * 20
    points = Points()
    for seed, chosen in enumerate(frequencies):
        image = random_image(seed, num_points=1000, frequencies=chosen)
        points.add(replace(image, best=torch.full((1000,), float(seed))))
    columns = points.columns()
    for label, first, last, expected in (0, 0, 19, 2 / 3), (0, 20, 39, 1 / 3), (1, 20, 29, 1 / 2), (1, 30, 39, 1 / 2):
        seeds = columns["best"][columns["label"] == label]
        share = ((seeds >= first) & (seeds <= last)).float().mean().item()
        assert share == pytest.approx(expected, abs=0.06)  # of 1000: four standard deviations


# --- what was measured -----------------------------------------------------------------------------------------------


def test_whole_and_local_global_have_the_same_confidence_and_others_are_refused_in_one_sentence():
    calibration = Calibration.measured((0.1,) * 3, "m", settings_of(inference="local-global"))
    for fitting in (
        settings_of(),
        settings_of(temperature=7.0, refine="pixels", size={"shortest_edge": 99}),  # cosines have no temperature
        settings_of(inference="local-global", window_size=3),
    ):
        calibration.check(fitting)
    for options, message in [
        ({"inference": "slide"}, 'for inference="local-global"; expected inference="slide", which is in use'),
        ({"refine_features": True}, "for refine_features=False; expected refine_features=True, which is in use"),
        ({"patch_source": "backbone"}, 'for patch_source="head"; expected patch_source="backbone", which'),
        ({"head": "full"}, 'for head="dinotxt"; expected head="full", which is in use'),
    ]:
        with pytest.raises(ValueError, match=f"^The labels are calibrated {message}.*Calibrate.*, or pass background"):
            calibration.check(settings_of(**options))
    slide = Calibration.measured((0.1,) * 3, "m", settings_of(inference="slide", temperature=0.01))
    slide.check(settings_of(inference="slide", temperature=0.0101))
    with pytest.raises(ValueError, match=r"for temperature=0\.01; expected temperature=0\.5, which"):
        slide.check(settings_of(inference="slide", temperature=0.5))
    full = Calibration.measured((0.1,) * 3, "m", settings_of("full"))
    full.check(settings_of("full", inference="slide", refine_features=True, temperature=3.0))  # logits in every mode
    with pytest.raises(ValueError, match="patch_source"):
        full.check(settings_of("full", patch_source="backbone"))


def test_a_wrong_use_of_measured_bounds_is_refused_by_the_pipeline(tiny_model, tiny_processor, sample_image):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor)
    text = pipe.encode_labels(["cat", "dog", "sky"])
    modes = {
        "cosines": {"head": "dinotxt"},
        "refined": {"head": "dinotxt", "refine_features": not tiny_model.config.refine_features},
        "probabilities": {"head": "dinotxt", "inference": "slide"},
        "hot": {"head": "dinotxt", "inference": "slide", "temperature": 0.5},
    }
    for made, options in modes.items():
        measurement = measure(pipe, sample_image, text, InferenceSettings(**options))
        calibrated = replace(text, calibration=calibrate([measurement], text))
        assert calibrated.calibration.is_complete
        for used, others in modes.items():
            with warnings.catch_warnings():
                warnings.simplefilter("error", CalibrationWarning)
                if used == made:
                    assert pipe(sample_image, calibrated, return_label_map=True, **others)["label_map"].shape
                else:
                    with pytest.raises(ValueError, match="The labels are calibrated for"):
                        pipe(sample_image, calibrated, **others)
                    pipe(sample_image, calibrated, background="never", **others)
        if options.get("inference") is None:
            names = {key: value for key, value in options.items() if key != "temperature"}
            encoded = pipe.encode_image(sample_image, inference="local-global", **names)
            pipe(encoded, calibrated, **names)


def test_bounds_of_earlier_versions_are_used_with_a_warning(tiny_model, tiny_processor, sample_image):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor)
    old = Vocabulary(WORDS.names, calibration=replace(OLD, model_fingerprint=pipe.text_fingerprint()))
    for inference in "whole", "slide":
        with pytest.warns(CalibrationWarning, match="by an earlier version.*Calibrate them again, or pass background"):
            pipe(sample_image, old, head="dinotxt", inference=inference)
    with pytest.raises(ValueError, match='for head="dinotxt"; expected head="full"'):
        pipe(sample_image, old, head="full")


def test_images_of_a_batch_with_the_same_labels_have_their_own_bounds(tiny_model, tiny_processor, sample_image):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor)
    settings = pipe.resolved_settings(InferenceSettings(head="dinotxt"))
    texts = [
        Vocabulary(WORDS.names, calibration=Calibration.measured((bound,) * 3, pipe.text_fingerprint(), settings))
        for bound in (0.0, 1e9)
    ]
    rows = [{"image": sample_image, "candidate_labels": text} for text in texts]
    kept, dropped = pipe(rows, batch_size=2, return_label_map=True, head="dinotxt")
    assert (kept["label_map"] >= 0).all() and (dropped["label_map"] == -1).all()


# --- the vocabulary --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", [CALIBRATION, OLD, Calibration((0.1,) * 3, "full", "m", patch_source="head")])
@pytest.mark.parametrize("suffix", [".tsv", ".json"])
def test_files_keep_the_calibration_exactly(tmp_path, suffix, calibration):
    path = tmp_path / f"words{suffix}"
    words = replace(WORDS, calibration=calibration)
    words.save(path)
    assert Vocabulary.from_file(path) == words
    assert Vocabulary.from_file(path, templates="{}").calibration is None


@pytest.mark.parametrize("calibration", [CALIBRATION, OLD])
def test_embeddings_keep_the_calibration(tmp_path, calibration):
    text = TextEmbeddings(torch.rand(3, 2, 4), WORDS.names, WORDS.fingerprint, "m", calibration)
    text.save(tmp_path / "text.safetensors")
    assert TextEmbeddings.load(tmp_path / "text.safetensors").calibration == calibration


def test_files_of_earlier_versions_are_read_as_they_are():
    stored = {"head": "dinotxt", "model_fingerprint": "abc", "thresholds": [0.25, 0.1, 1e-17]}
    assert Calibration.of(stored) == OLD and OLD.to_dict() == stored and not OLD.is_complete
    assert CALIBRATION.is_complete


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
        ({**OLD.to_dict(), "stride": 3}, "and optionally inference, patch_source, refine_features, temperature"),
        ({**OLD.to_dict(), "inference": "hole"}, "In the calibration, inference is 'hole'; expected .* Calibrate the"),
        ({**OLD.to_dict(), "refine_features": "yes"}, "In the calibration, refine_features is 'yes'"),
        ({**OLD.to_dict(), "temperature": -1}, "In the calibration, temperature is -1"),
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


def test_the_points_of_an_image_are_not_kept(folders, tmp_path, monkeypatch):
    folder, _ = folders
    made = []

    def noted(*arguments):
        assert sum(reference() is not None for reference in made) <= 2  # the last one, and the one before
        measurement = measure(*arguments)
        made.append(weakref.ref(measurement))
        return measurement

    monkeypatch.setattr(doctor_calibration, "measure", noted)
    assert command(folder, "--head", "dinotxt", "--write", str(tmp_path / "words.tsv")) == 0
    assert len(made) == 6


def test_a_damaged_image_does_not_throw_the_others_away(folders, tmp_path, capsys):
    folder, _ = folders
    (tmp_path / "images").mkdir()
    for index in range(3):
        (tmp_path / "images" / f"{index}.png").write_bytes((folder / "images" / f"{index}.png").read_bytes())
    (tmp_path / "words.tsv").write_bytes((folder / "words.tsv").read_bytes())
    assert command(tmp_path, "--head", "dinotxt", "--write", str(tmp_path / "three.tsv")) == 0
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    capsys.readouterr()
    assert command(tmp_path, "--head", "dinotxt", "--write", str(tmp_path / "written.tsv")) == 2
    captured = capsys.readouterr()
    assert "of the pixels of 3 images" in captured.out and "3.png' does not have a known image format" in captured.err
    assert (tmp_path / "written.tsv").read_text() == (tmp_path / "three.tsv").read_text()
    (tmp_path / "images" / "0.png").write_bytes(b"no image")  # before there is any work to lose
    assert command(tmp_path, "--head", "dinotxt", "--write", str(tmp_path / "none.tsv")) == 2
    assert capsys.readouterr().out == "" and not (tmp_path / "none.tsv").exists()


def test_another_inference_mode_is_refused_once(folders, tmp_path, capsys):
    folder, _ = folders
    written = str(tmp_path / "words.tsv")
    assert command(folder, "--head", "dinotxt", "--write", written) == 0
    stored = next(line for line in Path(written).read_text().splitlines() if line.startswith("#: calibration"))
    assert '"inference": "whole"' in stored or '"inference": "local-global"' in stored
    capsys.readouterr()
    arguments = ["segment", str(folder / "images"), "--labels-file", written, "--head", "dinotxt"]
    assert main([*arguments, "--inference", "slide"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("The labels are calibrated for") == 1 and 'expected inference="slide"' in errors
    assert main([*arguments, "--inference", "slide", "--background", "never"]) == 0


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
    Vocabulary(["bottle, of glass", "cat", "dog"]).save(tmp_path / "words.json")
    files = ["--labels-file", str(tmp_path / "words.json"), "--images", str(folder / "images")]
    assert main(["calibrate", *files, "--write", str(tmp_path / "w.tsv")]) == 2
    assert "contains a comma" in capsys.readouterr().err


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


def test_a_mask_of_another_size_is_not_resized(tiny_model, tiny_processor, sample_image):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor)
    text, settings = pipe.encode_labels(["cat", "dog", "sky"]), InferenceSettings(inference="whole")
    size = sample_image.height, sample_image.width
    for shape in ((size[0], size[1] + 1), (size[0] // 2, size[1] // 2), (*size, 1)):
        with pytest.raises(ValueError, match=r"The mask is .* expected the same size"):
            measure(pipe, sample_image, text, settings, np.zeros(shape, np.int32))
    assert len(measure(pipe, sample_image, text, settings, np.zeros(size, np.int32)).truth)
    with pytest.raises(ValueError, match="expected InferenceSettings"):
        measure(pipe, sample_image, text, {"inference": "whole"})
