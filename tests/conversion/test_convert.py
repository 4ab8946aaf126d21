# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A conversion accounts for every tensor, refuses what is not exactly right, and leaves nothing half done.

What the converted weights compute is compared in `test_dinotxt_parity.py`.
"""

import copy
import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    CLIPTextConfig,
    CLIPTokenizer,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SamConfig,
    SamModel,
    SamVisionConfig,
    SamVisionModel,
)
from transformers.utils import logging

from dinov3seg_hf.conversion import convert_anyup, reading
from dinov3seg_hf.conversion.converter import convert
from dinov3seg_hf.conversion.layouts import sam_rules
from dinov3seg_hf.conversion.license import find_licenses, notes_of_licenses
from dinov3seg_hf.conversion.tokenizer import find_tokenizer
from dinov3seg_hf.file_names import CONVERSION_REPORT
from dinov3seg_hf.loading import license_files
from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from dinov3seg_hf.model.processing_dinov3seg import Dinov3SegProcessor

from places import FIXTURES

RECORDED = FIXTURES / "dinotxt_tiny.safetensors"
PREFIX = "vision_model.backbone."
LICENSE = "Terms of the tiny weights.\n"


@pytest.fixture(scope="module")
def published():
    """The two published state dicts, tiny. Copy before changing."""
    with safe_open(RECORDED, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    return {
        name: {key[len(name) + 1 :]: tensor.clone() for key, tensor in tensors.items() if key.startswith(f"{name}/")}
        for name in ("backbone", "dinotxt")
    }


@pytest.fixture(scope="module")
def files(published, tmp_path_factory):
    """(backbone, dinotxt) as .pth files. Read-only."""
    folder = tmp_path_factory.mktemp("published")
    paths = []
    for name, tensors in published.items():
        paths.append(folder / f"{name}.pth")
        torch.save(tensors, paths[-1])
    (folder / "LICENSE.md").write_text(LICENSE)
    return tuple(paths)


@pytest.fixture(scope="module")
def converted(files, tmp_path_factory):
    """(report, folder) of the two files, converted. Read-only."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    return convert(*files, folder, text_num_attention_heads=4, progress=False), folder


@pytest.fixture
def run(files, tmp_path):
    """Converts the two files, or what is given in their place, to `tmp_path / "out"`."""

    def run(backbone=files[0], dinotxt=files[1], output=tmp_path / "out", **options):
        options = {
            "text_num_attention_heads": 4,
            "progress": False,
            "license": files[0].parent / "LICENSE.md",
        } | options
        return convert(backbone, dinotxt, output, **options)

    return run


@pytest.fixture
def changed(published, tmp_path):
    """Writes one of the state dicts with changes: a tensor, or `None` to leave the key out."""

    def changed(name, changes=None, file_name=None):
        tensors = {key: tensor.clone() for key, tensor in published[name].items()} | (changes or {})
        path = tmp_path / (file_name or f"{name}.safetensors")
        save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
        return path

    return changed


def weights(folder):
    """The tensors of a folder, by the names of the model's parameters."""
    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(path)
    # transformers saves the layers of its DINOv3 under the names of the published folders
    return {key.replace(f"{PREFIX}layer.", f"{PREFIX}model.layer."): tensor for key, tensor in tensors.items()}


def all_new(report):
    return [name for names in report.new.values() for name in names]


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert tensor.dtype == second[key].dtype and torch.equal(tensor, second[key]), key


# --- what is written -------------------------------------------------------------------------------------------------


def test_every_key_of_the_files_and_every_parameter_of_the_model_is_in_the_report(converted, published):
    report, folder = converted
    for name, tensors in published.items():
        assert sorted(key.key for key in report.keys if key.source == name and key.key) == sorted(tensors)
    targets = [target for key in report.keys for target in key.targets] + all_new(report)
    assert sorted(targets) == sorted(weights(folder))  # each exactly once
    assert report.missing == []
    assert all(key.reason for key in report.keys if key.action in ("dropped", "zeros", "constant"))
    assert report.num_parameters == sum(tensor.numel() for tensor in weights(folder).values())


@pytest.fixture(scope="module")
def anyup():
    """AnyUp under its published names, with random weights."""
    tensors = load_file(FIXTURES / "anyup_tiny.safetensors")
    return {key.removeprefix("anyup/"): tensor for key, tensor in tensors.items() if key.startswith("anyup/")}


@pytest.mark.parametrize("scale", [1, 4])
def test_anyup_becomes_the_early_refinement_of_the_zero_shot_head(run, anyup, tmp_path, scale):
    torch.save(anyup, tmp_path / "anyup.pth")
    report = run(anyup=tmp_path / "anyup.pth", anyup_scale=scale)
    assert sorted(key.key for key in report.keys if key.source == "anyup" and key.key) == sorted(anyup)
    written = weights(tmp_path / "out")
    assert "early_refinement" not in report.new
    assert sorted([t for key in report.keys for t in key.targets] + all_new(report)) == sorted(written)
    assert report.files["anyup"] == "anyup.pth" and any("CC-BY-4.0" in note for note in report.notes)
    expected = {f"early_refinement.{key}": tensor for key, tensor in convert_anyup(anyup).items()}
    assert_equal(expected, {key: written[key] for key in expected})

    model = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "out").eval().requires_grad_(False)
    assert (model.config.head, model.config.refine_features, model.config.early_refinement_scale) == (
        "dinotxt",
        True,
        scale,
    )
    pixels, text = torch.randn(1, 3, 192, 160), torch.randn(3, 2, 64)
    text = text / text.norm(dim=-1, keepdim=True)
    features = model.get_image_features(pixels)
    refined = model.early_refinement(features.patch_features, pixels)
    cosine = torch.einsum("bdhw,cd->bchw", torch.nn.functional.normalize(refined, dim=1), text[:, 1])
    torch.testing.assert_close(model(pixels, text_embeds=text).logits, cosine, atol=1e-5, rtol=1e-5)
    assert cosine.shape[-2:] == (12 * scale, 10 * scale)
    plain = model(pixels, text_embeds=text, refine_features=False).logits
    assert plain.shape[-2:] == (12, 10)
    if scale == 1:
        assert (plain - cosine).abs().max() > 1e-3


