# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Publishing: what the folders hold, that each goes up in one commit, what is said and left when something fails."""

import copy
import errno
import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from PIL import ExifTags, Image

from dinov3seg_hf import OpenVocabularySegmentationPipeline, Vocabulary
from dinov3seg_hf.cli import publish as command
from dinov3seg_hf.demo.examples import examples_in
from dinov3seg_hf.hub import model_folder
from dinov3seg_hf.hub import upload as hub_upload
from dinov3seg_hf.hub.example import Example
from dinov3seg_hf.hub.model_card import AuthorsNotes, read_results
from dinov3seg_hf.hub.model_folder import build_model_folder, with_license
from dinov3seg_hf.hub.publish import publish
from dinov3seg_hf.hub.space import build_space_folder
from dinov3seg_hf.hub.upload import PublishingError, check_access, upload_folder
from dinov3seg_hf.model.remote_code import remote_files

from minihub import MiniHub
from places import REPO

TOKEN = "hf_SecretOfTheTests"
LABELS = "red circle, blue square, yellow triangle, green background"


@pytest.fixture
def online(monkeypatch):
    """Lets the Hub's client out again, to loopback addresses, with no token of this machine and no patience."""
    for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_TOKEN_PATH": "/nowhere"}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def hub(online, tmp_path):
    with MiniHub(tmp_path / "hub", namespaces=["mini", "org"]) as hub:
        yield hub
        cdn = [request for request in hub.requests() if request["origin"] == "cdn"]
        assert not [request for request in cdn if request["auth"]], "the token left the Hub"


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


@pytest.fixture
def folder(tmp_path):
    """As the folder of a model, but small: a card, code, and weights that travel as LFS."""
    folder = tmp_path / "folder"
    (folder / "examples").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "config.json").write_text("{}")
    (folder / "modeling.py").write_text("weights = 1\n")
    (folder / "examples" / "a.png").write_bytes(b"\x89PNG\0" + bytes(100))
    (folder / "model-00001-of-00002.safetensors").write_bytes(np.random.default_rng(0).bytes(200_000))
    (folder / "model-00002-of-00002.safetensors").write_bytes(np.random.default_rng(1).bytes(100_000))
    return folder


def commits(api, repo_id="org/model", **options):
    """Titles, without the one with which the Hub begins a repository."""
    return [commit.title for commit in api.list_repo_commits(repo_id, **options)][:-1]


def files_of(api, repo_id="org/model", **options):
    return {name for name in api.list_repo_files(repo_id, **options) if name != ".gitattributes"}


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- one commit -------------------------------------------------------------------------------------------------------


def test_folder_arrives_in_one_commit(hub, api, folder):
    upload = upload_folder(folder, "org/model", api=api, message="First")
    assert commits(api) == ["First"] and files_of(api) == names_in(folder)
    assert upload.changed and upload.commit == api.repo_info("org/model").sha
    assert upload.files["model-00001-of-00002.safetensors"] == 200_000
    assert len(hub.requests("^POST .*/commit/")) == 1


def test_the_same_again_commits_and_sends_nothing(hub, api, folder):
    first = upload_folder(folder, "org/model", api=api)
    hub.requests(clear=True)
    again = upload_folder(folder, "org/model", api=api)
    assert not again.changed and again.commit == first.commit
    assert not hub.requests("^PUT /_lfs/|/commit/|/preupload/")


def test_a_change_sends_what_changed_and_removes_what_is_stale(hub, api, folder):
    upload_folder(folder, "org/model", api=api)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="org/model")
    hub.requests(clear=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(bytes(1000))
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "modeling.py"):
        (folder / name).unlink()
    assert upload_folder(folder, "org/model", api=api).changed
    assert files_of(api) == names_in(folder) | {"notes.txt"}  # what others put there stays
    assert len(hub.requests("^PUT /_lfs/")) == 1 and len(hub.requests("/commit/")) == 1


