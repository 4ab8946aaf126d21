# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A fresh head starts at the zero-shot answer, and its branch can tell classes apart."""

import pytest
import torch
from torch.nn import functional as F

from dinov3seg_hf import TINY, Dinov3SegConfig
from dinov3seg_hf.data.drawn_world import drawn_world
from dinov3seg_hf.data.presets import drawn_world_vocabulary
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.drawn_world.seeds import VALIDATION
from dinov3seg_hf.evaluation.evaluator import evaluate
from dinov3seg_hf.loading import load_starting_point
from dinov3seg_hf.model.inference_settings import InferenceSettings
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation


@pytest.fixture(scope="module", params=["trained anyup", "fresh anyup"])
def fresh(request):
    """(model, processor): the encoders of the embedded checkpoint and a fresh head."""
    model, processor = load_starting_point(TINY, "fresh")
    if request.param == "fresh anyup":  # a fresh head keeps the AnyUp of the checkpoint, which is trained
        config = Dinov3SegConfig.from_dict({**model.config.to_dict(), "refine_features": False})
        torch.manual_seed(0)
        other = Dinov3SegForSemanticSegmentation(config)
        kept = ("vision_model.", "text_model.", "logit_scale")
        other.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith(kept)}, strict=False)
        model = other
    return model.eval().requires_grad_(False), processor


@pytest.mark.parametrize("split", ["unseen", "seen"])
@pytest.mark.parametrize("num_scenes", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_a_fresh_head_scores_like_the_zero_shot_head_of_the_same_weights(fresh, split, num_scenes):
    model, processor = fresh
    data = SegmentationDataset(drawn_world(num_scenes, split, VALIDATION, 96), drawn_world_vocabulary())
    scores = [
        evaluate(
            model, processor, data, settings=InferenceSettings("whole", head), batch_size=20, num_resamples=0
        ).scores["mean_iou"]
        for head in ("full", "dinotxt")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_a_fresh_head_agrees_with_the_zero_shot_head_of_a_vit_s():
    torch.manual_seed(0)
    config = Dinov3SegConfig(
        vision_config={
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
        },
        text_config={"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 768},
        prior_config=None,
    )
    model = Dinov3SegForSemanticSegmentation(config).eval().requires_grad_(False)
    text = F.normalize(torch.randn(50, 2, 384), dim=-1)
    images = torch.randn(2, 3, 96, 128)
    zero_shot = model(images, text_embeds=text, head="dinotxt").logits
    full = model(images, text_embeds=text, head="full").logits
    zero_shot = F.interpolate(zero_shot, size=full.shape[-2:], mode="bilinear")
    assert (full.argmax(1) == zero_shot.argmax(1)).float().mean() >= 0.99


def test_classes_differ_at_the_end_of_the_decoder(fresh):
    """If the prior, which all classes of an image share, drowned the classes, the branch could not tell them apart."""
    model, processor = fresh
    hidden = []
    hook = model.decoder.classifier.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0]))
    data = drawn_world(4, "seen", VALIDATION, 96)
    names = drawn_world_vocabulary().names[:40]
    tokens = processor(text=list(names))
    pixels = processor(images=[row["image"] for row in data])["pixel_values"]
    model(pixels, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], head="full")
    hook.remove()
    maps = hidden[0].unflatten(0, (4, -1))  # (B, C, channels, h, w)
    share = (maps - maps.mean(dim=1, keepdim=True)).var() / maps.var()
    assert share >= 0.2
