# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Every way to name a checkpoint, and what is said of names that are none."""

import json
import shutil
import ssl
import warnings
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError

from dinov3seg_hf import TINY, Dinov3SegConfig, Dinov3SegForSemanticSegmentation, hub_connection
from dinov3seg_hf.about import EMBEDDED, EMBEDDED_TITLE
from dinov3seg_hf.checkpoint_names import is_embedded, is_hub_id, resolve_checkpoint, title_of
from dinov3seg_hf.loading import license_files, load_model, load_pipeline, load_processor, load_starting_point
from dinov3seg_hf.model.checks import TokenizerWarning
from dinov3seg_hf.training.config import SWITCHES

PAPER = ("use_text_threshold", "use_correlation_residual")


def test_the_embedded_checkpoint_has_a_name():
    assert resolve_checkpoint(EMBEDDED) == TINY
    assert is_embedded(EMBEDDED) and is_embedded(TINY) and not is_embedded("org/model")
    assert title_of(EMBEDDED) == title_of(TINY) == EMBEDDED_TITLE and title_of("org/model") == "org/model"


@pytest.fixture
def refining(tmp_path, tiny_checkpoint):
    """A folder whose zero-shot head uses refined features, like a conversion with AnyUp."""
    model = load_model(str(tiny_checkpoint))
    model.config.refine_features, model.config.head, model.config.head_trained = True, "dinotxt", False
    model.save_pretrained(tmp_path / "refining")
    load_processor(str(tiny_checkpoint)).save_pretrained(tmp_path / "refining")
    return tmp_path / "refining"


def test_a_fresh_head_keeps_an_early_refinement_that_the_zero_shot_head_uses(refining, tiny_checkpoint):
    source = load_model(str(refining)).state_dict()
    model, _ = load_starting_point(str(refining), "fresh")
    assert model.config.refine_features
    kept = [key for key, value in model.state_dict().items() if torch.equal(value, source[key])]
    assert [key for key in source if key.startswith("early_refinement.") and key not in kept] == []
    assert any(key.startswith("decoder.") and key not in kept for key in source)
    fresh, _ = load_starting_point(str(tiny_checkpoint), "fresh")
    assert not torch.equal(fresh.early_refinement.query.weight, source["early_refinement.query.weight"])


@pytest.mark.parametrize("head", ["keep", "fresh"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_every_contribution_can_be_ablated_and_the_rest_saved(refining, tmp_path, head, switch):
    model, _ = load_starting_point(str(refining), head, [switch])
    model.save_pretrained(tmp_path / "ablated")
    config = load_model(str(tmp_path / "ablated")).config
    assert getattr(config, switch) is False and (config.head, config.head_trained) == ("full", True)


def test_a_fresh_head_can_have_other_sizes(tiny_checkpoint):
    overrides = ["early_refinement_scale=2", "decoder_hidden_sizes=[16, 8]"]
    model, _ = load_starting_point(str(tiny_checkpoint), "fresh", overrides=overrides)
    assert (model.config.early_refinement_scale, list(model.config.decoder_hidden_sizes)) == (2, [16, 8])
    assert model.early_refinement.scale == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("early_refinment_scale=2", r"Did you mean early_refinement_scale\?"),
        ("vision_head_num_layers=1", "expected name=value with one of"),
        ("late_num_layers", "expected name=value with one of"),
        ("late_num_layers=two", "'late_num_layers=two'.*expected int, got str"),
        ("late_num_layers=[", "Correct the value"),
        ("early_hidden_size=33", "early_hidden_size is 33; expected a multiple"),
    ],
)
def test_an_override_that_is_no_value_of_the_head_is_refused(tiny_checkpoint, override, message):
    with pytest.raises(ValueError, match=message):
        load_starting_point(str(tiny_checkpoint), "fresh", overrides=[override])