def test_weights_and_code_that_others_put_into_folders_of_their_own_stay(hub, api, folder):
    upload_folder(folder, "org/model", api=api)
    theirs = ("onnx/model.safetensors", "scripts/deep/run.py")
    for name in theirs:
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo=name, repo_id="org/model")
    (folder / "package" / "old").mkdir(parents=True)
    for name in ("a.py", "old/b.py"):
        (folder / "package" / name).write_text("1")
    assert upload_folder(folder, "org/model", api=api).removed == ()
    (folder / "package" / "old" / "b.py").unlink()
    (folder / "modeling.py").unlink()
    upload = upload_folder(folder, "org/model", api=api)
    assert upload.removed == ("modeling.py", "package/old/b.py")
    assert files_of(api) == names_in(folder) | set(theirs)
    assert "removed there: modeling.py, package/old/b.py" in command._describe(upload)


def test_space_is_one_of_gradio(hub, api, folder):
    upload_folder(folder, "org/demo", repo_type="space", api=api)
    assert api.repo_info("org/demo", repo_type="space").sdk == "gradio"
    assert commits(api, "org/demo", repo_type="space") == ["Upload with dinov3seg_hf"]


def test_private_is_seen_by_its_owners_alone_and_never_made_of_what_is_public(hub, api, folder):
    upload_folder(folder, "org/model", private=True, api=api)
    assert api.repo_info("org/model").private
    upload_folder(folder, "org/open", api=api)
    (folder / "secret.txt").write_text("x")
    with pytest.raises(PublishingError, match="org/open already exists on the Hub and is public"):
        upload_folder(folder, "org/open", private=True, api=api)
    assert "secret.txt" not in files_of(api, "org/open")


# --- trouble ----------------------------------------------------------------------------------------------------------

COMMIT, LFS = r"^POST .*/commit/", r"^PUT /_lfs/"
# what happens once, and passes: (where, what, how)
PASSING = {
    "connection lost before the commit": (COMMIT, "drop", {}),
    "connection lost in the middle of the commit": (COMMIT, "drop", {"after_bytes": 100}),
    "connection lost in the middle of a weight": (LFS, "drop", {"after_bytes": 50}),
    "reply to the commit lost": (COMMIT, "lose_reply", {}),
    "reply to the making of the repository lost": (r"^POST /api/repos/create", "lose_reply", {}),
    "429 at the commit": (COMMIT, "status", {"status": 429, "headers": {"Retry-After": "7"}}),
    "429 at the first request": ("", "status", {"status": 429, "headers": {"Retry-After": "7"}}),
    "503 at an LFS part": (LFS, "status", {"status": 503}),
    "500 at the LFS batch": (r"/lfs/objects/batch", "status", {"status": 500}),
    "503 at the commit": (COMMIT, "status", {"status": 503}),
    "somebody else's commit": (COMMIT, "status", {"status": 412}),
}
# what does not pass: (where, what, how, what is said)
LASTING = {
    "no connection": ("", "drop", {}, "connection to the Hub was lost.*Run the same command again"),
    "connection lost at every commit": (COMMIT, "drop", {}, "connection to the Hub was lost"),
    "503 at every LFS part": (LFS, "status", {"status": 503}, r"Hub failed \(error 503\).*Run the same command again"),
    "500 at every commit": (COMMIT, "status", {"status": 500}, r"The Hub failed \(error 500\)"),
    "429 for an hour": (
        COMMIT,
        "status",
        {"status": 429, "headers": {"Retry-After": "3600"}},
        r"\(429\).*Run the same command again in 3600 seconds",
    ),
    "403 at the commit": (COMMIT, "status", {"status": 403}, "The token cannot write to org/model.*HF_TOKEN"),
    "400 at the commit": (COMMIT, "status", {"status": 400}, r"rejected the files \(error 400: injected fault 400\)"),
}


@pytest.mark.parametrize("trouble", PASSING)
def test_trouble_that_passes_is_waited_for_and_makes_one_commit(hub, api, folder, online, trouble):
    where, what, how = PASSING[trouble]
    hub.fault(where, what, **how)
    upload = upload_folder(folder, "org/model", api=api, message="First")
    assert not any(fault["times"] for fault in hub.faults), "the fault was not met"
    assert upload.changed and upload.commit == api.repo_info("org/model").sha
    assert commits(api) == ["First"] and files_of(api) == names_in(folder)
    if how.get("status") == 429:
        assert max(online) >= 7  # as long as the Hub asked for


