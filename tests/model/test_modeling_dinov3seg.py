# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The model as its users see it: one body of tests for every configuration."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, SamVisionConfig

from dinov3seg_hf.model import loss as loss_module
from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.loss import NO_CLASS, REJECTION_WEIGHT, segmentation_loss
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from dinov3seg_hf.model.windows import cut_windows, plan_windows
from dinov3seg_hf.training.optimization import enable_activation_checkpointing

from tiny import SAM


def build(config) -> Dinov3SegForSemanticSegmentation:
    torch.manual_seed(0)
    model = Dinov3SegForSemanticSegmentation(config).eval()
    with torch.no_grad():  # fresh weights are so small that nothing depends on anything
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if model.early_refinement is not None:
            model.early_refinement.mixing_weight.fill_(0.5)
    return model


@pytest.fixture(scope="module", params=["own layers", "sam"])
def model(request, tiny_config):
    if request.param == "own layers":
        return build(tiny_config)
    return build(Dinov3SegConfig.from_dict({**tiny_config.to_dict(), "prior_config": SAM}))


@pytest.fixture(scope="module")
def words(tiny_processor, tiny_model):
    texts = tiny_processor.tokenizer(
        ["red circle", "blue striped square", "star", "green dotted background", "white"],
        padding=True,
        return_tensors="pt",
    )
    return texts["input_ids"][:, None]  # (5, 1, L)


def images(*size, batch=2, seed=0):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_sharding_finds_the_layers_that_it_is_told_of_and_no_scalars(model):
    layers = {type(module).__name__ for module in model.modules()}
    assert {"DINOv3ViTLayer", "CLIPEncoderLayer", "Dinov3SegSpatialLayer"} <= model._no_split_modules <= layers
    assert ("SamVisionLayer" in model._no_split_modules) == (model.semantic_prior.encoder is not None)
    assert all(parameter.ndim > 0 for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (48, 88), (61, 45), (8, 8), (1, 1), (8, 120)])