def test_other_files_are_not_taken_for_anyup(run, anyup, files, tmp_path):
    save_file(anyup, tmp_path / "anyup.safetensors")
    with pytest.raises(ValueError, match=r"prior .* is an AnyUp checkpoint. Pass the file as anyup"):
        run(prior=tmp_path / "anyup.safetensors")
    with pytest.raises(ValueError, match=r"anyup .* is a DINOv3 backbone. Pass the file as backbone"):
        run(anyup=files[0])
    lacking = {key: tensor for key, tensor in anyup.items() if key != "rope.freqs"}
    with pytest.raises(ValueError, match=r"1 missing \(rope.freqs\)"):
        convert_anyup(lacking)


def test_the_report_is_readable_and_kept_in_the_folder(converted):
    report, folder = converted
    text = str(report)
    assert "2  split    backbone  blocks.*.attn.qkv.bias -> " in text  # one row for the layers of a kind
    assert "rope_embed.periods -> - (" in text and "decoder (to be trained" in text and "0 missing" in text
    kept = (folder / CONVERSION_REPORT).read_text()
    assert json.loads(kept) | {"output": str(folder)} == json.loads(json.dumps(report.to_dict()))
    assert str(folder.parent) not in kept and report.files["backbone"] == "backbone.pth"  # weights may be published


def test_sizes_come_from_the_tensors(converted):
    config = Dinov3SegConfig.from_pretrained(converted[1])
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (64, 2, 4)
    assert (vision.intermediate_size, vision.patch_size, vision.num_register_tokens) == (256, 16, 4)
    assert (config.vision_head_num_layers, config.vision_head_intermediate_size) == (2, 192)
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (48, 2, 4)
    assert (text.projection_dim, text.max_position_embeddings, text.hidden_act) == (128, 77, "gelu")
    assert (text.vocab_size, text.bos_token_id, text.eos_token_id) == (512, 510, 511)  # pooled at the highest id
    assert config.prior_config is None


def test_the_folder_segments_zero_shot_as_it_is(converted):
    model, info = Dinov3SegForSemanticSegmentation.from_pretrained(converted[1], output_loading_info=True)
    assert not any(info.values())
    input_ids = torch.tensor([[[510, 5, 511]], [[510, 9, 511]]])
    inputs = {"pixel_values": torch.rand(1, 3, 48, 64), "input_ids": input_ids}
    assert (model.config.head, model.config.head_trained) == ("dinotxt", False)
    assert torch.equal(model(**inputs).logits, model(**inputs, head="dinotxt").logits)
    assert model(**inputs, head="full").logits.isfinite().all()  # the parts to be trained are there, and whole


def test_the_random_head_of_a_conversion_warns(converted, caplog):
    model = Dinov3SegForSemanticSegmentation.from_pretrained(converted[1]).eval()
    inputs = {"pixel_values": torch.rand(1, 3, 32, 32), "text_embeds": torch.randn(2, 2, 64)}
    logging.get_logger("dinov3seg_hf.model.modeling_dinov3seg").warning_once.cache_clear()
    model(**inputs)
    assert not caplog.records
    for _ in range(2):
        model(**inputs, head="full")
    assert ["not trained, so its logits are random" in record.getMessage() for record in caplog.records] == [True]


def test_pth_and_safetensors_give_the_same_weights(converted, run, changed, tmp_path):
    run(changed("backbone"), changed("dinotxt"))
    assert_equal(weights(tmp_path / "out"), weights(converted[1]))


def test_parts_to_be_trained_depend_on_the_seed_alone(converted, run, tmp_path):
    torch.manual_seed(1)
    expected_draw = torch.rand(3)
    for seed in (0, 3):
        torch.manual_seed(1)
        report = run(output=tmp_path / str(seed), seed=seed)
        assert torch.equal(torch.rand(3), expected_draw)  # the caller's random numbers are where they were
    first, other = weights(tmp_path / "0"), weights(tmp_path / "3")
    assert_equal(first, weights(converted[1]))
    differing = {key for key in first if not torch.equal(first[key], other[key])}
    assert differing and differing <= set(all_new(report))
    assert first["decoder.correlation_offset"].item() == pytest.approx(0.25)  # the model's own initialization


@pytest.fixture(scope="module")
def plain_backbone(converted):
    """The backbone as `transformers` has it."""
    backbone = Dinov3SegForSemanticSegmentation.from_pretrained(converted[1]).vision_model.backbone
    plain = DINOv3ViTModel(DINOv3ViTConfig(**{**backbone.config.to_dict(), "architectures": None}))
    plain.load_state_dict(backbone.state_dict())
    return plain