@pytest.mark.parametrize("trouble", LASTING)
def test_lasting_trouble_is_told_leaves_main_alone_and_a_second_run_finishes(hub, api, folder, trouble, caplog, capfd):
    where, what, how, message = LASTING[trouble]
    hub.fault(where, what, times=1000, **how)
    with caplog.at_level(logging.DEBUG), pytest.raises(PublishingError, match=message) as raised:
        upload_folder(folder, "org/model", api=api)
    hub.faults.clear()
    if api.repo_exists("org/model"):
        assert commits(api) == [] and files_of(api) == set()
    said = "".join(traceback.format_exception(raised.value)) + caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in said and "main is unchanged" in said and hub.secret not in str(raised.value)

    num_arrived = len(hub.requests(LFS + "(?!.*fault)"))
    upload_folder(folder, "org/model", api=api, message="Second")
    assert commits(api) == ["Second"] and files_of(api) == names_in(folder)
    if where == COMMIT:  # the weights had arrived and are not sent again
        assert len(hub.requests(LFS)) == num_arrived == 3


def test_without_a_token_nothing_is_tried(hub, folder):
    with pytest.raises(PublishingError, match=r"token .* was not found. Log in with `hf auth login`, or set HF_TOKEN"):
        check_access("org/model", HfApi(endpoint=hub.endpoint))
    with pytest.raises(PublishingError, match="HF_TOKEN"):
        upload_folder(folder, "org/model", api=HfApi(endpoint=hub.endpoint))


@pytest.mark.parametrize(
    "token, message", [("invalid_x", "rejected the token"), ("readonly_x", "token of mini is read-only")]
)
def test_bad_token_is_told_before_any_work_and_at_the_upload(hub, folder, token, message):
    api = HfApi(endpoint=hub.endpoint, token=token)
    with pytest.raises(PublishingError, match=message):
        check_access("org/model", api)
    with pytest.raises(PublishingError, match="HF_TOKEN") as raised:
        upload_folder(folder, "org/model", api=api)
    assert token not in "".join(traceback.format_exception(raised.value))
    assert not hub.repos


@pytest.mark.parametrize("exists", [False, True])
def test_name_of_somebody_else_is_refused(hub, api, folder, exists):
    if exists:
        hub.create("model", "other/model", False, None)
    with pytest.raises(PublishingError, match=r"The token cannot write to other/model on the Hub. Choose a name under"):
        upload_folder(folder, "other/model", api=api)
    assert not exists or commits(api, "other/model") == []


@pytest.mark.parametrize("name", ["model", "a/b/c", "org/mo del", ""])
def test_name_that_is_none_is_refused(api, name):
    with pytest.raises(PublishingError, match="Expected owner/name"):
        check_access(name, api)


def test_offline_mode_is_named(hub, api, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishingError, match="HF_HUB_OFFLINE is set"):
        upload_folder(folder, "org/model", api=api)


def test_card_that_the_hub_refuses_publishes_nothing(hub, api, folder):
    (folder / "README.md").write_text("---\nlicense: Not A License\n---\n")
    with pytest.raises(PublishingError, match="license"):
        upload_folder(folder, "org/model", api=api)
    assert commits(api) == []


def test_message_of_the_hub_is_shown_without_what_gives_access(api):
    text = f"no {TOKEN} and hf_another at https://bucket/x?Signature=1 please"
    assert hub_upload._without_secrets(text, api) == "no *** and *** at (address) please"