def test_any_size_gives_logits_at_half_the_patch_size(model, words, size):
    logits = model(images(*size), input_ids=words).logits
    rows, columns = (-(-side // 8) for side in size)
    assert logits.shape == (2, 5, 4 * rows, 4 * columns)
    assert logits.isfinite().all() and logits.std() > 1e-3


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one(model, words):
    pixels = images(56, 72, batch=3)
    whole = model(pixels, input_ids=words).logits
    close(whole, torch.cat([model(pixels[i : i + 1], input_ids=words).logits for i in range(3)]))


@torch.no_grad()
def test_logits_follow_the_order_of_the_classes(model, words):
    order = torch.tensor([4, 2, 0, 1, 3])
    pixels = images(56, 72)
    close(model(pixels, input_ids=words).logits[:, order], model(pixels, input_ids=words[order]).logits)


@torch.no_grad()
def test_a_class_alone_agrees_with_a_set_of_one(model, words):
    pixels = images(56, 72)
    embeds = model.get_text_features(words)
    close(model(pixels, text_embeds=embeds[2:3]).logits, model(pixels, input_ids=words[2:3]).logits)
    assert model(pixels, input_ids=words[2:3]).logits.shape[1] == 1


@torch.no_grad()
@pytest.mark.parametrize("chunk_size", [1, 2, 4, None])
def test_class_chunks_change_nothing(model, words, chunk_size):
    pixels, before = images(56, 72), model.config.class_chunk_size
    expected = model(pixels, input_ids=words).logits
    model.config.class_chunk_size = chunk_size
    try:
        close(model(pixels, input_ids=words).logits, expected)
    finally:
        model.config.class_chunk_size = before


@torch.no_grad()
def test_cached_text_and_cached_image_equal_fresh_ones(model, words):
    pixels = images(56, 72)
    expected = model(pixels, input_ids=words)
    features = model.get_image_features(pixels)
    close(model(image_features=features, text_embeds=expected.text_embeds).logits, expected.logits)
    # what was seen of the image serves another vocabulary as well
    close(model(image_features=features, input_ids=words[:2]).logits, model(pixels, input_ids=words[:2]).logits)


@torch.no_grad()
def test_padding_and_prompt_batches_do_not_change_text_features(model, words):
    expected = model.get_text_features(words)
    assert expected.shape == (5, 2, 32)
    close(expected.norm(dim=-1), torch.ones(5, 2))
    close(torch.cat([model.get_text_features(words[i : i + 1]) for i in range(5)]), expected)
    padding = torch.full((5, 1, 9), model.config.text_config.eos_token_id)
    close(model.get_text_features(torch.cat([words, padding], dim=-1)), expected)
    close(model.get_text_features(words[:, 0]), expected)


@torch.no_grad()
def test_prompts_of_a_class_are_averaged_and_padding_prompts_ignored(model, words):
    single = model.get_text_features(words)
    ids = torch.cat([words[:2], words[2:4]], dim=1)  # two prompts for each of two classes
    expected = torch.nn.functional.normalize(single[:2] + single[2:4], dim=-1)
    close(model.get_text_features(ids), expected)
    mask = torch.ones_like(ids)
    mask[1, 1] = 0
    half_padded = model.get_text_features(ids, mask)
    close(half_padded[0], expected[0])
    close(half_padded[1], single[1])


@torch.no_grad()
def test_local_global_fusion_of_a_constant_map_is_that_map(model, monkeypatch):
    pixels = images(61, 93, batch=1)
    boxes = plan_windows((61, 93), 32, 16)
    windows = cut_windows(pixels, boxes)
    tower = model.vision_model.forward

    def constant(*args, **kwargs):
        outputs = tower(*args, **kwargs)
        outputs.patch_tokens = torch.arange(32.0)[None, :, None, None].expand_as(outputs.patch_tokens)
        return outputs

    monkeypatch.setattr(model.vision_model, "forward", constant)
    fused = model.get_image_features(pixels, windows, torch.tensor(boxes), head="dinotxt").patch_features
    close(fused, torch.arange(32.0)[None, :, None, None].expand_as(fused))


@torch.no_grad()
def test_one_window_over_the_whole_image_changes_nothing_and_is_not_encoded(model, words, monkeypatch):
    pixels = images(56, 72)
    views, encode = [], model.vision_model.forward
    monkeypatch.setattr(
        model.vision_model, "forward", lambda *args, **kwargs: views.append(0) or encode(*args, **kwargs)
    )
    expected = model(pixels, input_ids=words).logits
    window = {"window_pixel_values": pixels[:, None], "window_boxes": torch.tensor([[0, 0, 56, 72]])}
    assert torch.equal(model(pixels, input_ids=words, **window).logits, expected)
    assert len(views) == 2
    window["window_boxes"] = [[0, 0, 56, 72]]  # a list, as `cut_windows` and `merge_windows` accept it
    assert torch.equal(model(pixels, input_ids=words, **window).logits, expected)
    assert len(views) == 3
    # halves of the image that are enlarged to its size are encoded
    halves = torch.stack([images(56, 72), images(56, 72)], dim=1)
    window = {"window_pixel_values": halves, "window_boxes": torch.tensor([[0, 0, 28, 72], [28, 0, 28, 72]])}
    assert (model(pixels, input_ids=words, **window).logits - expected).abs().max() > 1e-3
    assert len(views) == 5
    boxes = torch.tensor(plan_windows((56, 72), 32, 16))
    local = model(pixels, input_ids=words, window_pixel_values=cut_windows(pixels, boxes), window_boxes=boxes).logits
    assert local.shape == expected.shape and (local - expected).abs().max() > 1e-3


@torch.no_grad()
def test_the_zero_shot_head_is_the_cosine_with_the_local_half(model, words):
    pixels = images(56, 72)
    for source in ("head", "backbone"):
        outputs = model(pixels, input_ids=words, head="dinotxt", patch_source=source)
        patches = model.vision_model(pixels, patch_source=source).patch_tokens
        expected = torch.cosine_similarity(patches[:, None], outputs.text_embeds[None, :, 1, :, None, None], dim=2)
        close(outputs.logits, expected)


def test_frozen_encoders_get_no_gradient_and_everything_else_does(model, words):
    model = copy.deepcopy(model).freeze_encoders().train()
    frozen = {parameter for encoder in model.encoders for parameter in encoder.parameters()} | {model.logit_scale}
    assert not any(encoder.training for encoder in model.encoders) and model.decoder.training
    model(images(56, 72), input_ids=words, labels=torch.randint(-1, 5, (2, 56, 72))).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (parameter in frozen), name


@torch.no_grad()
@pytest.mark.parametrize(
    "switches",
    [
        {"use_global_text": False},
        {"use_early_refinement": False},
        {"use_spatial_refinement": False},
        {"use_class_refinement": False},
        {"use_guidance": False},
        {"patch_source": "backbone"},
    ],
    ids=str,
)
def test_every_contribution_can_be_switched_off(tiny_config, words, switches):
    pixels = images(56, 72)
    full, ablated = build(tiny_config), build(Dinov3SegConfig.from_dict({**tiny_config.to_dict(), **switches}))
    ablated.load_state_dict(
        {
            k: v
            for k, v in full.state_dict().items()
            if k in ablated.state_dict() and v.shape == ablated.state_dict()[k].shape
        },
        strict=False,
    )
    embeds = full.get_text_features(words)
    outputs = ablated(pixels, text_embeds=embeds).logits
    assert (outputs - full(pixels, text_embeds=embeds).logits).abs().max() > 1e-4
    if "use_global_text" in switches:  # correlation and decoder see the local half alone; text guidance still has both
        assert ablated.correlation_embedding.convolution.in_channels == 1


@torch.no_grad()
def test_both_text_halves_count(model, words):
    pixels, embeds = images(56, 72), model.get_text_features(words)
    expected = model(pixels, text_embeds=embeds).logits
    for half in (0, 1):
        changed = embeds.clone()
        changed[:, half] = changed[:, half].roll(1, dims=0)
        assert (model(pixels, text_embeds=changed).logits - expected).abs().max() > 1e-3


@torch.no_grad()
def test_eager_and_sdpa_agree(model, words):
    pixels = images(56, 72)
    expected = model(pixels, input_ids=words).logits
    eager = type(model)._from_config(copy.deepcopy(model.config), attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    assert eager.config.vision_config._attn_implementation == "eager"
    close(eager(pixels, input_ids=words).logits, expected, 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_full_precision(model, words, dtype):
    pixels = images(56, 72)
    expected = model(pixels, input_ids=words).logits
    half = copy.deepcopy(model).to(dtype)
    outputs = half(pixels.to(dtype), input_ids=words)
    # cosine similarities of similar names differ by less than the precision of bfloat16
    assert outputs.logits.dtype == torch.float32 and outputs.logits.isfinite().all()
    correlation = torch.corrcoef(torch.stack([outputs.logits.float().flatten(), expected.flatten()]))[0, 1]
    assert correlation > 0.98


@torch.no_grad()
def test_logits_and_cosines_are_float32_also_under_autocast(model, words):
    pixels = images(56, 72)
    features, text = model.get_image_features(pixels), model.get_text_features(words)
    expected = model(image_features=features, text_embeds=text, head="dinotxt").logits
    with torch.autocast("cpu", torch.bfloat16):
        close(model(image_features=features, text_embeds=text, head="dinotxt").logits, expected)
        correlation = torch.randn(2, 5, 2, 7, 9)
        centered = model.correlation_embedding.center(correlation, text)
        outputs = model(image_features=features, text_embeds=text)
    close(centered, model.correlation_embedding.center(correlation, text))
    assert outputs.logits.dtype == torch.float32


@torch.no_grad()
def test_without_the_additions_the_logits_are_those_of_the_decoder(tiny_config, words):
    config = Dinov3SegConfig.paper(**{**tiny_config.to_dict(), "use_text_threshold": False})
    assert config.use_correlation_residual  # a value that is given wins
    fields = {key: value for key, value in tiny_config.to_dict().items() if not key.startswith("use_")}
    model = Dinov3SegForSemanticSegmentation(Dinov3SegConfig.paper(**fields)).eval()
    assert not [name for name in model.state_dict() if "threshold" in name or "decoder.correlation" in name]
    logits = model.to(torch.bfloat16)(images(32, 32).to(torch.bfloat16), input_ids=words).logits
    assert logits.dtype == torch.float32 and logits.std() > 0  # the classifier is not zero then


@torch.no_grad()
def test_a_model_without_weights_gives_the_shape_of_its_logits(tiny_config, words):
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(tiny_config).eval()
    assert model(images(64, 48).to("meta"), input_ids=words.to("meta")).logits.shape == (2, 5, 32, 24)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_that_are_all_zero_give_no_nan(tiny_config, words, dtype):
    model = Dinov3SegForSemanticSegmentation(tiny_config).eval().to(dtype)
    features = model.get_image_features(images(32, 32).to(dtype))
    for name in ("patch_features", "refined_features", "cls_embeds"):
        setattr(features, name, torch.zeros_like(getattr(features, name)))
    for head in ("full", "dinotxt"):
        outputs = model(image_features=features, input_ids=words, head=head)
        assert outputs.logits.isfinite().all() and outputs.image_embeds.isfinite().all()
    assert model.early_refinement(features.patch_features, images(32, 32).to(dtype)).isfinite().all()


@pytest.mark.parametrize(
    "earlier", [{"early_window_size": 7}, {"early_window_size": 7, "early_refinement_type": "window"}]
)
def test_a_configuration_with_window_attention_is_refused(earlier, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov3seg", **earlier}))
    for load in (
        lambda: Dinov3SegConfig(**earlier),
        lambda: Dinov3SegConfig.from_dict(earlier),
        lambda: Dinov3SegConfig.from_json_file(tmp_path / "config.json"),
        lambda: Dinov3SegConfig.from_pretrained(tmp_path),
        lambda: AutoConfig.from_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match=r"is of release 0\.1\.0, whose early refinement"):
            load()


def test_a_configuration_that_named_anyup_loads_without_the_name():
    config = Dinov3SegConfig.from_dict({"early_refinement_type": "anyup", "early_window_size": 7})
    assert config.to_dict() == Dinov3SegConfig().to_dict()
    with pytest.raises(ValueError, match="early_refinement_type is 'anyupp'; the only one is AnyUp"):
        Dinov3SegConfig(early_refinement_type="anyupp")


def test_gradient_checkpointing_changes_no_gradient(model, words):
    labels = torch.randint(0, 5, (2, 56, 72), generator=torch.Generator().manual_seed(0))
    gradients = []
    for checkpointing in (False, True):
        trained = copy.deepcopy(model).freeze_encoders().train()
        if checkpointing:
            enable_activation_checkpointing(trained)
            assert any(getattr(layer, "gradient_checkpointing", False) for layer in trained.late_refinement.modules())
        trained(images(56, 72), input_ids=words, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in trained.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        close(gradients[0][name], gradients[1][name])


@torch.no_grad()
def test_the_heads_compile_without_graph_breaks(model, words):
    embeds = model.get_text_features(words)
    compiled = torch.compile(model._segment, fullgraph=True, backend="eager")
    refine = torch.compile(model.early_refinement, fullgraph=True, backend="eager")
    for size in ((56, 72), (96, 64)):
        features = model.get_image_features(images(*size))
        close(compiled(features, embeds, None), model._segment(features, embeds, None))
        close(refine(features.patch_features, images(*size)), features.refined_features)


def without_dtype(fields):
    """Loading writes the dtype of the weights into the configurations."""
    return {
        k: without_dtype(v) if isinstance(v, dict) else v
        for k, v in fields.items()
        if k not in ("dtype", "_name_or_path", "architectures")
    }


@torch.no_grad()
def test_saving_and_loading_changes_nothing(model, words, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, report = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert without_dtype(loaded.config.to_dict()) == without_dtype(model.config.to_dict())
    close(loaded.eval()(images(56, 72), input_ids=words).logits, model(images(56, 72), input_ids=words).logits, 0)


def test_a_fresh_model_starts_at_the_zero_shot_answer(tiny_config, words):
    torch.manual_seed(0)
    model = Dinov3SegForSemanticSegmentation(
        Dinov3SegConfig.from_dict({**tiny_config.to_dict(), "use_early_refinement": False})
    ).eval()
    with torch.no_grad():
        full = model(images(64, 64), input_ids=words)
        cosine = model(images(64, 64), input_ids=words, head="dinotxt").logits
    expected = model.logit_scale.exp() * (
        torch.nn.functional.interpolate(cosine, scale_factor=4, mode="bilinear") - 0.25
    )
    close(full.logits, expected, 1e-4)


def test_the_default_configuration_has_the_paper_s_sizes():
    config = Dinov3SegConfig()
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(config)
    assert (
        config.vision_config.hidden_size,
        config.vision_config.num_hidden_layers,
        config.vision_config.patch_size,
    ) == (1024, 24, 16)
    assert (
        config.text_config.hidden_size,
        config.text_config.num_hidden_layers,
        config.text_config.projection_dim,
    ) == (1280, 24, 2048)
    assert isinstance(config.prior_config, SamVisionConfig) and config.prior_config.hidden_size == 1024
    assert config.vision_head_intermediate_size == 2752
    assert 290e6 < sum(p.numel() for p in model.vision_model.backbone.parameters()) < 310e6


# --- loss -------------------------------------------------------------------------------------------------------------


def test_ignored_pixels_count_for_nothing():
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    labels[:, :2] = -1
    changed = logits.clone()
    changed[:, :, :2] += 5
    close(segmentation_loss(logits, labels), segmentation_loss(changed, labels))
    close(segmentation_loss(logits, labels), segmentation_loss(logits[:, :, 2:], labels[:, 2:]))
    assert segmentation_loss(logits, torch.full_like(labels, -1)) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32])
def test_label_maps_of_any_integers_have_the_same_loss(dtype):
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    labels[:, 0] = 255
    close(segmentation_loss(logits, labels.to(dtype), 255), segmentation_loss(logits, labels, 255))


def test_classes_compete_with_each_other_and_with_none_of_them():
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 4, (2, 4, 5))
    labels[0, 0] = 3
    with_none = torch.nn.functional.cross_entropy(torch.cat([logits, torch.zeros(2, 1, 4, 5)], dim=1), labels)
    ranking = torch.nn.functional.cross_entropy(logits, labels, ignore_index=3, reduction="sum") / labels.numel()
    expected = ranking + REJECTION_WEIGHT * with_none
    close(segmentation_loss(logits, torch.where(labels == 3, NO_CLASS, labels)), expected)
    # a name that is surely nowhere changes nothing
    more = torch.cat([logits, torch.full((2, 1, 4, 5), -1e4)], dim=1)
    close(segmentation_loss(more, torch.where(labels == 3, NO_CLASS, labels)), expected)


def test_the_loss_of_one_class_is_that_of_a_sigmoid():
    logits, shown = torch.randn(2, 1, 4, 5), torch.rand(2, 4, 5) < 0.5
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], shown.float())
    close(segmentation_loss(logits, torch.where(shown, 0, NO_CLASS)), expected)
    close(segmentation_loss(logits, shown[:, None].float()), expected)


def test_targets_per_class_do_not_compete():
    logits, targets = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    close(segmentation_loss(logits, targets), expected)


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_the_loss_of_extreme_logits_is_finite(value):
    logits = torch.full((1, 3, 2, 2), value, requires_grad=True)
    loss = segmentation_loss(logits, torch.tensor([[[0, 1], [NO_CLASS, -1]]]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(
    cells=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    pixels=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    num_classes=st.integers(1, 4),
    at_once=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_the_loss_in_bands_is_that_of_the_resized_logits(cells, pixels, num_classes, at_once, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, num_classes, *cells, generator=generator).requires_grad_()
    labels = torch.randint(-2, num_classes, (2, *pixels), generator=generator)
    resized = torch.nn.functional.interpolate(logits, size=pixels, mode="bilinear", align_corners=False)
    expected = segmentation_loss(resized, labels)
    (gradient,) = torch.autograd.grad(expected, logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "MAX_RESIZED_VALUES", at_once)
        found = segmentation_loss(logits, labels)
        close(found, expected)
        close(torch.autograd.grad(found, logits)[0], gradient)


def test_a_training_step_keeps_no_resized_logits():
    logits, saved = torch.randn(1, 7, 6, 6, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda x: x):
        segmentation_loss(logits, torch.zeros(1, 40, 40, dtype=torch.long))
    assert max(saved, default=0) <= 40 * 40


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_ids": None}, "no default vocabulary; expected input_ids or text_embeds"),
        ({"text_embeds": torch.zeros(3, 2, 32)}, "both input_ids and text_embeds; expected one of them"),
        ({"pixel_values": None}, "exactly one of pixel_values and image_features; got neither"),
        ({"input_ids": None, "text_embeds": torch.zeros(3, 2, 31)}, r"\(classes, 2, 32\)"),
        ({"input_ids": None, "text_embeds": torch.zeros(3, 32)}, r"\(classes, 2, 32\)"),
        ({"input_ids": None, "text_embeds": torch.zeros(0, 2, 32)}, "at least one class"),
        ({"input_ids": torch.zeros(0, 1, 4, dtype=torch.long)}, "all at least 1"),
        ({"input_ids": torch.full((1, 1, 500), 598)}, "at most 77"),
        ({"pixel_values": torch.zeros(2, 4, 64, 64)}, r"\(batch, 3, height, width\)"),
        ({"pixel_values": torch.zeros(3, 64, 64)}, r"\(batch, 3, height, width\)"),
        ({"pixel_values": torch.zeros(2, 3, 0, 64)}, "all at least 1"),
        (
            {"window_boxes": torch.zeros(1, 4, dtype=torch.long)},
            r"Got only one of .* expected both \(for local-global inference\) or neither",
        ),
        (
            {"window_boxes": torch.zeros(1, 4, dtype=torch.long), "window_pixel_values": torch.zeros(2, 2, 3, 32, 32)},
            r"\(batch 2, windows 1, 3, height, width\)",
        ),
        ({"head": "best"}, '"full" or "dinotxt"'),
        ({"patch_source": "middle"}, '"head" or "backbone"'),
        ({"patch_source": "backbone"}, 'trained on patch_source="head"'),
        ({"labels": torch.zeros(2, 7, 64, 64)}, "one target per class"),
        ({"labels": torch.full((2, 64, 64), 5)}, "labels contains 5; expected 0 to 4, because there are 5 classes"),
    ],
)
def test_bad_input_is_named(tiny_model, words, change, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**{"pixel_values": images(64, 64), "input_ids": words, **change})


def test_zero_shot_features_are_refused_by_the_full_head(tiny_model, words):
    features = tiny_model.get_image_features(images(64, 64), head="dinotxt")
    with pytest.raises(ValueError, match='expected head="full"'):
        tiny_model(image_features=features, input_ids=words)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text_config": {"projection_dim": 63}}, "two halves of the vision width"),
        ({"vision_config": {"num_hidden_layers": 0, "layer_types": None}}, "num_hidden_layers is 0"),
        ({"correlation_kernel_size": 4}, "odd size"),
        ({"early_num_attention_heads": 3}, "multiple of its number of attention heads"),
        ({"early_hidden_size": 12}, "multiple of 8"),
        ({"refine_features": True, "use_early_refinement": False}, "expected an early refinement"),
        ({"decoder_prior_sizes": [4]}, "the same length"),
        ({"class_chunk_size": 0}, "at least 1"),
        ({"stem_channels": [8]}, "patch_size is 8"),
    ],
)
def test_impossible_configurations_are_named(tiny_config, change, message):
    fields = tiny_config.to_dict()
    for key, value in change.items():
        fields[key] = {**fields[key], **value} if isinstance(value, dict) else value
    with pytest.raises(Exception, match=message):
        Dinov3SegConfig(**fields)