def test_a_transformers_backbone_gives_the_same_model(converted, run, plain_backbone, tmp_path):
    plain_backbone.save_pretrained(tmp_path / "transformers")
    report = run(tmp_path / "transformers")
    assert_equal(weights(tmp_path / "out"), weights(converted[1]))
    configs = [Dinov3SegConfig.from_pretrained(folder).to_dict() for folder in (tmp_path / "out", converted[1])]
    assert configs[0] == configs[1]
    assert {key.action for key in report.keys if key.source == "backbone"} == {"taken"}
    assert report.files["backbone"] == "transformers" and report.sizes == converted[0].sizes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_can_be_written_in_half_precision(converted, run, tmp_path, dtype):
    run(dtype=dtype)
    half, full = weights(tmp_path / "out"), weights(converted[1])
    assert_equal(half, {key: tensor.to(getattr(torch, dtype)) for key, tensor in full.items()})


def test_a_half_precision_backbone_does_not_decide_the_format(run, plain_backbone, tmp_path):
    copy.deepcopy(plain_backbone).to(torch.bfloat16).save_pretrained(tmp_path / "transformers")
    run(tmp_path / "transformers")
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float32}
    model = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_large_weights_are_split_into_files_of_the_given_size(converted, run, files, changed, tmp_path, suffix):
    sources = files if suffix == "pth" else (changed("backbone"), changed("dinotxt"))
    run(*sources, max_shard_size="1MB")
    files_of_weights = [load_file(path) for path in (tmp_path / "out").glob("model-*.safetensors")]
    assert len(files_of_weights) > 5
    for tensors in files_of_weights:
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 1e6
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    sharded = weights(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in sharded.values())
    assert_equal(sharded, weights(converted[1]))


def test_progress_goes_to_stderr(run, capsys):
    run(progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "writing" in captured.err


# --- biases, rotary periods, heads -----------------------------------------------------------------------------------


def test_biases_are_taken_as_their_mask_leaves_them(run, changed, published, tmp_path):
    key = "blocks.0.attn.qkv.bias"
    mask = torch.cat([torch.full((64,), 0.5), torch.zeros(64), torch.zeros(64)])
    run(changed("backbone", {f"{key}_mask": mask}))
    query, _, value = published["backbone"][key].chunk(3)
    assert query.any() and value.any()
    attention = f"{PREFIX}model.layer.0.attention."
    converted = weights(tmp_path / "out")
    assert torch.equal(converted[f"{attention}q_proj.bias"], query / 2)
    assert not converted[f"{attention}v_proj.bias"].any()
    assert f"{attention}k_proj.bias" not in converted


def test_a_bias_of_the_keys_that_would_be_lost_is_refused(run, changed):
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.bias is not zero for the keys"):
        run(changed("backbone", {"blocks.0.attn.qkv.bias_mask": torch.ones(192)}))


def test_a_mask_that_was_never_set_is_refused(run, changed):
    with pytest.raises(ValueError, match="bias_mask contains NaN"):
        run(changed("backbone", {"blocks.1.attn.qkv.bias_mask": torch.full((192,), float("nan"))}))


@pytest.mark.parametrize("theta", [100.0, 10000.0])
def test_rotary_periods_are_recognised_though_rounded(run, changed, tmp_path, theta):
    periods = (theta ** (torch.arange(4) / 4)).to(torch.bfloat16).float()  # so they are in the published files
    report = run(changed("backbone", {"rope_embed.periods": periods}))
    assert Dinov3SegConfig.from_pretrained(tmp_path / "out").vision_config.rope_theta == theta
    assert any("rope_embed.periods" in note for note in report.notes)


def test_other_rotary_periods_are_refused(run, changed):
    with pytest.raises(ValueError, match="expected powers of one base"):
        run(changed("backbone", {"rope_embed.periods": torch.tensor([1.0, 2.0, 10.0, 31.6])}))


def test_heads_of_the_text_tower_are_asked_for_where_they_cannot_be_told(run):
    with pytest.raises(ValueError, match=r"is 48; expected a multiple of 64.*Pass text_num_attention_heads"):
        run(text_num_attention_heads=None)
    with pytest.raises(ValueError, match="expected a divisor of the text tower width"):
        run(text_num_attention_heads=5)


# --- what is refused -------------------------------------------------------------------------------------------------


def small_backbone():
    config = DINOv3ViTConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    return DINOv3ViTModel(config)


def test_the_satellite_backbone_is_refused_with_the_reason(run, files, changed, tmp_path):
    norm = {f"local_cls_norm.{name}": torch.ones(64) for name in ("weight", "bias")}
    named = changed("backbone", file_name="dinov3_vitl16_pretrain_sat493m-eadcf0ff.safetensors")
    small_backbone().save_pretrained(tmp_path / "t")
    (tmp_path / "t" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.43, 0.411, 0.296]}))
    for backbone in (changed("backbone", norm), named, "facebook/dinov3-vitl16-pretrain-sat493m", tmp_path / "t"):
        with pytest.raises(ValueError, match=r"is the satellite backbone.*embeddings do not fit"):
            run(backbone)


