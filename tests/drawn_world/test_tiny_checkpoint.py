# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The checkpoint inside the package does on fresh scenes what its model card says, through the pipeline that users
call.

The bounds are those the project set itself, not the measured scores: 20 scenes a split are few.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

import dinov3seg_hf
from dinov3seg_hf.drawn_world.names import NAMES, SHAPES, phrase_groups, true_phrase
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.metrics.scoring import ConfusionMatrix
from dinov3seg_hf.model.fingerprints import weights_fingerprint

from places import REPO

FIRST_SEED = 2_000_000  # no script draws these
NAMES = list(NAMES)


@pytest.fixture(scope="module")
def pipe():
    return pipeline("open-vocabulary-segmentation", model=dinov3seg_hf.TINY, device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return {split: [draw_scene(FIRST_SEED + i, split) for i in range(20)] for split in ("seen", "unseen")}


def mean_iou(pipe, scenes, labels, **options) -> float:
    matrix = ConfusionMatrix(len(NAMES))
    for scene in scenes:
        result = pipe(Image.fromarray(scene.image), candidate_labels=labels, return_label_map=True, **options)
        matrix.update(result["label_map"], scene.labels)
    return 100 * matrix.mean_iou()


@pytest.mark.parametrize("split, bound", [("unseen", 45), ("seen", 55)])
def test_it_segments_fresh_scenes_with_all_names_as_the_vocabulary(pipe, scenes, split, bound):
    full = mean_iou(pipe, scenes[split], NAMES)
    assert full > bound
    assert full > mean_iou(pipe, scenes[split], NAMES, head="dinotxt")


@pytest.mark.parametrize("split", ["unseen", "seen"])
def test_early_refinement_helps_the_zero_shot_head_without_training(pipe, scenes, split):
    plain, refined = (
        mean_iou(pipe, scenes[split], NAMES, head="dinotxt", refine_features=refined) for refined in (False, True)
    )
    assert refined > plain + 1


def test_it_reads_the_names(pipe, scenes):
    shuffled = list(np.random.default_rng(0).permutation(NAMES))
    assert mean_iou(pipe, scenes["unseen"][:10], shuffled) < 5


@pytest.mark.parametrize("group", phrase_groups())
def test_phrases_of_fewer_words_mean_what_they_say(pipe, scenes, group):
    """Of all phrases of a kind, each pixel gets the one that is true of it: the colors, the colors with patterns,
    ..."""
    phrases = phrase_groups()[group]
    truth, right, total = true_phrase(phrases), 0, 0
    for scene in scenes["unseen"][:10]:
        result = pipe(Image.fromarray(scene.image), candidate_labels=list(phrases), return_label_map=True)
        right += (result["label_map"] == truth[scene.labels]).sum()
        total += scene.labels.size
    assert right / total > 0.7


@pytest.fixture(scope="module", params=phrase_groups())
def scores_alone(request, pipe, scenes):
    """(group, mean score of a phrase as the only label where it is true, and elsewhere)."""
    phrases = phrase_groups()[request.param]
    truth = true_phrase(phrases)
    inside, outside = [], []
    for scene in scenes["unseen"][:10]:
        image = pipe.encode_image(Image.fromarray(scene.image))
        for index in np.unique(truth[scene.labels]):
            scores = pipe(image, candidate_labels=[phrases[index]], return_scores=True)["scores"][0]
            scores = np.asarray(Image.fromarray(scores.astype(np.float32)).resize((96, 96)))
            true = truth[scene.labels] == index
            inside.append(scores[true].mean())
            outside.append(scores[~true].mean() if (~true).any() else np.nan)
    return request.param, np.mean(inside), np.nanmean(outside)


def test_a_phrase_alone_scores_high_where_it_is_true(scores_alone):
    _, inside, _ = scores_alone
    assert inside > 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_alone_is_found(pipe, scenes, shape):
    inside, outside = [], []
    for scene in scenes["unseen"]:
        true = np.isin(scene.labels, [label for label, name in enumerate(NAMES) if name.endswith(shape)])
        if true.any():
            (scores,) = pipe(Image.fromarray(scene.image), candidate_labels=[shape], return_scores=True)["scores"]
            scores = np.asarray(Image.fromarray(scores.astype(np.float32)).resize((96, 96)))
            inside.append(scores[true].mean())
            outside.append(scores[~true].mean())
    assert np.mean(inside) > 0.35 and np.mean(outside) < 0.05


def test_a_phrase_alone_scores_low_elsewhere(scores_alone):
    group, inside, outside = scores_alone
    assert outside < min(0.2, inside / 2)
    assert group != "kind" or outside < 0.05


# rows of the card, and of the README, by the names in results.json
ROWS_OF_THE_CARD = {
    "**full model**": "full model",
    'full model, `refine="pixels"`': "full model, refined pixels",
    "zero-shot head, `refine_features=False`": "zero-shot head",
    "zero-shot head": "zero-shot head, refined features",
    'zero-shot head, `refine_features=False, refine="pixels"`': "zero-shot head, refined pixels",
    'zero-shot head, `refine="pixels"`': "zero-shot head, refined features and pixels",
    "full model, shuffled names": "full model, shuffled names",
    "oracle blind to color": "oracle blind to color",
}
ROWS_OF_THE_README = {"full model": "full model", "zero-shot head of dino.txt, alone": "zero-shot head"}


def numbers_of(page: str, row: str) -> list[float]:
    """Returns the numbers of the first table row that begins with this cell."""
    (cells, *_) = re.findall(rf"^\| {re.escape(row)} \|(.*)\|$", page, re.MULTILINE)
    return [float(cell.strip("* ")) for cell in cells.split("|") if cell.strip()]


def test_card_and_readme_have_the_scores_that_were_measured(pipe):
    results = json.loads((Path(dinov3seg_hf.TINY) / "results.json").read_text())
    assert results["weights"] == weights_fingerprint(pipe.model)

    def measured(name: str, keys: tuple[str, ...]) -> list[float]:
        scores = [results[split][name] for split in ("unseen", "seen")]
        return [of_split[key] for key in keys for of_split in scores if key in of_split]

    card = (Path(dinov3seg_hf.TINY) / "README.md").read_text()
    for row, name in ROWS_OF_THE_CARD.items():
        assert numbers_of(card, row) == pytest.approx(measured(name, ("miou", "miou_objects", "boundary_f")), abs=0.051)
    readme = (REPO / "README.md").read_text()
    for row, name in ROWS_OF_THE_README.items():
        assert numbers_of(readme, row) == pytest.approx(measured(name, ("miou",)), abs=0.051)


def test_the_card_has_the_measured_scores_of_phrases():
    phrases = json.loads((Path(dinov3seg_hf.TINY) / "results.json").read_text())["phrases"]
    card = (Path(dinov3seg_hf.TINY) / "README.md").read_text()
    for name, group in phrase_groups().items():
        (cells,) = re.findall(rf"^\| {name} \({len(group)}\) \|(.*)\|$", card, re.MULTILINE)
        of_card = [float(number) for number in re.findall(r"[\d.]+", cells)]
        shares = [
            phrases[split][head][name] for split in ("unseen", "seen") for head in ("full model", "zero-shot head")
        ]
        assert of_card[:4] == pytest.approx(shares, abs=0.051)
        inside, outside, overlap = phrases["unseen"]["alone"][name]
        assert of_card[4:6] == pytest.approx([inside, outside], abs=0.0051)
        assert of_card[6] == pytest.approx(overlap, abs=0.051)
