# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""By name from the Hub, with the package: models, processors, pipelines and data sets, pushed and loaded again."""

import pytest

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.model.remote_code import remote_files

from hub_clients.steps import TOKEN, outcome, run_client
from minihub import MiniHub

LABELS = "red circle, blue square, yellow triangle"

# all of them look at what one client, a process of its own, has met
pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def image(tmp_path_factory, sample_image):
    path = tmp_path_factory.mktemp("image") / "shapes.png"
    sample_image.save(path)
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory, tiny_checkpoint, image):
    """What somebody with the package met, who came with an empty cache."""
    scratch = tmp_path_factory.mktemp("with")
    with MiniHub(scratch / "hub") as hub:
        arguments = (tiny_checkpoint, "org/dinov3-seg", "org/shapes", image, LABELS)
        outcomes = run_client("with_package.py", hub.endpoint, scratch, *arguments)
        return {**outcomes, "scratch": scratch, "requests": hub.requests(), "repos": hub.repos}


def titles(client, repo):
    return [commit["title"] for commit in client["repos"][repo]["commits"].values()]


def test_model_and_processor_are_pushed_with_their_code(client):
    files = outcome(client, "pushes_model_and_processor")
    assert {name for name in files if name.endswith(".py")} == set(remote_files())
    weights = {name for name in files if name.endswith(".safetensors")}
    assert len(weights) > 1 and "model.safetensors.index.json" in files
    assert {"config.json", "processor_config.json", "tokenizer.json", "README.md"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert len(titles(client, "model org/dinov3-seg")) == 3  # the Hub's own, the model, the processor


def test_saving_and_pushing_at_once_pushes_the_code_too(client):
    files = outcome(client, "saves_and_pushes_at_once")
    assert {"processing_dinov3seg.py", "shared_dinov3seg.py", "processor_config.json"} <= set(files)


def test_every_class_loads_by_name(client):
    package = "dinov3seg_hf.model."
    assert outcome(client, "loads_by_name") == {
        "AutoConfig": f"{package}configuration_dinov3seg.Dinov3SegConfig",
        "AutoModel": f"{package}modeling_dinov3seg.Dinov3SegForSemanticSegmentation",
        "AutoModelForSemanticSegmentation": f"{package}modeling_dinov3seg.Dinov3SegForSemanticSegmentation",
        "AutoImageProcessor": f"{package}image_processing_pil_dinov3seg.Dinov3SegImageProcessorPil",
        "AutoProcessor": f"{package}processing_dinov3seg.Dinov3SegProcessor",
        "pil": f"{package}image_processing_pil_dinov3seg.Dinov3SegImageProcessorPil",
        "pipeline": f"{package}pipeline.OpenVocabularySegmentationPipeline",
    }
    assert outcome(client, "loads_in_the_torchvision_backend") in ("no torchvision", "Dinov3SegImageProcessor")


def test_pipeline_by_name_gives_what_the_checkpoint_gives(client, tiny_model, tiny_processor, image):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    expected = pipe(str(image), LABELS, return_label_map=True, inference="whole")["label_map"]
    assert outcome(client, "pipeline_by_name") == expected.tolist()


def test_command_takes_a_name(client):
    done = outcome(client, "command_by_name")
    assert done["code"] == 0 and done["labels"] == LABELS.split(", ") and "score" in done["table"]


def test_full_disk_in_the_cache_is_told_and_passes(client):
    told = outcome(client, "full_disk_in_the_cache")
    assert told["code"] == 2 and told["again"] == 0
    assert "No space left on device" in told["message"] and "HF_HOME" in told["message"]
    assert len(told["message"].strip().splitlines()) == 1


def test_data_set_of_images_and_masks_evaluates_and_trains_by_name(client):
    assert any(name.endswith(".parquet") for name in outcome(client, "pushes_a_data_set"))
    evaluated = outcome(client, "evaluates_by_name")
    assert evaluated["num_images"] == 4 and 0 <= evaluated["mean_iou"] <= 1
    assert outcome(client, "trains_by_name") == {"step": 2, "finished": True, "moved": True}


def test_code_in_the_repository_is_not_run_where_the_package_is(client):
    assert not list((client["scratch"] / "home").rglob("transformers_modules/**/*.py"))
    asked = [request["path"] for request in client["requests"] if request["path"].startswith("/org/")]
    assert asked and not [path for path in asked if path.endswith(".py")]


def test_token_leaves_no_trace(client):
    assert TOKEN not in client["output"]
    assert not [request for request in client["requests"] if request["origin"] == "cdn" and request["auth"]]
    written = (path for path in client["scratch"].rglob("*") if path.is_file())
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