def test_swapped_files_are_recognised(run, files):
    with pytest.raises(ValueError, match=r"backbone .* is a vision head and text .* Pass the file as dinotxt"):
        run(files[1], files[0])
    with pytest.raises(ValueError, match=r"dinotxt .* is a DINOv3 backbone. Pass the file as backbone"):
        run(files[0], files[0])
    with pytest.raises(ValueError, match=r"prior .* is a DINOv3 backbone. Pass the file as backbone"):
        run(prior=files[0])


def test_files_of_other_layouts_are_named(converted, run, tmp_path):
    with pytest.raises(ValueError, match=r"a checkpoint of this package \(already converted\)"):
        run(converted[1] / "model.safetensors")
    save_file({"embeddings.cls_token": torch.ones(1)}, tmp_path / "transformers.safetensors")
    with pytest.raises(ValueError, match=r"for transformers \(pass its folder\)"):
        run(tmp_path / "transformers.safetensors")
    save_file({"classifier.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"not a supported checkpoint \(first keys: classifier\.weight"):
        run(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("backbone", "blocks.1.ls2.gamma"),
        ("backbone", "blocks.0.attn.qkv.bias_mask"),
        ("backbone", "mask_token"),
        ("dinotxt", "logit_scale"),
        ("dinotxt", "visual_model.head.blocks.1.mlp.w2.bias"),
        ("dinotxt", "text_model.backbone.blocks.0.attention.qkv.weight"),
    ],
)
def test_a_missing_key_is_named(run, changed, tmp_path, name, key):
    with pytest.raises(ValueError, match=rf"1 missing \({key}\)"):
        run(**{name: changed(name, {key: None})})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "key"), [("backbone", "blocks.0.attn.extra"), ("dinotxt", "visual_model.backbone.cls_token")]
)
def test_an_unexpected_key_is_named(run, changed, name, key):
    with pytest.raises(ValueError, match=rf"1 unexpected \({key}\)"):
        run(**{name: changed(name, {key: torch.ones(1)})})


def test_a_tensor_of_another_size_is_named(run, changed):
    with pytest.raises(ValueError, match=r"model\.layer\.1\.mlp\.up_proj\.bias has shape \(255,\), expected \(256,\)"):
        run(changed("backbone", {"blocks.1.mlp.fc1.bias": torch.ones(255)}))


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("blocks.0.attn.qkv.bias_mask", (191,), r"qkv\.bias_mask has the shape \(191,\); expected queries, keys and"),
        ("blocks.0.attn.qkv.bias", (1,), r"qkv\.bias has the shape \(1,\); expected queries, keys and values"),
        ("blocks.0.attn.qkv.bias", (93,), "other shapes than the published layout"),
        ("blocks.0.attn.qkv.weight", (), r"qkv\.weight has the shape \(\); expected"),
        ("cls_token", (), "other shapes than the published layout"),
        ("storage_tokens", (3,), "other shapes than the published layout"),
        ("norm.weight", (0,), r"norm\.weight is empty; expected values"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(run, changed, key, shape, message):
    with pytest.raises(ValueError, match=message):
        run(changed("backbone", {key: torch.ones(shape)}))


def test_files_of_different_width_are_refused(run, tmp_path):
    small_backbone().save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=r"head of width 64 and text embeddings of width 128; expected 32 and 64"):
        run(tmp_path / "small")


def test_numbers_that_are_none_are_refused(run, changed):
    broken = {"text_model.backbone.positional_embedding": torch.full((77, 48), float("nan"))}
    with pytest.raises(ValueError, match=r"position_embedding\.weight contains NaN or infinity"):
        run(dinotxt=changed("dinotxt", broken))


def test_numbers_too_large_for_the_format_are_refused(run, changed):
    large = changed("backbone", {"norm.bias": torch.full((64,), 1e6)})
    with pytest.raises(ValueError, match=r"norm\.bias contains NaN or infinity in torch\.float16"):
        run(large, dtype="float16")
    with pytest.raises(ValueError, match='expected "float32", "bfloat16" or "float16"'):
        run(dtype="int8")


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pth_with_objects_in_it_is_refused_and_not_run(run, tmp_path):
    torch.save({"cls_token": Malice(tmp_path / "executed")}, tmp_path / "malice.pth")
    with pytest.raises(ValueError, match="could run arbitrary code"):
        run(tmp_path / "malice.pth")
    assert not (tmp_path / "executed").exists()


