# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Rejected classes never win; active ones see a copy of their representative in place of each of them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dinov3seg_hf import InferenceSettings, OpenVocabularySegmentationPipeline
from dinov3seg_hf.model import active_classes, modeling_dinov3seg
from dinov3seg_hf.model.active_classes import AUTO, choose_representatives, join_rejected
from dinov3seg_hf.model.background import measure_confidence
from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.label_maps import label_and_score
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation

LABELS = [f"{color} {shape}" for color in ("red", "blue", "green", "black") for shape in ("circle", "square", "star")]


def random_text(num_classes, seed=0):
    return F.normalize(torch.randn(num_classes, 2, 32, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture(autouse=True)
def few_groups(monkeypatch):
    """Rejects classes of short lists, too."""
    monkeypatch.setattr(active_classes, "MAX_GROUPS", 3)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 48, 72, generator=torch.Generator().manual_seed(0))


def coarse_logits_of(model, image, text_embeds):
    """The logits without late refinement and decoder, averaged over each patch: the rule, written out."""
    features = model.get_image_features(image, head="full")
    cosines = F.normalize(features.refined_features, dim=1).flatten(2)  # (1, D, h' w')
    cosines = torch.einsum("dp,ckd->ckp", cosines[0], text_embeds)
    thresholds = text_embeds.flatten(1) @ model.correlation_embedding.text_threshold.weight.T
    logits = torch.einsum("ckp,k->cp", cosines - thresholds[..., None], model.decoder.correlation_weight)
    logits = logits.unflatten(1, features.refined_features.shape[2:])
    scale = model.config.early_refinement_scale
    return logits.unflatten(2, (-1, scale)).unflatten(1, (-1, scale)).mean(dim=(2, 4))


# --- what is active ---------------------------------------------------------------------------------------------------


@given(num_classes=st.integers(1, 30), best=st.integers(1, 14), side=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_best_of_a_patch_are_active_and_the_others_are_represented_by_groups(num_classes, best, side, seed):
    logits = torch.randn(num_classes, side, side + 1, generator=torch.Generator().manual_seed(seed))
    representatives = choose_representatives(logits, best)
    rank = logits.argsort(dim=0, descending=True).argsort(dim=0)
    is_best = (rank < best).flatten(1).any(dim=1)
    assert torch.equal(representatives[is_best], torch.arange(num_classes)[is_best])
    means = logits.mean(dim=(1, 2))
    rejected = sorted((~is_best).nonzero()[:, 0].tolist(), key=lambda index: -means[index])
    groups = [list(group) for _, group in itertools.groupby(rejected, key=lambda index: int(representatives[index]))]
    assert len(groups) == min(active_classes.MAX_GROUPS, len(rejected))  # each one in a row: means do not interleave
    assert all(int(representatives[group[0]]) == group[len(group) // 2] for group in groups)
    assert max(map(len, groups), default=0) - min(map(len, groups), default=0) <= 1


@pytest.mark.parametrize("best", [1, 2, "auto"])
def test_active_classes_attend_to_copies_of_the_representatives_of_the_others(tiny_model, images, best):
    text = random_text(40)
    for image in images.split(1):
        representatives = choose_representatives(coarse_logits_of(tiny_model, image, text), best)
        active = representatives.unique()
        assert len(active) < 40
        logits = tiny_model(image, text_embeds=text, active_classes=best).logits[0]
        copies = tiny_model(image, text_embeds=text[representatives]).logits[0]  # all 40, most of them equal
        torch.testing.assert_close(logits[active], copies[active], atol=1e-3, rtol=1e-4)
        others = [index for index in range(40) if index not in active.tolist()]
        assert (logits[others].amax(dim=0) < logits[active].amax(dim=0)).all()


def test_without_rejected_classes_nothing_changes(tiny_model, images):
    text = random_text(9)
    expected = tiny_model(images, text_embeds=text).logits
    for number in (9, 10**6):
        found = tiny_model(images, text_embeds=text, active_classes=number).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # images one by one round otherwise
    one = text[:1]  # one class is the best everywhere
    torch.testing.assert_close(
        tiny_model(images, text_embeds=one, active_classes=1).logits, tiny_model(images, text_embeds=one).logits
    )


def test_an_image_does_not_depend_on_those_beside_it_and_names_not_on_their_order(tiny_model, images):
    text, order = random_text(20), torch.randperm(20, generator=torch.Generator().manual_seed(1))
    together = tiny_model(images, text_embeds=text, active_classes=1).logits
    for index, image in enumerate(images.split(1)):
        alone = tiny_model(image, text_embeds=text, active_classes=1).logits[0]
        torch.testing.assert_close(together[index], alone)
        permuted = tiny_model(image, text_embeds=text[order], active_classes=1).logits[0]
        torch.testing.assert_close(permuted, alone[order])


@pytest.mark.parametrize(
    "options",
    [{"use_correlation_residual": False}, {"use_global_text": False}, {"use_early_refinement": False}],
    ids=lambda options: next(iter(options)),
)
def test_every_architecture_rejects_classes(tiny_config, images, options):
    torch.manual_seed(0)
    model = Dinov3SegForSemanticSegmentation(Dinov3SegConfig.from_dict({**tiny_config.to_dict(), **options})).eval()
    text = random_text(30)
    with torch.no_grad():
        logits = model(images[:1], text_embeds=text, active_classes=1).logits
        assert logits.shape == model(images[:1], text_embeds=text).logits.shape and logits.isfinite().all()


# --- what is rejected -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    side=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    pixels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    num_active=st.integers(1, 5),
    best=st.integers(1, 4),
    scale=st.sampled_from([0.01, 1.0, 1000.0]),
    seed=st.integers(0, 999),
)
def test_a_rejected_class_wins_no_pixel_and_is_not_among_the_best_at_any_size(
    side, pixels, num_active, best, scale, seed
):
    generator = torch.Generator().manual_seed(seed)
    active = torch.randperm(8, generator=generator)[:num_active].sort().values
    logits = scale * torch.randn(num_active, *side, generator=generator)
    coarse = 2 * scale * torch.randn(8, *side, generator=generator)
    place = torch.randint(num_active, (8,), generator=generator)
    joined = join_rejected(logits, active, place, coarse, best)
    torch.testing.assert_close(joined[active], logits, rtol=0, atol=0)
    labels, _ = label_and_score(joined, pixels, "sigmoid", 1.0)
    assert torch.isin(labels, active).all()
    resized = F.interpolate(joined[None], size=pixels, mode="bilinear", align_corners=False)[0]
    assert torch.isin(resized.argmax(dim=0), active).all()
    assert torch.isin(resized.topk(min(max(2, best), num_active), dim=0).indices, active).all()


def test_a_rejected_class_gets_what_the_head_adds_to_its_representative():
    logits = torch.tensor([5.0, -1.0])[:, None, None].expand(2, 4, 4)
    coarse = torch.tensor([2.0, 1.0, 0.5, 9.0])[:, None, None].expand(4, 4, 4)
    joined = join_rejected(logits, torch.tensor([0, 1]), torch.tensor([0, 1, 1, 1]), coarse, 1)
    assert (joined[2] == 0.5 - 2).all()
    assert (joined[3] == -1 - active_classes.GAP).all()  # not 9 - 2: rejected, so below the second of the active ones


@pytest.mark.parametrize("best", [1, 2, "auto"])
def test_rejected_classes_take_no_label_as_none_of_these(tiny_model, best, monkeypatch):
    """`background="auto"` asks whether the winner leads; logits that are estimates do not decide it."""
    chosen = []

    def noted(logits, active, *others):
        chosen.append(active)
        return join_rejected(logits, active, *others)

    monkeypatch.setattr(modeling_dinov3seg, "join_rejected", noted)
    for seed in range(4):
        image = torch.randn(1, 3, 48, 72, generator=torch.Generator().manual_seed(seed))
        logits = tiny_model(image, text_embeds=random_text(60, seed), active_classes=best).logits[0]
        active = chosen.pop()
        assert len(active) < 60
        found, expected = (measure_confidence(maps, "sigmoid", (48, 72)) for maps in (logits, logits[active]))
        torch.testing.assert_close(found.values[0], expected.values[0], rtol=0, atol=1e-6)
        assert torch.equal(found.labels, active[expected.labels])


# --- where it can be set ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["all", 0, -1, 1.5, True, [2], float("nan")])
def test_other_values_are_refused(tiny_model, images, value):
    for call in (
        lambda: InferenceSettings(active_classes=value),
        lambda: tiny_model(images, text_embeds=random_text(3), active_classes=value),
    ):
        with pytest.raises(ValueError, match=r"active_classes is .* integer of at least 1"):
            call()


def test_training_refines_all_classes(tiny_config, images):
    model = Dinov3SegForSemanticSegmentation(tiny_config).train()
    with pytest.raises(ValueError, match=r"active_classes is set in training mode.*eval\(\)"):
        model(images, text_embeds=random_text(3), active_classes="auto")


def test_the_zero_shot_head_has_nothing_to_reject(tiny_model, images):
    text = random_text(20)
    expected = tiny_model(images, text_embeds=text, head="dinotxt").logits
    found = tiny_model(images, text_embeds=text, head="dinotxt", active_classes=1).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("inference", ["whole", "local-global", "slide"])
def test_the_pipeline_rejects_classes_in_every_mode(tiny_model, tiny_processor, sample_image, inference):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    options = {"inference": inference, "return_label_map": True, "return_scores": True}
    full = pipe(sample_image, LABELS, **options)
    same = pipe(sample_image, LABELS, active_classes=len(LABELS), **options)
    assert (full["label_map"] == same["label_map"]).all()
    few = pipe(sample_image, LABELS, active_classes=1, **options)
    assert few["scores"].shape == full["scores"].shape and (few["scores"] != full["scores"]).any()
    batch = pipe([sample_image, sample_image.rotate(90)], LABELS, active_classes=1, batch_size=2, **options)
    assert (batch[0]["label_map"] == few["label_map"]).mean() > 0.99  # batches differ in the last bits
    if inference != "slide":
        encoded = pipe.encode_image(sample_image, inference=inference)
        again = pipe(encoded, LABELS, active_classes=1, return_label_map=True)
        assert (again["label_map"] == few["label_map"]).all()


def test_auto_is_a_number_of_classes_per_patch(tiny_model, images):
    text = random_text(40)
    torch.testing.assert_close(
        tiny_model(images, text_embeds=text, active_classes="auto").logits,
        tiny_model(images, text_embeds=text, active_classes=AUTO).logits,
        rtol=0,
        atol=0,
    )