def test_the_additions_that_are_not_of_the_paper_can_be_missing_when_a_half_is_ablated(
    tmp_path, tiny_model, tiny_processor
):
    config = Dinov3SegConfig.paper(**{k: v for k, v in tiny_model.config.to_dict().items() if k not in PAPER})
    Dinov3SegForSemanticSegmentation(config).save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    model, _ = load_starting_point(str(tmp_path), "keep", ["use_global_text"])
    assert model.correlation_embedding.convolution.weight.shape[1] == 1


def test_a_hub_id_is_not_looked_up():
    assert resolve_checkpoint("org/dinov3-seg") == "org/dinov3-seg"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("org/model", True), ("model", False), ("a/b/c", False), ("./here", False), ("org/has space", False), ("", False)],
)
def test_hub_ids_are_owner_and_name(name, is_one):
    assert is_hub_id(name) == is_one


@pytest.mark.parametrize("name", ["no/such/folder", "typo", "../up", "a b/c"])
def test_a_name_that_can_be_nothing_is_refused_without_the_network(name):
    with pytest.raises(ValueError, match=r"Checkpoint folder .* was not found.*Check the path"):
        resolve_checkpoint(name)


def test_a_run_stands_for_its_model(tmp_path, tiny_checkpoint):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="not finished"):
        resolve_checkpoint(run)
    shutil.copytree(tiny_checkpoint, run / "model")
    assert resolve_checkpoint(run) == str(run / "model")
    assert load_pipeline(run).model.config.model_type == "dinov3seg"


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config.json was not found in the folder"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="architecture is 'bert'; expected 'dinov3seg'"):
        load_model(tmp_path)


def test_a_model_without_all_of_its_tensors_is_refused(tmp_path, tiny_model, tiny_checkpoint):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "folder")
    state = {key: value for key, value in tiny_model.state_dict().items() if not key.startswith("decoder.")}
    tiny_model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ValueError, match=r"lack \d+ of the model's tensors, for example decoder"):
        load_model(folder)
    load_model(folder, required=("vision_model.",))


def test_a_processor_without_a_tokenizer_is_refused(tmp_path, tiny_checkpoint):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "folder")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"tokenizer|cannot be loaded"):
        load_processor(folder)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tokenizer.json", "", "tokenizer.json is damaged"),
        ("tokenizer.json", '{"model": 3}', "tokenizer.json is damaged"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is damaged"),
        ("tokenizer.json", None, "tokenizer.json is missing"),  # transformers makes one without words
    ],
)
def test_a_damaged_tokenizer_is_told_when_the_pipeline_is_loaded(tmp_path, tiny_checkpoint, file, content, reason):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "folder")
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.warns(TokenizerWarning, match=rf"folder' cannot be read \({reason}.* text embeddings, .*--tokenizer\."):
        pipe = load_pipeline(folder, "cpu")
    with pytest.raises(ValueError, match="tokenizer cannot be read; labels need a tokenizer"):
        pipe.encode_labels(["red circle"])
    with pytest.raises(ValueError, match=r"tokenizer|cannot be loaded"):
        load_processor(folder)


def test_a_whole_tokenizer_and_none_are_no_reason_to_warn(tmp_path, tiny_checkpoint):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "folder")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TokenizerWarning)
        assert load_pipeline(folder, "cpu").processor is not None
        for path in folder.glob("*token*"):
            path.unlink()
        assert load_pipeline(folder, "cpu").processor is None


def test_all_parts_of_a_checkpoint_are_those_of_the_folder(tiny_checkpoint, tiny_model):
    model = load_model(tiny_checkpoint)
    for name, parameter in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], parameter), name
    assert load_processor(tiny_checkpoint).tokenizer is not None


def test_a_fresh_head_keeps_the_encoders_and_depends_on_its_seed_alone(tiny_checkpoint):
    source = load_model(tiny_checkpoint, torch.float32).state_dict()
    torch.manual_seed(123)
    one, _ = load_starting_point(tiny_checkpoint, head="fresh", seed=1)
    torch.manual_seed(456)
    same, _ = load_starting_point(tiny_checkpoint, head="fresh", seed=1)
    other, _ = load_starting_point(tiny_checkpoint, head="fresh", seed=2)
    for name, parameter in one.state_dict().items():
        assert torch.equal(parameter, same.state_dict()[name]), name
        if name.startswith(("vision_model.", "text_model.")):
            assert torch.equal(parameter, source[name]), name
    weight = "late_refinement.class_layers.0.mlp.up.weight"
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], source[weight])