def test_an_old_pth_file_is_read(converted, run, published, tmp_path):
    torch.save(published["backbone"], tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    run(tmp_path / "old.pth")
    assert_equal(weights(tmp_path / "out"), weights(converted[1]))


def test_damaged_files_are_refused(run, files, changed, tmp_path):
    whole = {"pth": files[0].read_bytes(), "safetensors": changed("backbone").read_bytes()}
    for suffix, content in whole.items():
        for length in (0, 40, len(content) // 2, len(content) - 1):
            path = tmp_path / f"cut.{suffix}"
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"is (truncated or damaged|not a checkpoint).*Download the file"):
                run(path)
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>please log in</html>")
    with pytest.raises(ValueError, match="web page"):
        run(tmp_path / "page.pth")
    torch.save({"model": {"cls_token": torch.ones(1)}}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match="not a flat dictionary of tensors"):
        run(tmp_path / "nested.pth")


def test_files_and_names_that_are_not_there_are_refused(run, tmp_path, monkeypatch):
    for options in ({"backbone": tmp_path / "none.pth"}, {"dinotxt": tmp_path / "none"}, {"dinotxt": tmp_path}):
        with pytest.raises(ValueError, match=r"was not found\. Check the path"):
            run(**options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder without config\.json"):
        run(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"backbone somebody/nothing cannot be read.*unset HF_HUB_OFFLINE"):
        run("somebody/nothing")
    with pytest.raises(ValueError, match="prior somebody/nothing cannot be read"):
        run(prior="somebody/nothing")
    monkeypatch.setattr(reading, "at_hand", lambda name: name)  # as if the Hub had answered
    with pytest.raises(ValueError, match="accept its license on the Hub and log in"):
        run("somebody/nothing")


def test_folders_of_other_models_are_refused(run, tmp_path):
    AutoConfig.for_model("clip_text_model", hidden_size=16).save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match=r"'clip_text_model' checkpoint; expected a DINOv3 ViT"):
        run(tmp_path / "clip")
    with pytest.raises(ValueError, match=r"'clip_text_model' checkpoint; expected SAM"):
        run(prior=tmp_path / "clip")


def test_a_transformers_backbone_whose_patches_are_a_pair_is_refused(run, plain_backbone, tmp_path):
    plain_backbone.save_pretrained(tmp_path / "pair")
    path = tmp_path / "pair" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "patch_size": [16, 16]}))
    with pytest.raises(ValueError, match=r"backbone .*pair: patch_size is \[16, 16\]; expected one number"):
        run(tmp_path / "pair")


def test_a_transformers_backbone_that_lacks_tensors_is_refused(run, tmp_path):
    small_backbone().save_pretrained(tmp_path / "whole")
    for name, change in (("lacking", lambda tensors: tensors.pop("norm.weight")), ("small", None)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
        tensors = load_file(tmp_path / "whole" / "model.safetensors")
        if change is None:
            tensors["norm.weight"] = torch.ones(31)
        else:
            change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"norm\.weight|weights cannot be read"):
            run(folder)


