# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""dino.txt's published layout, converted, computes what the reference computes: every recorded output within 1e-5.

`data/dinotxt_tiny.safetensors` holds random weights under the published names (`backbone/`, `dinotxt/`), inputs (`in/`)
and what the reference made of them in fp32 (`out/`).
"""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dinov3seg_hf.conversion.converter import convert
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from dinov3seg_hf.model.sliding_window import segment_windows

from places import FIXTURES

RECORDED = FIXTURES / "dinotxt_tiny.safetensors"
TOLERANCE = 1e-5


def group(name):
    with safe_open(RECORDED, "pt") as file:
        return {key[len(name) + 1 :]: file.get_tensor(key) for key in file.keys() if key.startswith(f"{name}/")}


@pytest.fixture(scope="module")
def recorded():
    with safe_open(RECORDED, "pt") as file:
        metadata = file.metadata()
    return {"in": group("in"), "out": group("out"), "window": int(metadata["side"]), "stride": int(metadata["stride"])}


@pytest.fixture(scope="module", params=["pth", "safetensors"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for name in ("backbone", "dinotxt"):
        save = torch.save if request.param == "pth" else save_file
        save({key: tensor.clone() for key, tensor in group(name).items()}, folder / f"{name}.{request.param}")
    files = (folder / f"{name}.{request.param}" for name in ("backbone", "dinotxt"))
    convert(*files, folder / "converted", text_num_attention_heads=4, progress=False, license="none")
    return Dinov3SegForSemanticSegmentation.from_pretrained(folder / "converted").eval()


def vision(model, given, **options):
    return model.vision_model(given["pixel_values"], **options)


def tokens(patch_tokens):
    return patch_tokens.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h w, D)


def image_features(model, given):
    outputs = vision(model, given)
    return torch.cat([outputs.cls_token, outputs.patch_tokens.mean(dim=(2, 3))], dim=-1)


def whole(name, patch_source="head"):
    def logits(model, given):
        image = given[name].reshape(-1, *given[name].shape[-3:])[:1]
        return model(image, input_ids=given["input_ids"][:, None], head="dinotxt", patch_source=patch_source).logits[0]

    return logits


def slide(name, patch_source="head"):
    def probabilities(model, given, window, stride):
        image = given[name].reshape(-1, *given[name].shape[-3:])[:1]
        text_embeds = model.get_text_features(given["input_ids"])
        return segment_windows(model, image, text_embeds, window, stride, "dinotxt", patch_source)[0]

    return probabilities


OUTPUTS = {
    "cls": lambda model, given: vision(model, given).cls_token,
    "patch": lambda model, given: tokens(vision(model, given).patch_tokens),
    "backbone_patch": lambda model, given: tokens(vision(model, given, patch_source="backbone").patch_tokens),
    "image_features": image_features,
    "text_features": lambda model, given: model.text_model(given["input_ids"]).text_embeds,
    "logits_whole": whole("pixel_values"),
    "logits_whole_odd": whole("pixel_values_odd"),
    "logits_whole_wide": whole("pixel_values_wide"),
    "logits_whole_wide_backbone": whole("pixel_values_wide", "backbone"),
    "probs_slide_odd": slide("pixel_values_odd"),
    "probs_slide_wide": slide("pixel_values_wide"),
    "probs_slide_wide_backbone": slide("pixel_values_wide", "backbone"),
}


def test_every_recorded_output_is_compared():
    assert set(OUTPUTS) == set(group("out"))


@pytest.mark.parametrize("name", OUTPUTS)
def test_agrees_with_the_reference(name, model, recorded):
    options = {key: recorded[key] for key in ("window", "stride")} if name.startswith("probs_slide") else {}
    with torch.no_grad():
        computed = OUTPUTS[name](model, recorded["in"], **options)
    expected = recorded["out"][name]
    assert computed.shape == expected.shape
    assert (computed - expected).abs().max() < TOLERANCE


def test_text_features_are_the_two_halves_normalized(model, recorded):
    halves = model.get_text_features(recorded["in"]["input_ids"])
    expected = torch.nn.functional.normalize(recorded["out"]["text_features"].unflatten(-1, (2, -1)), dim=-1)
    torch.testing.assert_close(halves, expected, rtol=0, atol=TOLERANCE)


def test_the_logit_scale_is_the_logarithm_that_was_published(model):
    torch.testing.assert_close(model.logit_scale.detach(), group("dinotxt")["logit_scale"])


def test_the_bias_of_the_keys_has_to_be_left_out(model, recorded):
    """The recorded weights hold one, masked: with it the outputs would differ, so the comparison above can fail."""
    biases = {key: tensor for key, tensor in group("backbone").items() if key.endswith("qkv.bias")}
    layers = model.vision_model.backbone.model.layer
    try:
        for index, layer in enumerate(layers):
            bias = biases[f"blocks.{index}.attn.qkv.bias"].chunk(3)[1]
            layer.attention.k_proj.bias = torch.nn.Parameter(bias.clone())
        with torch.no_grad():
            difference = (vision(model, recorded["in"]).cls_token - recorded["out"]["cls"]).abs().max()
    finally:
        for layer in layers:
            layer.attention.k_proj.bias = None
    assert difference > 100 * TOLERANCE
