# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What folders of other people try: docs/security.md is the table of these attempts."""

import json
import pickle
import re
import shutil
import types
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from dinov3seg_hf import AnnotatedImage, Vocabulary, export_annotations
from dinov3seg_hf.conversion.converter import convert
from dinov3seg_hf.data.opening import find_vocabulary, open_dataset
from dinov3seg_hf.hub.example import Example
from dinov3seg_hf.hub.model_card import AuthorsNotes, make_card
from dinov3seg_hf.hub.publish import publish
from dinov3seg_hf.hub.upload import PublishingError
from dinov3seg_hf.loading import license_files, load_model, load_pipeline, load_processor
from dinov3seg_hf.model.image_input import ImageError, open_image
from dinov3seg_hf.model.pipeline_results import Segmentation
from dinov3seg_hf.visualization.notebook import result_as_html

from places import REPO

LABEL = '<img src=x onerror="alert(1)">[a](javascript:b) `c` $(touch d)'


@pytest.fixture
def trap(tmp_path):
    """A file that code of the attacker would create."""
    path = tmp_path / "trapped"
    yield path
    assert not path.exists(), "foreign code ran"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def stolen(tiny_checkpoint, tmp_path):
    """A copy of a checkpoint, for the attacker to change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "stolen"))


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "id_ed25519"
    path.write_text("SECRET")
    return path


# --- code -------------------------------------------------------------------------------------------------------------


def test_code_of_a_checkpoint_does_not_run(stolen, trap):
    (stolen / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Evil: pass\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        content = json.loads((stolen / name).read_text())
        kinds = ("Config", "Model", "ModelForSemanticSegmentation", "Processor", "ImageProcessor", "Tokenizer")
        content["auto_map"] = {f"Auto{kind}": "evil.Evil" for kind in kinds}
        content["custom_pipelines"] = {"open-vocabulary-segmentation": {"impl": "evil.Evil", "pt": ["AutoModel"]}}
        (stolen / name).write_text(json.dumps(content))
    for load in (load_model, load_processor, load_pipeline):
        try:
            load(stolen)
        except ValueError:
            pass  # a refusal is as good


@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_pickles_among_the_weights_of_a_checkpoint_do_not_run(stolen, trap, form):
    (stolen / "model.safetensors").unlink()
    write_pickle(stolen / "pytorch_model.bin", trap, form)
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(stolen)


@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_pickles_among_published_weights_do_not_run(tmp_path, trap, form):
    for name in ("backbone.pth", "dinotxt.pth"):
        write_pickle(tmp_path / name, trap, form)
    with pytest.raises(ValueError, match=r"backbone\.pth"):
        convert(tmp_path / "backbone.pth", tmp_path / "dinotxt.pth", tmp_path / "out", license="none", progress=False)


def write_pickle(path: Path, trap: Path, form: str) -> None:
    content = {"weight": torch.zeros(1), "payload": Payload(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    if form == "pickle":
        path.write_bytes(pickle.dumps({"payload": Payload(trap)}))
    assert zipfile.is_zipfile(path) == (form == "zip")


def test_tags_of_yaml_create_nothing(tmp_path, trap):
    tagged = f"!!python/object/apply:os.mkdir [{str(trap)!r}]"
    card = tmp_path / "data"
    card.mkdir()
    (card / "README.md").write_text(f"---\nclass_names: {tagged}\n---\n")
    (tmp_path / "words.yaml").write_text(f"names: {tagged}\n")
    for read in (
        lambda: find_vocabulary(None, card=card),
        lambda: AuthorsNotes.read(card / "README.md"),
        lambda: Vocabulary.from_file(tmp_path / "words.yaml"),
    ):
        with pytest.raises(ValueError):
            read()


def test_scripts_of_data_sets_do_not_run(tmp_path, trap, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "photos.py").write_text(f"open({str(trap)!r}, 'w')\n")
    with pytest.raises(ValueError, match="cannot be opened"):
        open_dataset(folder, "train")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "results.json", "examples"])
def test_links_of_a_checkpoint_publish_no_file_of_ours(stolen, secret, name, tmp_path):
    (stolen / name).symlink_to(secret)
    example = Example(REPO / "examples" / "scene.png", "red circle")
    with pytest.raises(PublishingError, match="is a link to a file outside"):
        publish(stolen, "a/b", tmp_path / "out", card_template=REPO / "model_card.md", example=example, dry_run=True)
    assert not any("SECRET" in path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*.*"))


def test_links_of_a_license_are_not_followed_into_a_training_run(stolen, secret):
    (stolen / "LICENSE").symlink_to(secret)
    with pytest.raises(ValueError, match="is a link to a file outside"):
        license_files(stolen)


def test_links_of_the_cache_of_the_hub_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0123").write_text("Terms")
    folder = tmp_path / "snapshots" / "main"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "LICENSE").symlink_to(Path("..", "..", "blobs", "0123"))
    assert [path.read_text() for path in license_files(folder)] == ["Terms"]


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        *(
            "cat\u200b",
            "\ufeffcat",
            "c\u00adat",
            "cat\u202egod",
            "ca\u2066t",
            "c\u200dat",
            "cat\u200d",
            "\U000e0041cat",
        ),
        *("cat\u3164", "c\u2800at", "ca\u034ft", "\u115fcat", "cat\uffa0", "cat\ufe0f", "cat\U000e0100", "c\u180bat"),
        *("é\u200dté", "мы\u200cшь", "\u0645\u200c\u200c\u062e", "\u0645\u200d", "4\ufe0f", "葛\U000e0100"),
    ],
)
def test_words_that_are_not_what_they_look_like_are_refused(word):
    with pytest.raises(ValueError, match=r"invisible character U\+[0-9A-F]{4}"):
        Vocabulary([word, "cat"])


@pytest.mark.parametrize(
    "word",
    [
        *("\u0645\u06cc\u200c\u062e\u0648", "👩\u200d👩\u200d👧", "\u0915\u094d\u200d\u0937", "naïve café"),
        *(
            "❤\ufe0f",
            "👁\ufe0f\u200d🗨\ufe0f",
            "4\ufe0f\u20e3",
            "‼\ufe0f",
            "👩🏽\u200d🚀",
            "\u182d\u180b",
            "한국",
            "日本",
        ),
    ],
)
def test_scripts_that_need_joiners_keep_them(word):
    assert Vocabulary([word]).names == (word,)


def test_labels_are_text_on_a_card(tiny_config):
    label = LABEL + " | x\n```"
    region = types.SimpleNamespace(label=label, area=0.5, score=0.5)
    facts = {
        **{"task": "t", "remote_task": "r", "default_labels": [label], "package_version": "1", "num_parameters": 1},
        **{"dtype": "float32", "config": tiny_config, "image_size": {"shortest_edge": 64}, "window_size": 48},
        **{
            "window_stride": 24,
            "default_inference": "whole",
            "space_id": None,
            "conversion": None,
            "part_licenses": {},
        },
        "example": {"image": "a.png", "overlay": "b.png", "labels": [label], "regions": [region]},
        "run": {"seed": label, "config": {}},
    }
    text = make_card(REPO / "model_card.md", "a/b", facts, AuthorsNotes(), [], {"license": "mit"})
    body = text.partition("# b\n")[2]
    fenced = re.compile(r"^```.*?^```$", re.S | re.M)
    shown = re.sub(r"(?<!\\)`[^`\n]*(?<!\\)`", "", fenced.sub("", body))  # without code, in which all is text
    assert (
        not re.search(r"(?<!\\)<img|(?<!\\)\[a(?<!\\)\]", shown) and r"\<img" in shown and "- Every pixel gets" in shown
    )
    (command,) = re.findall(r"dinov3seg segment .*", body)
    assert "--labels '" in command and '"$(' not in command  # nothing for a shell to run


def test_labels_are_text_in_a_notebook(sample_image):
    segmentation = Segmentation(
        label_map=np.zeros((60, 90), np.int32), labels=[LABEL], segments=[{"label": LABEL, "score": 0.5}]
    )
    segmentation.image = sample_image
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, sorted(dict(attributes))))
    parser.feed(result_as_html(segmentation))
    assert tags == [("img", ["alt", "src"])]


def test_labels_are_text_in_the_xml_of_cvat(tmp_path):
    image = AnnotatedImage("a.png", np.zeros((8, 8), np.int32))
    export_annotations([image], Vocabulary([LABEL]), tmp_path / "a.xml", "cvat")
    names = {element.text for element in ElementTree.parse(tmp_path / "a.xml").iter("name")}
    assert LABEL in names


def test_labels_are_text_on_the_page_of_the_demo():
    for script in sorted((REPO / "dinov3seg_hf" / "demo" / "assets").glob("*.js")):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script.read_text()), (
            script
        )


def test_formulas_come_back_as_the_words_that_they_were(tmp_path):
    """Tables are tab-separated files of ours, and no CSV for spreadsheets; a formula is a word as others are."""
    Vocabulary(["=1+1", "@sum", "+a", "-b"]).save(tmp_path / "words.tsv")
    assert Vocabulary.from_file(tmp_path / "words.tsv").names == ("=1+1", "@sum", "+a", "-b")
    package = (path.read_text() for path in (REPO / "dinov3seg_hf").rglob("*.py"))
    assert not any("csv.writer" in text or "to_csv" in text or "DictWriter" in text for text in package)


def test_images_that_are_links_stay_images(tmp_path, secret):
    """A link among images is read as an image; what is not one is not shown in the error."""
    (tmp_path / "a.png").symlink_to(secret)
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / "a.png")
    assert "SECRET" not in str(caught.value)
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "b.png")
    assert open_image(tmp_path / "c.png").size == (2, 2)