# --- the output folder -----------------------------------------------------------------------------------------------


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_left_behind_when_writing_fails(converted, run, monkeypatch, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(converted[1], folder / "out")
    before = contents(folder)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(Dinov3SegImageProcessorPil, "save_pretrained", full)
    for output, overwrite in ((folder / "out", True), (folder / "new", False)):
        with pytest.raises(ValueError, match=r"cannot be written.*No space left"):
            run(output=output, overwrite=overwrite, seed=1)
    assert contents(folder) == before
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_an_earlier_result_survives_when_it_cannot_be_replaced(converted, run, monkeypatch, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(converted[1], folder / "out")
    before = contents(folder)
    rename = Path.rename

    def refuse(path, target):
        if path.suffix == ".partial":
            raise OSError("Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ValueError, match="Device or resource busy"):
        run(output=folder / "out", overwrite=True, seed=1)
    assert contents(folder) == before
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_only_an_earlier_conversion_is_overwritten_and_only_when_asked(converted, run, tmp_path):
    shutil.copytree(converted[1], tmp_path / "out")
    first = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="is not empty"):
        run(seed=1)
    assert contents(tmp_path / "out") == first
    run(seed=1, overwrite=True)
    assert contents(tmp_path / "out").keys() == first.keys()
    assert contents(tmp_path / "out") != first

    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not an earlier conversion"):
        run(output=precious, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        run(output=precious / "thesis.txt", overwrite=True)
    assert contents(precious) == {Path("thesis.txt"): b"years of work"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_others_wrote_to_the_output_meanwhile_stays(run, monkeypatch, tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    save = Dinov3SegImageProcessorPil.save_pretrained

    def save_late(self, folder):
        (tmp_path / "out" / "thesis.txt").write_text("years of work")
        return save(self, folder)

    monkeypatch.setattr(Dinov3SegImageProcessorPil, "save_pretrained", save_late)
    with pytest.raises(ValueError, match="is not an earlier conversion" if overwrite else "is not empty"):
        run(overwrite=overwrite)
    assert contents(tmp_path / "out") == {Path("thesis.txt"): b"years of work"}
    assert not list(tmp_path.glob(".out.*"))


def test_a_mounted_disk_is_refused_before_anything_is_read(run, monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    monkeypatch.setitem(convert.__globals__, "convert_backbone", None)
    with pytest.raises(ValueError, match=r"where a disk is mounted; .* such as .*out/checkpoint"):
        run()


def test_an_empty_folder_is_filled_and_missing_ones_are_made(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for output in (tmp_path / "empty", tmp_path / "some" / "where"):
        run(output=output)
        assert (output / "config.json").is_file()
    assert oct((tmp_path / "some" / "where").stat().st_mode) == oct((tmp_path / "some").stat().st_mode)


def test_a_conversion_that_would_not_fit_on_the_disk_does_not_begin(run, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    monkeypatch.setitem(convert.__globals__, "convert_backbone", None)  # refused before gigabytes are read
    with pytest.raises(ValueError, match=r"only 0 MB are free\. Free disk space, or choose bfloat16"):
        run()
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_during_the_conversion_is_noticed_before_writing(run, monkeypatch, tmp_path):
    free = iter([10**12, 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": next(free)}))
    with pytest.raises(ValueError, match="Free disk space, or choose bfloat16"):
        run()
    assert not (tmp_path / "out").exists()


# --- license ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("license", [None, "given"])
def test_the_license_goes_with_the_weights(run, tmp_path, license):
    given = tmp_path / "terms.txt"
    given.write_text("Other terms.\n")
    report = run(license=license and given)
    assert (tmp_path / "out" / "LICENSE.md").read_text() == ("Other terms.\n" if license else LICENSE)
    assert report.files["license"] == ("terms.txt" if license else "LICENSE.md")


def test_without_a_license_nothing_is_converted_unless_told(run, changed, tmp_path):
    alone = {"backbone": changed("backbone"), "dinotxt": changed("dinotxt")}
    with pytest.raises(ValueError, match=r"No license file lies beside the weights.*--license FILE"):
        run(**alone, license=None)
    (tmp_path / "LICENSE").write_text(" \n")  # empty
    with pytest.raises(ValueError, match="No license file lies beside the weights"):
        run(**alone, license=None)
    for name, message in (("LICENSE", "it is empty"), ("missing.md", "No such file")):
        with pytest.raises(ValueError, match=message):
            run(**alone, license=tmp_path / name)
    assert not (tmp_path / "out").exists()
    report = run(**alone, license="none")
    assert "Do not pass it on" in str(report) and not list((tmp_path / "out").glob("LICENSE*"))


def test_the_license_beside_each_part_goes_with_the_weights(run, anyup, sam_folders, tmp_path):
    for name in ("anyup", "sam"):
        (tmp_path / name).mkdir()
    torch.save(anyup, tmp_path / "anyup" / "anyup.pth")
    (tmp_path / "anyup" / "LICENSE").write_text("Terms of AnyUp.\n")
    shutil.copytree(sam_folders["whole"], tmp_path / "sam", dirs_exist_ok=True)
    (tmp_path / "sam" / "LICENSE.pdf").write_text("Terms of SAM.\n")
    report = run(prior=tmp_path / "sam", prior_image_size=64, anyup=tmp_path / "anyup" / "anyup.pth")
    found = {path.name: path.read_text() for path in license_files(tmp_path / "out")}
    assert found == {
        "LICENSE.md": LICENSE,
        "LICENSE-SAM.pdf": "Terms of SAM.\n",
        "LICENSE-ANYUP.md": "Terms of AnyUp.\n",
    }
    assert (report.files["license of prior"], report.files["license of anyup"]) == ("LICENSE.pdf", "LICENSE")
    assert "  license of anyup  LICENSE\n" in str(report) and "license file" not in str(report)


PART_SOURCES = {"backbone": "dinov3/b.pth", "dinotxt": "dinov3/t.pth", "prior": "sam/s.pth", "anyup": "anyup/a.pth"}


@pytest.mark.parametrize(
    "moved, present, expected",
    [
        ({}, ["sam/LICENSE"], {"prior": "sam/LICENSE", "anyup": None}),
        ({"prior": "facebook/sam-vit-large"}, ["anyup/license.txt"], {"prior": None, "anyup": "anyup/license.txt"}),
        ({"anyup": "dinov3/a.pth"}, [], {"anyup": None}),  # the license beside it is that of DINOv3
        ({"anyup": "sam/a.pth"}, ["sam/LICENSE"], {"prior": None, "anyup": None}),  # of which of them?
        (
            {"anyup": "sam/a.pth"},
            ["sam/LICENSE", "sam/LICENSE-SAM", "sam/LICENSE-ANYUP.txt"],
            {"prior": "sam/LICENSE-SAM", "anyup": "sam/LICENSE-ANYUP.txt"},
        ),
        ({}, ["sam/LICENSE.md", "sam/LICENSE-SAM.md"], {"prior": "sam/LICENSE-SAM.md"}),
    ],
)
def test_a_license_is_not_taken_for_that_of_other_weights(tmp_path, monkeypatch, moved, present, expected):
    monkeypatch.chdir(tmp_path)
    sources = PART_SOURCES | moved
    for path in (*sources.values(), "dinov3/LICENSE.md", *present):
        if path != "facebook/sam-vit-large":
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_text("x")
    found = find_licenses(None, {**sources, "tokenizer": None})
    assert found["weights"] == Path("dinov3/LICENSE.md")
    assert {role: found[role] and found[role].as_posix() for role in expected} == expected
    notes = notes_of_licenses(found)
    for role, name in (("prior", "SAM was found; the model card names it, Apache 2.0"), ("anyup", "AnyUp was found")):
        assert sum(name in note for note in notes) == (found[role] is None)
    assert find_licenses("none", {**sources, "tokenizer": None}) == {"weights": None}


# --- tokenizer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [None, "none"])
def test_without_a_tokenizer_the_image_processor_is_written_and_the_report_says_so(run, tmp_path, tokenizer):
    report = run(tokenizer=tokenizer)
    assert "Only weights and image processor are written" in str(report)
    assert not list((tmp_path / "out").glob("*token*.json"))
    processor = Dinov3SegImageProcessorPil.from_pretrained(tmp_path / "out")
    assert processor.size_divisor == 16


@pytest.fixture
def worded(changed, tiny_tokenizer):
    """dinotxt with as many tokens as the tiny tokenizer."""
    embedding = torch.randn(len(tiny_tokenizer), 48, generator=torch.Generator().manual_seed(0))
    return changed("dinotxt", {"text_model.backbone.token_embedding.weight": embedding})


def test_a_tokenizer_folder_makes_a_processor_of_names(run, worded, tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    run(dinotxt=worded, tokenizer=tmp_path / "tokenizer")
    processor = Dinov3SegProcessor.from_pretrained(tmp_path / "out")
    model = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    inputs = processor(text=["red circle", "blue square"])
    assert (inputs["input_ids"] == model.config.text_config.eos_token_id).any(dim=-1).all()
    assert processor.tokenizer.model_max_length == 77
    features = model.get_text_features(**inputs)
    assert (features[0] - features[1]).abs().max() > 0.01  # pooled at the end of the text, not at its common start


def test_the_original_file_of_merges_gives_the_same_tokenizer(run, worded, tiny_tokenizer, tmp_path):
    merges = [" ".join(merge) for merge in json.loads(tiny_tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *merges, "more merges", "than are", "used by", "CLIP </w>", ""]
    with gzip.open(tmp_path / "bpe.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    run(dinotxt=worded, tokenizer=tmp_path / "bpe.txt.gz")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("A photo of a red circle, Ünï ©")["input_ids"]
    assert tokenizer.decode(ids[1:-1]) == "a photo of a red circle , ünï ©"
    assert (ids[0], ids[-1]) == (len(tiny_tokenizer) - 2, len(tiny_tokenizer) - 1)
    assert len(tokenizer) == len(tiny_tokenizer)
    # the bytes of the tiny tokenizer stand in another order, but the words are cut alike
    assert tokenizer.tokenize("photo circle") == tiny_tokenizer.tokenize("photo circle")


def test_a_tokenizer_of_another_size_is_refused(run, tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match=rf"has \({len(tiny_tokenizer)}, .* expected \(512, 510, 511\)"):
        run(tokenizer=tmp_path / "tokenizer")


def test_a_tokenizer_that_is_none_is_refused(run, worded, tmp_path):
    (tmp_path / "short.txt").write_text("header\na b\n")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b\x08\x00nothing")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("short.txt", "does not contain the"),
        ("broken.gz", "is not a readable text file"),
        ("folder", "expected a file, a folder or a Hub id"),  # the library makes a tokenizer of three tokens of it
        ("somebody/nothing", "HF_HUB_OFFLINE forbids to ask the Hub; expected a file, a folder or a Hub id"),
        ("open_clip", "is not installed. Install it with `pip install --no-deps open_clip_torch`"),
    ):
        source = tmp_path / name if (tmp_path / name).exists() else name
        with pytest.raises(ValueError, match=message):
            run(dinotxt=worded, tokenizer=source)


def test_the_tokenizer_is_looked_for_before_the_weights_are_read(run, tmp_path):
    with pytest.raises(ValueError, match="tokenizer somebody/nothing"):
        run(backbone=tmp_path / "missing.pth", tokenizer="somebody/nothing")


@pytest.mark.parametrize("name", ["missing.txt.gz", "./somewhere", "/no/folder", "vocabulary.json"])
def test_the_hub_is_not_asked_for_a_tokenizer_that_is_named_like_a_file(monkeypatch, name):
    monkeypatch.setattr(HfApi, "model_info", None)
    with pytest.raises(ValueError, match=r"was not found \(current directory: .*\)\. Pass the path of bpe.*--no-deps"):
        find_tokenizer(name)


def test_a_remedy_does_not_name_what_was_given():
    with pytest.raises(ValueError, match=r"tokenizer openai/clip-vit-large-patch14 is no file") as refused:
        find_tokenizer("openai/clip-vit-large-patch14")
    assert str(refused.value).count("openai/clip-vit-large-patch14") == 1


def test_a_backbone_of_the_hub_that_cannot_be_reached_is_asked_for_once(run, monkeypatch):
    def refused(self, *_, **__):
        raise ConnectionError("Network is unreachable")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", refused)
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)
    with pytest.raises(ValueError, match=r"backbone me/dinov3 cannot be read: .*Network is unreachable\)\. Check the"):
        run("me/dinov3")


def test_no_connection_and_no_tokenizer_are_told_apart(monkeypatch):
    def refused(self, *_, timeout, **__):
        assert timeout <= 10
        raise ConnectionError("Network is unreachable")

    monkeypatch.setattr(HfApi, "model_info", refused)
    with pytest.raises(
        ValueError, match=r"no connection to the Hub \(Network is unreachable\); .*Pass the path of bpe"
    ):
        find_tokenizer("somebody/nothing")

    def missing(self, *_, **__):
        raise HFValidationError("Repo id must be in the form")

    monkeypatch.setattr(HfApi, "model_info", missing)
    with pytest.raises(ValueError, match=r"tokenizer some/where/else was not found \(Repo id must be"):
        find_tokenizer("some/where/else")


def test_the_file_of_an_installed_package_is_found_without_importing_it(tmp_path, monkeypatch, tiny_tokenizer):
    package = tmp_path / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="open_clip_torch, which does not contain it"):
        find_tokenizer("open_clip")
    merges = [" ".join(merge) for merge in json.loads(tiny_tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(["header", *merges]))
    tokenizer = find_tokenizer("open_clip")(CLIPTextConfig(vocab_size=len(tiny_tokenizer)))
    assert tokenizer.tokenize("photo circle") == tiny_tokenizer.tokenize("photo circle")


# --- the prior encoder -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sam():
    """A tiny SAM for 64 px (a grid of 8 x 8), random: one layer with windows of 3, one global."""
    config = SamVisionConfig(
        hidden_size=32,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        mlp_dim=64,
        window_size=3,
        global_attn_indexes=[1],
    )
    model = SamModel(SamConfig(vision_config=config)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.vision_encoder.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def sam_folders(sam, tmp_path_factory):
    """The same SAM three ways: whole, its encoder alone, and as published."""
    folder = tmp_path_factory.mktemp("sam")
    sam.save_pretrained(folder / "whole")
    encoder = SamVisionModel(sam.config.vision_config)
    encoder.vision_encoder.load_state_dict(sam.vision_encoder.state_dict())
    encoder.save_pretrained(folder / "encoder")
    tensors = encoder.state_dict()
    rules = sam_rules(["image_encoder.blocks.0.", "image_encoder.blocks.1."])  # of two layers
    published = {rule.source: tensors[rule.targets[0]].clone() for rule in rules}
    published["mask_decoder.iou_token.weight"] = torch.ones(1, 16)
    torch.save(published, folder / "sam.pth")
    return {"whole": folder / "whole", "encoder": folder / "encoder", "published": folder / "sam.pth"}


@pytest.mark.parametrize("form", ["whole", "encoder", "published"])
def test_the_prior_is_sams_image_encoder_whatever_it_comes_in(run, sam, sam_folders, tmp_path, form):
    report = run(prior=sam_folders[form], prior_image_size=64)
    model = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    assert model.config.prior_config.global_attn_indexes == [1]
    assert model.config.prior_config.window_size == 3
    image = torch.rand(1, 3, 64, 64)
    expected = sam.vision_encoder(image).last_hidden_state
    torch.testing.assert_close(model.semantic_prior.encoder(image).last_hidden_state, expected)
    dropped = {key.key.split(".")[0] for key in report.keys if key.source == "prior" and key.action == "dropped"}
    assert dropped == {"whole": {"prompt_encoder", "mask_decoder", "shared_image_embedding"}, "encoder": set()}.get(
        form, {"mask_decoder"}
    )
    assert not any(name.startswith("semantic_prior.encoder") for name in all_new(report))


@pytest.mark.parametrize("size", [40, 128])
def test_positions_of_the_prior_are_resized_once(run, sam, sam_folders, tmp_path, size):
    report = run(prior=sam_folders["whole"], prior_image_size=size)
    grid = size // 8
    resized = {target for key in report.keys if key.action == "resized" for target in key.targets}
    start = "semantic_prior.encoder.vision_encoder."
    assert resized == {f"{start}pos_embed", f"{start}layers.1.attn.rel_pos_h", f"{start}layers.1.attn.rel_pos_w"}

    model = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    encoder = model.semantic_prior.encoder.vision_encoder
    assert model.config.prior_config.image_size == size
    assert encoder.pos_embed.shape == (1, grid, grid, 32)
    for before, after in zip(sam.vision_encoder.layers, encoder.layers, strict=True):
        for axis in ("rel_pos_h", "rel_pos_w"):
            # SAM resizes a table that does not fit each time it is used: the same numbers
            side = grid if before.window_size == 0 else before.window_size
            on_the_fly = before.attn.get_rel_pos(side, side, getattr(before.attn, axis))
            torch.testing.assert_close(after.attn.get_rel_pos(side, side, getattr(after.attn, axis)), on_the_fly)
    inputs = {"pixel_values": torch.rand(1, 3, 64, 96), "text_embeds": torch.randn(3, 2, 64)}
    assert model(**inputs, head="full").logits.isfinite().all()


def test_resizing_keeps_a_constant_and_the_order_of_a_ramp(run, sam, tmp_path):
    ramp = torch.linspace(0, 1, 8)[None, :, None, None].expand(1, 8, 8, 32).clone()
    ramp[..., 0] = 2.5
    changed = SamVisionModel(sam.config.vision_config)
    changed.vision_encoder.load_state_dict(sam.vision_encoder.state_dict() | {"pos_embed": ramp})
    changed.save_pretrained(tmp_path / "sam")
    run(prior=tmp_path / "sam", prior_image_size=40)
    resized = weights(tmp_path / "out")["semantic_prior.encoder.vision_encoder.pos_embed"]
    torch.testing.assert_close(resized[..., 0], torch.full((1, 5, 5), 2.5))
    assert (resized[0, 1:, :, 1] > resized[0, :-1, :, 1]).all()
    torch.testing.assert_close(resized[..., 1], resized[:, :, :1, 1].expand(1, 5, 5))  # constant along columns


def test_an_image_size_that_is_no_multiple_of_the_patch_is_refused(run, sam_folders):
    with pytest.raises(ValueError, match="expected a positive multiple of the prior encoder's patch size, 8"):
        run(prior=sam_folders["whole"], prior_image_size=60)


def test_a_small_compressed_tokenizer_is_not_read_without_end(tmp_path):
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(40):
            file.write(b"a" * 10**6)
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match="more than 32 million characters"):
        find_tokenizer(str(path))


def test_what_is_no_state_dict_of_anyup_is_refused():
    for weights in (None, [1], "anyup.pth", {1: torch.zeros(2)}, {"a": [0.0]}):
        with pytest.raises(ValueError, match="expected a state dict of tensors by name"):
            convert_anyup(weights)
    with pytest.raises(ValueError, match="b contains NaN or infinity; expected finite values"):
        convert_anyup({"a": torch.zeros(2), "b": torch.tensor([0, torch.nan])})