# --- without a connection ---------------------------------------------------------------------------------------------


@pytest.fixture
def unreachable(monkeypatch):
    """No connection, though the environment does not say so; returns the repositories that the Hub was asked for."""
    asked = []

    def model_info(self, name, **_):
        asked.append(name)
        raise ConnectionError("Network is unreachable")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", model_info)
    for place in ("transformers.AutoConfig", "transformers.AutoProcessor"):
        monkeypatch.setattr(f"{place}.from_pretrained", only_folders(getattr(transformers, place.split(".")[1])))
    return asked


def only_folders(auto_class):
    from_pretrained = auto_class.from_pretrained

    def load(name, *args, **kwargs):
        assert Path(name).is_dir(), "asks for each file for 23 seconds"
        return from_pretrained(name, *args, **kwargs)

    return load


@pytest.mark.parametrize("load", [load_model, load_pipeline, load_processor, load_starting_point])
def test_without_a_connection_the_hub_is_asked_once(unreachable, load):
    with pytest.raises(
        ValueError, match=r"'me/model' cannot be loaded: .*no connection .*Network is unreachable\)\. Check the name"
    ):
        load("me/model")
    assert unreachable == ["me/model"]
    assert license_files("me/model") == [] and unreachable == ["me/model"] * 2


def test_with_hf_hub_offline_the_error_says_so():
    with pytest.raises(ValueError, match=r"'me/model' cannot be loaded: .* HF_HUB_OFFLINE forbids.*or unset HF_HUB"):
        load_pipeline("me/model")


def test_without_a_connection_an_earlier_download_is_used(unreachable, monkeypatch, tmp_path, tiny_checkpoint):
    repository = tmp_path / "models--me--model"
    shutil.copytree(tiny_checkpoint, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    snapshot = hub_connection.snapshot_download
    monkeypatch.setattr(hub_connection, "snapshot_download", lambda *a, **k: snapshot(*a, **k, cache_dir=tmp_path))
    assert load_pipeline("me/model").model.config.model_type == "dinov3seg"
    assert load_processor("me/model").tokenizer is not None
    assert unreachable == ["me/model"] * 2


@pytest.mark.parametrize("offline", [True, False])
def test_a_download_without_the_files_that_nobody_loads_is_one(unreachable, monkeypatch, tmp_path, offline):
    """Libraries download the files that they load, and huggingface_hub 2 knows which files a repository has."""

    class SomeFilesError(LocalEntryNotFoundError):
        snapshot_path = str(tmp_path)

    def snapshot_download(name, **_):
        raise SomeFilesError("1 file(s) are missing (training.log)")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(hub_connection, "snapshot_download", snapshot_download)
    assert hub_connection.at_hand("me/model") == ("me/model" if offline else str(tmp_path))


@pytest.mark.parametrize("error", [KeyError("id"), ValueError("no JSON"), TypeError("NoneType")])
def test_a_mirror_that_knows_only_files_is_a_connection(monkeypatch, error):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", Mock(side_effect=error))
    assert hub_connection.at_hand("me/model") == "me/model"


def test_a_certificate_that_nobody_trusts_is_no_connection(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    error = ssl.SSLCertVerificationError("self-signed certificate")  # a ValueError, too
    monkeypatch.setattr(HfApi, "model_info", Mock(side_effect=error))
    with pytest.raises(ValueError, match=r"no connection to the Hub \(.*self-signed certificate"):
        hub_connection.at_hand("me/model")


@pytest.mark.parametrize("name", ["~/weights/dinov3", "a/b/c"])
def test_what_is_no_name_of_a_repository_is_left_to_the_library(name):
    assert hub_connection.at_hand(name) == name