# --- the folders ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory, sample_image):
    path = tmp_path_factory.mktemp("example") / "shapes.png"
    sample_image.save(path)
    return Example(path, LABELS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_checkpoint):
    """With notes of its authors and without code, as a folder that was saved before there was any."""
    folder = tmp_path_factory.mktemp("authors") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder, ignore=shutil.ignore_patterns("*.py"))
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\ndatasets:\n- org/shapes\nbase_model: org/base\nmodel-index:\n- name: forged\n"
        "  results: []\n---\n# Shapes\n\nKnows [shapes](../shapes.py).\n\n## Scores\n\n99.9 by hand\n\n"
        "## Training\n\nFor an hour.\n\n## Limits\n\n- Shapes only.\n"
    )
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A stand-in with the files that a Space has."""
    folder = tmp_path_factory.mktemp("repository") / "demo"
    folder.mkdir()
    show = 'print(*(os.environ[f"DINOV3SEG_{name}"] for name in ("MODEL", "EXAMPLES")))'
    (folder / "app.py").write_text(f'"""The page."""\n\nimport os\n\n{show}\n')
    (folder / "requirements.txt").write_text("# of the page\ndinov3seg_hf[demo]==0.1.0\n")
    (folder / "README.md").write_text("---\ntitle: Words\nemoji: 🎨\nsdk: gradio\nsdk_version: 1.0\n---\nTry it.\n")
    return folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, tiny_model):
    """As `scripts/evaluate.py` writes it for the model of the tests."""
    from dinov3seg_hf.evaluation.evaluator import weights_fingerprint

    content = {
        "version": 1,
        "scores": {"mean_iou": 0.12345, "mean_iou_low": 0.1, "mean_iou_high": 0.2, "overall_accuracy": 0.5},
        "num_images": 2000,
        "protocol": {"inference": {"inference": "local-global"}},
        "protocol_fingerprint": "f" * 64,
        "model": {"fingerprint": weights_fingerprint(tiny_model)},
        "benchmark": "A-150",
    }
    path = tmp_path_factory.mktemp("evaluation") / "results.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory, checkpoint, demo, example, evaluation):
    """A dry run: everything is built, and checked in a process of its own."""
    return publish(
        checkpoint,
        "org/dinov3-seg",
        tmp_path_factory.mktemp("built") / "output",
        card_template=REPO / "model_card.md",
        example=example,
        space_id="org/demo",
        demo=demo,
        constraints=REPO / "constraints.txt",
        results=[evaluation],
        dry_run=True,
        max_shard_size="100KB",
        code_license=REPO / "LICENSE",
    )


@pytest.mark.multiprocess
def test_model_folder_holds_weights_processor_code_card_and_example(built):
    names = names_in(built.model_folder)
    code = set(remote_files())
    shards = {name for name in names if name.endswith(".safetensors")}
    assert len(shards) > 1
    assert names - code - shards == {
        "LICENSE",
        "README.md",
        "config.json",
        "examples/overlay-shapes.png",
        "examples/shapes.png",
        "model.safetensors.index.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((built.model_folder / "config.json").read_text())
    processor = json.loads((built.model_folder / "processor_config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForSemanticSegmentation"}
    assert set(processor["auto_map"]) == {"AutoProcessor"}
    assert set(processor["image_processor"]["auto_map"]["AutoImageProcessor"]) == {"pil", "torchvision"}


@pytest.mark.multiprocess
def test_card_is_valid_and_its_scores_are_those_measured(built):
    card = ModelCard.load(built.model_folder / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-segmentation" and "open-vocabulary-segmentation" in card.data.tags
    assert card.data.datasets == ["org/shapes"] and card.data.base_model == "org/base"
    assert card.data.metrics == ["mean_iou", "accuracy"] and card.data.model_name == "dinov3-seg"
    assert card.data.language == "en"
    (widget,) = card.data.to_dict()["widget"]
    assert widget["src"] == "https://huggingface.co/org/dinov3-seg/resolve/main/examples/shapes.png"
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "mean_iou": 12.35,
        "accuracy": 50.0,
    }
    assert results["mean_iou"].dataset_type == "zhoubolei/scene_parse_150"
    assert results["accuracy"].metric_name == "pixel accuracy"
    assert results["mean_iou"].dataset_name == "A-150" and results["mean_iou"].metric_args == {"protocol": "f" * 64}
    assert "| A-150 | 2,000 | 12.35 (10.00 to 20.00) | 50.00 | local-global | `ffffffffffff` |" in card.text
    for said in ("Knows shapes.", "For an hour.", "- Shapes only.", "fingerprint of the weights; it is that"):
        assert said in card.text
    assert "99.9" not in card.text and "forged" not in card.content  # scores are not typed by hand


@pytest.mark.multiprocess
def test_card_shows_how_to_use_this_model_and_nothing_that_is_not_there(built):
    text = (built.model_folder / "README.md").read_text()
    for heading in ("Use", "Results", "Training", "Limits and risks", "Licenses", "Citation"):
        assert f"\n## {heading}\n" in text
    assert 'pipeline("open-vocabulary-segmentation", "org/dinov3-seg")' in text
    assert 'pipeline("image-segmentation", "org/dinov3-seg", trust_remote_code=True)' in text
    assert "photo.jpg" not in text.partition("On the command line")[0]
    (install,) = re.findall(r"^pip install (.+)$", text, flags=re.MULTILINE)
    needed = re.search(r"^dependencies = \[(.+?)^\]", (REPO / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert set(shlex.split(install)) < set(re.findall(r'"(.+?)"', needed[1]))  # the others come with transformers
    assert "https://huggingface.co/org/dinov3-seg/resolve/main/examples/shapes.png" in text
    config = json.loads((built.model_folder / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS.split(", ")  # the checkpoint has no vocabulary of its own
    assert "https://huggingface.co/spaces/org/demo" in text and "{{" not in text and "{%" not in text
    assert (built.model_folder / "examples" / "overlay-shapes.png").is_file() and "SAM" not in text


@pytest.mark.multiprocess
def test_space_is_pinned_runs_from_the_model_and_brings_the_package(built):
    folder = built.space_folder
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in requirements) and not any("dinov3seg" in line for line in requirements)
    pins = dict(line.split("==") for line in requirements)
    assert pins["gradio"] == "6.31.0" and {"torch", "transformers", "pillow"} <= set(pins)
    text = (folder / "README.md").read_text()
    data = yaml.safe_load(text.split("---\n")[1])
    assert data["sdk"] == "gradio" and data["sdk_version"] == pins["gradio"] and data["app_file"] == "app.py"
    assert data["models"] == ["org/dinov3-seg"] and data["title"] == "Words" and text.endswith("\nTry it.\n")
    assert (folder / "dinov3seg_hf" / "model" / "pipeline.py").is_file()
    assert not (folder / "dinov3seg_hf" / "checkpoints").exists()
    done = subprocess.run([sys.executable, folder / "app.py"], capture_output=True, text=True, env={})
    assert done.stdout.strip() == "org/dinov3-seg examples", done.stderr
    assert (folder / "examples" / "shapes.png").is_file()
    assert (folder / "examples" / "shapes.txt").read_text().strip() == LABELS


def test_demo_of_the_repository_makes_a_space(tmp_path):
    folder = build_space_folder(
        REPO / "demo", "org/model", "org/demo", tmp_path / "space", constraints=REPO / "constraints.txt"
    )
    compile(app := (folder / "app.py").read_text(), "app.py", "exec")
    assert app.index('setdefault("DINOV3SEG_MODEL", "org/model")') < app.index("from dinov3seg_hf")
    pins = (folder / "requirements.txt").read_text().splitlines()
    assert any(pin.startswith("gradio==") for pin in pins) and all("==" in pin for pin in pins)
    text = (folder / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["models"] == ["org/model"] and "](.." not in text


def test_photo_of_a_space_is_a_png_without_its_metadata(tmp_path, sample_image):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "of a phone"
    photo = tmp_path / "my photo #1.tiff"  # the page lists no TIFF
    sample_image.save(photo, exif=exif)
    folder = build_space_folder(REPO / "demo", "org/model", "org/demo", tmp_path / "space", example=Example(photo, "a"))
    assert names_in(folder / "examples") == {"my-photo-1.png", "my-photo-1.txt"}
    assert b"of a phone" not in (folder / "examples" / "my-photo-1.png").read_bytes()
    assert [example.words for example in examples_in(folder / "examples")] == ["a"]


def test_built_folders_publish_in_one_commit_each_and_once(
    built, hub, api, example, checkpoint, demo, monkeypatch, tmp_path
):
    def publish_again(output):
        return publish(
            checkpoint,
            "org/dinov3-seg",
            output,
            card_template=REPO / "model_card.md",
            example=example,
            space_id="org/demo",
            demo=demo,
            constraints=REPO / "constraints.txt",
            max_shard_size="100KB",
            code_license=REPO / "LICENSE",
            api=api,
        )

    checked = []
    monkeypatch.setattr(model_folder, "check_model_folder", lambda folder, *_: checked.append(folder))
    first, second = (publish_again(tmp_path / name) for name in ("first", "second"))
    assert [upload.changed for upload in first.uploads] == [True, True]
    assert [upload.changed for upload in second.uploads] == [False, False]  # built anew, and the same
    assert len(checked) == 2
    for repo_id, repo_type in (("org/dinov3-seg", "model"), ("org/demo", "space")):
        assert len(commits(api, repo_id, repo_type=repo_type)) == 1
    assert files_of(api, "org/dinov3-seg") == names_in(built.model_folder)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.multiprocess
def test_folder_that_does_not_work_without_the_package_is_refused(built, example, tiny_model, tiny_processor, tmp_path):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    broken = shutil.copytree(built.model_folder, tmp_path / "broken")
    with open(broken / "shared_dinov3seg.py", "a") as file:
        file.write("\nfrom dinov3seg_hf import windows\n")
    with pytest.raises(PublishingError, match=r"does not work without the package: .*dinov3seg_hf.*Nothing was"):
        model_folder.check_model_folder(broken, pipe, example)


# --- what is asked for wrongly ----------------------------------------------------------------------------------------


@pytest.fixture
def build(checkpoint, example, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "check_model_folder", lambda *_: None)

    def build(model=checkpoint, **options):
        defaults = {"card_template": REPO / "model_card.md", "example": example}
        return build_model_folder(model, "org/model", tmp_path / "model", **{**defaults, **options})

    return build


def test_results_of_other_weights_are_refused(build, evaluation, tmp_path):
    content = json.loads(evaluation.read_text())
    content["model"]["fingerprint"] = "0" * 64
    other = tmp_path / "results.json"
    other.write_text(json.dumps(content))
    with pytest.raises(PublishingError, match="on A-150 were measured with other weights"):
        build(results=[other])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"scores": 1}', '{"unseen": {}}'])
def test_results_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(PublishingError, match="does not contain results"):
        read_results(path)


def test_results_of_the_drawn_world_are_read(tmp_path):
    path = tmp_path / "results.json"
    scores = {"full model": {"miou": 69.57, "pixel_accuracy": 90.0}, "zero-shot head": {"miou": 1.0}}
    path.write_text(json.dumps({"scenes": 300, "unseen": scores, "seen": scores, "minutes": 1}))
    unseen, seen = read_results(path)
    assert unseen.name == "drawn world, unseen combinations" and seen.num_images == 300
    assert unseen.scores == {"mean_iou": 69.57, "overall_accuracy": 90.0}


def test_weights_without_a_license_are_not_published(build, tiny_checkpoint):
    with pytest.raises(PublishingError, match=r"license of the weights is unknown. Pass --license"):
        build(tiny_checkpoint)


@pytest.mark.parametrize("given, name", [(None, "LICENSE"), ("apache-2.0", "LICENSE"), ("mit", "LICENSE-CODE")])
def test_license_of_the_code_is_that_of_the_repository_if_the_weights_share_it(build, given, name):
    """The command passes all options, those that were not given as None."""
    folder = build(metadata={"license": given, "datasets": None}, code_license=REPO / "LICENSE")
    assert [path.name for path in folder.glob("LICENSE*")] == [name]
    assert ModelCard.load(folder / "README.md").data.license == (given or "apache-2.0")


def test_a_model_in_bfloat16_is_itself_after_a_check_in_float32(tiny_model):
    model = copy.deepcopy(tiny_model)
    for parameter in model.parameters():  # as `from_pretrained(dtype=...)`: buffers stay in float32
        parameter.data = parameter.data.to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    for _ in range(2):
        with model_folder.in_float32(model):
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name]), name


def test_another_license_has_no_name_of_the_earlier_one():
    weights = {"license": "other", "license_name": "dinov3-license", "license_link": "LICENSE.md"}
    assert with_license(weights, {"language": "en"}, {}) == {**weights, "language": "en"}
    assert with_license(weights, {"license": "other", "license_name": "mine"}) == {**weights, "license_name": "mine"}
    assert with_license(weights, {"license_name": "mine"}, {"license": "mit"}) == {"license": "mit"}
    given = {"license": "mit", "license_link": "TERMS"}
    assert with_license(weights, given) == given
    assert with_license({"license_link": "LICENSE.md"}, {"license": "mit"})["license_link"] == "LICENSE.md"


def test_template_that_cannot_be_filled_is_named(build, tmp_path):
    template = tmp_path / "template.md"
    template.write_text("{{ card_data }} {{ nothing }}")
    with pytest.raises(PublishingError, match=r"The card's template '.*template\.md' cannot be filled: 'nothing'"):
        build(card_template=template)


def test_the_licenses_of_the_parts_are_published_and_on_the_card(build, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "converted")
    (folder / "conversion_report.json").write_text(json.dumps({"files": {}}))
    (folder / "LICENSE-ANYUP.md").write_text("Terms of AnyUp.\n")
    with pytest.raises(PublishingError, match="no license file"):  # it has only that of a part
        build(folder)
    (folder / "LICENSE.md").write_text("Terms.\n")
    published = build(folder)
    assert (published / "LICENSE-ANYUP.md").read_text() == "Terms of AnyUp.\n"
    card = ModelCard.load(published / "README.md")
    assert card.data.license_link == "LICENSE.md" and "(Wimmer et al.) | [CC-BY-4.0](https" in card.text
    assert "[in this repository](LICENSE-ANYUP.md)" in card.text


def test_the_classes_of_the_training_are_published_for_evaluations(build, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "trained")
    Vocabulary(["red circle"]).save(folder / "training_vocabulary.json")
    published = build(folder, metadata={"license": "mit"})
    assert Vocabulary.from_file(published / "training_vocabulary.json").names == ("red circle",)


def test_converted_weights_stay_under_the_license_of_dinov3(build, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "converted")
    report = {"files": {"backbone": "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth", "prior": "facebook/sam-vit-large"}}
    (folder / "conversion_report.json").write_text(json.dumps(report))
    with pytest.raises(PublishingError, match=r"no license file.* Convert again with --license FILE"):
        build(folder)
    (folder / "LICENSE.md").write_text("Terms.\n")
    published = build(folder)
    assert (published / "LICENSE.md").read_text() == "Terms.\n"
    card = ModelCard.load(published / "README.md")
    assert card.data.license == "other" and card.data.license_name == "dinov3-license"
    assert card.data.license_link == "LICENSE.md" and "[dinov3-license](LICENSE.md)" in card.text
    assert card.data.base_model == ["facebook/dinov3-vitl16-pretrain-lvd1689m", "facebook/sam-vit-large"]
    assert "| of them: image and text encoder, from DINOv3 and dino.txt | [DINOv3 License]" in card.text
    assert "LICENSE-" not in card.text
    assert "fine-tuned checkpoints fall under it" in card.text and "AnyUp" not in card.text
    assert "None. The weights were converted" in card.text
    assert card.data.eval_results is None and "No scores" in card.text


def test_run_tells_of_its_training(build, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "run", ignore=shutil.ignore_patterns("README.md"))
    run = {
        "config": {"data": "org/shapes", "steps": 100, "init": str(tmp_path / "secret")},
        "git_commit": "abc",
        "none": None,
    }
    (folder / "run.json").write_text(json.dumps(run))
    text = (build(folder, metadata={"license": "mit"}) / "README.md").read_text()
    assert "| steps | `100` |" in text and "| git commit | `abc` |" in text and str(tmp_path) not in text


def test_pickles_never_travel(build, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(PublishingError, match=r"cannot be loaded.*safetensors"):
        build(folder)


def test_folder_that_is_no_checkpoint_is_refused(build, tmp_path):
    with pytest.raises(PublishingError, match=r"Checkpoint folder .* was not found. Check the path"):
        build(tmp_path / "nowhere")


def test_output_that_is_in_use_is_left_alone(checkpoint, example, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(PublishingError, match="is not an empty folder"):
        publish(checkpoint, "org/model", tmp_path, card_template=REPO / "model_card.md", example=example, dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_output_of_a_killed_call_is_built_again(example, tmp_path):
    output = tmp_path / "output"
    (output / "model").mkdir(parents=True)
    (output / "model" / "config.json").write_text("{")
    (output / ".publishing").touch()
    arguments = {"card_template": REPO / "model_card.md", "example": example, "dry_run": True}
    with pytest.raises(PublishingError, match=r"Checkpoint folder .* was not found"):  # not: is not an empty folder
        publish(tmp_path / "nowhere", "org/model", output, **arguments)
    assert list(output.iterdir()) == []
    (output / ".publishing").touch()
    (output / "mine.txt").touch()
    with pytest.raises(PublishingError, match="is not an empty folder"):
        publish(tmp_path / "nowhere", "org/model", output, **arguments)
    assert sorted(path.name for path in output.iterdir()) == [".publishing", "mine.txt"]


def test_full_disk_is_told(checkpoint, example, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(PublishingError, match=r"No space left on device. Free disk space, or choose another --output"):
        publish(
            checkpoint,
            "org/model",
            tmp_path / "output",
            card_template=REPO / "model_card.md",
            example=example,
            dry_run=True,
        )


def test_notes_of_the_authors_need_not_exist(tmp_path):
    assert AuthorsNotes.read(tmp_path / "README.md") == AuthorsNotes()
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    with pytest.raises(PublishingError, match=r"front matter of .* cannot be read"):
        AuthorsNotes.read(tmp_path / "README.md")


@pytest.mark.parametrize("missing", ["app.py", "requirements.txt", "README.md"])
def test_demo_that_is_not_whole_is_refused(demo, tmp_path, missing):
    partial = shutil.copytree(demo, tmp_path / "partial")
    (partial / missing).unlink()
    with pytest.raises(PublishingError, match=f"'{missing}' was not found in the demo folder"):
        build_space_folder(partial, "org/model", "org/demo", tmp_path / "space")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda scores: scores + 0.01, "scores differ by 0.01"),
        (lambda scores: scores * np.nan, "scores differ by nan"),
        (lambda scores: scores[:, 1:], "have the shapes"),
        (lambda scores: scores[1:], "have the shapes"),
    ],
)
def test_a_folder_that_segments_otherwise_is_refused(change, reason):
    label_map, scores = np.zeros((4, 6), np.int32), np.full((3, 4, 6), 0.25, np.float16)
    model_folder.refuse_other_results((label_map, scores), (label_map, scores), "folder")
    with pytest.raises(PublishingError, match=reason):
        model_folder.refuse_other_results((label_map, change(scores)), (label_map, scores), "folder")
    with pytest.raises(PublishingError, match="have the shapes"):
        model_folder.refuse_other_results((label_map[1:], scores), (label_map, scores), "folder")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model", 3, "model is 3 of type int; expected a path"),
        ("repo_id", "name", "repo_id is 'name'; expected owner/name"),
        ("repo_id", None, "repo_id is None; expected owner/name"),
        ("space_id", ["org", "demo"], r"space_id is \['org', 'demo'\]; expected owner/name"),
        ("space_id", "a/b/c", "space_id is 'a/b/c'"),
        ("output", None, "output is None"),
        ("card_template", b"x", "card_template is b'x'"),
        ("example", ("a.png", "cat"), "expected an Example"),
        ("example", Example(Path("a.png"), ""), "Got no labels"),
        ("results", "results.json", "results is 'results.json'; expected a list"),
        ("metadata", ["mit"], "metadata is .*expected a mapping"),
        ("vocabulary", ["cat"], "expected a Vocabulary"),
        ("private", "no", "private is 'no'; expected true or false"),
        ("max_shard_size", "big", "expected for example '2GB'"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_built(tmp_path, option, value, message):
    arguments = {"model": tmp_path, "repo_id": "org/model", "output": tmp_path / "output"}
    arguments |= {"card_template": tmp_path / "card.md", "example": Example(tmp_path / "a.png", "cat"), "dry_run": True}
    with pytest.raises(PublishingError, match=message):
        publish(**{**arguments, option: value})
    assert list(tmp_path.iterdir()) == []
