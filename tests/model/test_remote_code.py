# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A checkpoint on the Hub where the package is missing: the code that travels with it, with trust and without."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.model.remote_code import remote_files

from hub_clients.steps import TOKEN, outcome, run_client
from minihub import MiniHub

LABELS = "red circle, blue square, yellow triangle"
CODE = set(remote_files())


@pytest.fixture(scope="module")
def image(tmp_path_factory, sample_image):
    path = tmp_path_factory.mktemp("image") / "shapes.png"
    sample_image.save(path)
    return path


@pytest.fixture(scope="module")
def old_checkpoint(tmp_path_factory, tiny_checkpoint, tiny_model):
    """An earlier version: other weights, other code."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("old") / "checkpoint")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
    model.save_pretrained(folder)
    with open(folder / "modeling_dinov3seg.py", "a") as file:
        file.write("\nMARKER = 'old'\n")
    return folder


def put(hub, name, folder):
    """As a commit that replaces everything."""
    repo = hub.repos[f"model {name}"]
    files = {path.name: hub.add_file(path.read_bytes()) for path in folder.iterdir()}
    repo["branches"]["main"] = hub.add_commit(repo, repo["branches"]["main"], files, "Version")
    return repo["branches"]["main"]


@pytest.fixture(scope="module")
def client(tmp_path_factory, tiny_checkpoint, old_checkpoint, image):
    """What somebody without the package met, who came with an empty cache."""
    scratch = tmp_path_factory.mktemp("without")
    with MiniHub(scratch / "hub") as hub:
        hub.create("model", "org/dinov3-seg", False, None)
        old = put(hub, "org/dinov3-seg", old_checkpoint)
        put(hub, "org/dinov3-seg", tiny_checkpoint)
        arguments = ("org/dinov3-seg", old, image, LABELS, scratch / "logits.pt", scratch / "saved")
        outcomes = run_client("without_package.py", hub.endpoint, scratch, *arguments)
        return {**outcomes, "scratch": scratch, "old": old, "requests": hub.requests()}


def test_saved_checkpoint_holds_exactly_the_code_that_it_needs(tiny_checkpoint):
    assert {path.name for path in tiny_checkpoint.glob("*.py")} == CODE
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    targets = [*config["auto_map"].values(), *(task["impl"] for task in config["custom_pipelines"].values())]
    assert {f"{target.partition('.')[0]}.py" for target in targets} <= CODE
    assert list(config["custom_pipelines"]) == ["image-segmentation"]  # the task of the code that the Hub shows


def test_everything_that_a_first_load_needs_is_in_few_files(tiny_checkpoint):
    """Configurations, tokenizer, weights and code: each is a download."""
    assert len(CODE) == 4 and len([path for path in tiny_checkpoint.rglob("*") if path.is_file()]) <= 10


def test_parts_are_saved_with_their_own_code(tiny_processor, tiny_config, tmp_path):
    tiny_processor.image_processor.save_pretrained(tmp_path / "image_processor")
    names = {path.name for path in (tmp_path / "image_processor").glob("*.py")}
    assert names == {"processing_dinov3seg.py", "shared_dinov3seg.py"}
    tiny_config.save_pretrained(tmp_path / "config")
    assert {path.name for path in (tmp_path / "config").glob("*.py")} == CODE  # the model and the pipeline


def test_pipeline_is_saved_whole(tiny_model, tiny_processor, image, tmp_path):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    pipe.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == CODE
    assert (tmp_path / "processor_config.json").is_file()
    assert set(json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]) == {"image-segmentation"}


@pytest.mark.multiprocess
def test_without_trust_transformers_refuses_and_says_how(client):
    refusals = outcome(client, "refuses_without_trust")
    assert len(refusals) == 6
    for name, message in refusals.items():
        assert "trust_remote_code=True" in message and "org/dinov3-seg contains custom code" in message, name


@pytest.mark.multiprocess
def test_first_load_of_everything_downloads_at_most_ten_files(client):
    """Also those that the Hub does not have, of all versions of the repository, are the files of one checkpoint."""
    asked = [request for request in client["requests"] if request["method"] == "GET" and "/resolve/" in request["path"]]
    found = {request["path"].rpartition("/")[2] for request in asked if request["status"] < 400}
    assert CODE < found and len(found) <= 10, found


PROGRESS = re.compile(r"[^:]+: +\d+%\|.*\| \d+\S*/\d+\S* \[.*\]")  # a bar of tqdm
NOTICE = re.compile(  # of transformers, once for each file of code that it asks for; `revision=` silences it
    r"\[transformers\] A new version of the following files was downloaded from \S+:\n((?:- \w+\.py\n)+)"
    r"\. Make sure to double-check they do not contain any added malicious code\..* you can pin a revision\.\n"
)


def noise(stderr):
    """What somebody reads beside progress."""
    lines = [line.strip() for line in re.split(r"[\r\n]", stderr)]
    return [line for line in lines if line and not PROGRESS.fullmatch(line)]


@pytest.mark.multiprocess
@pytest.mark.parametrize("origin", ["folder", "revision", "branch"])
def test_first_load_says_nothing_but_progress(origin, tiny_checkpoint, image, tmp_path):
    """In a fresh process with empty caches. Without a revision, transformers names the code that it downloaded."""
    with MiniHub(tmp_path / "hub") as hub:
        hub.create("model", "org/dinov3-seg", False, None)
        commit = put(hub, "org/dinov3-seg", tiny_checkpoint)
        name = tiny_checkpoint if origin == "folder" else "org/dinov3-seg"
        arguments = (name, commit if origin == "revision" else "", image, LABELS)
        loaded = run_client("first_load.py", hub.endpoint, tmp_path, *arguments)
    assert outcome(loaded, "first_load") == LABELS.split(", ")
    stderr = loaded["stderr"]
    assert "Loading weights" in stderr  # the bars are on stderr, and so would be all else
    if origin == "branch":
        named = [name for notice in NOTICE.findall(stderr) for name in re.findall(r"\w+\.py", notice)]
        assert set(named) == CODE and len(NOTICE.findall(stderr)) == len(CODE)
        stderr = NOTICE.sub("", stderr)
    assert noise(stderr) == []


@pytest.mark.multiprocess
def test_with_trust_every_class_loads_by_name(client):
    assert {name: kind for name, (kind, _) in outcome(client, "loads_with_trust").items()} == {
        "AutoConfig": "Dinov3SegConfig",
        "AutoModel": "Dinov3SegForSemanticSegmentation",
        "AutoModelForSemanticSegmentation": "Dinov3SegForSemanticSegmentation",
        "AutoImageProcessor": "Dinov3SegImageProcessorPil",
        "AutoProcessor": "Dinov3SegProcessor",
    }
    modules = {module for _, module in outcome(client, "loads_with_trust").values()}
    assert all(module.startswith("transformers_modules.org.dinov3_hyphen_seg.") for module in modules)


@pytest.mark.multiprocess
def test_logits_are_bit_for_bit_those_of_the_package(client, tiny_model, tiny_processor, image, old_checkpoint):
    outcome(client, "logits")
    found = torch.load(client["scratch"] / "logits.pt", weights_only=True)
    inputs = tiny_processor(images=str(image), text=LABELS.split(", "), do_windows=True)
    for version, model in {"main": tiny_model, "old": AutoModel.from_pretrained(old_checkpoint).eval()}.items():
        with torch.no_grad():
            assert torch.equal(found[version], model(**inputs).logits), version  # as many threads as the client has
    assert (found["main"] - found["old"]).abs().max() > 1e-3


@pytest.mark.multiprocess
def test_revision_pins_code_and_weights_together(client):
    pinned = outcome(client, "revision_pins_the_code")
    assert pinned["marker"] == "old" and client["old"] in pinned["module"]
    modules = {module for _, module in outcome(client, "loads_with_trust").values()}
    assert not [module for module in modules if client["old"] in module]


@pytest.mark.multiprocess
def test_pipeline_travels_with_the_checkpoint(client, tiny_model, tiny_processor, image):
    traveled = outcome(client, "pipeline_travels")
    assert traveled["classes"] == ["OpenVocabularySegmentationPipeline"] * 5
    assert traveled["without_labels"] == "no default vocabulary"
    assert traveled["module"].endswith(".modeling_dinov3seg") and traveled["module"].startswith("transformers_modules.")
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    expected = pipe(str(image), LABELS, return_label_map=True, inference="whole")["label_map"]
    np.testing.assert_array_equal(traveled["label_map"], expected)
    np.testing.assert_array_equal(traveled["from_saved_words"], expected)


@pytest.mark.multiprocess
def test_what_was_loaded_from_the_hub_is_saved_with_its_code(client):
    assert outcome(client, "what_was_loaded_is_saved_with_its_code") == "Dinov3SegForSemanticSegmentation"
    assert {path.name for path in (client["scratch"] / "saved").glob("*.py")} == CODE


@pytest.mark.multiprocess
def test_no_other_code_was_fetched_and_no_token_shown(client):
    assert set(outcome(client, "imported")) == CODE
    assert TOKEN not in client["output"]
    written = (path for path in (client["scratch"]).rglob("*") if path.is_file())
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_a_json_file_of_another_name_brings_no_code_along(tiny_model, tiny_processor, tmp_path):
    tiny_model.config.to_json_file(tmp_path / "notes.json")
    tiny_processor.image_processor.to_json_file(tmp_path / "pixels.json")
    tiny_processor.to_json_file(tmp_path / "words.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.json", "pixels.json", "words.json"]
    tiny_model.config.to_json_file(tmp_path / "config.json")
    assert (tmp_path / "modeling_dinov3seg.py").exists()
