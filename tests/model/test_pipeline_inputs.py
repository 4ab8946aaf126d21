# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The pipeline as users of transformers call it: forms of images, labels of each image, other keywords, notebooks."""

import base64
import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from dinov3seg_hf import OpenVocabularySegmentationPipeline

LABELS = ["red circle", "blue square", "background"]


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")


def maps_of(results):
    return [result["label_map"].tolist() for result in results]


@pytest.fixture(scope="module")
def images(sample_image):
    return [sample_image, sample_image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]


@pytest.fixture(scope="module")
def expected(pipe, images):
    return maps_of(pipe(images, LABELS, return_label_map=True))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_image_may_have_labels_of_its_own(pipe, images, batch_size):
    own = [["red circle", "background"], ["blue square", "yellow triangle", "background"]]
    one_by_one = [pipe(image, labels, return_label_map=True) for image, labels in zip(images, own)]
    rows = [{"image": image, "candidate_labels": labels} for image, labels in zip(images, own)]
    for found in (
        pipe(images, own, return_label_map=True, batch_size=batch_size),
        pipe(rows, return_label_map=True, batch_size=batch_size),
        list(pipe((row for row in rows), return_label_map=True, batch_size=batch_size)),
        [pipe(rows[0], return_label_map=True), pipe(images[1], own[1:], return_label_map=True)],
        pipe([{"image": images[0]}, rows[1]], own[0], return_label_map=True),  # of the call, unless it has its own
    ):
        assert maps_of(found) == maps_of(one_by_one) and [result["labels"] for result in found] == own


def test_labels_and_images_that_do_not_match_are_refused(pipe, images):
    for call, message in (
        (lambda: pipe(images, [LABELS]), "Got 1 lists of labels for 2 images"),
        (lambda: pipe((image for image in images), [LABELS, LABELS]), "expected one list for all of its images"),
        (lambda: pipe([{"picture": images[0]}], LABELS), r"keys \['picture'\]; expected 'image'"),
        (lambda: pipe([{"image": images[0]}]), "Got no labels"),
        (lambda: pipe(images[0], ["red", ["blue"]]), "expected a string"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_columns_data_sets_and_batches_are_read(pipe, images, expected):
    features = datasets.Features({"image": datasets.Image(), "index": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"image": images, "index": [0, 1]}, features=features)
    column = pipe(dataset["image"], LABELS, return_label_map=True)
    assert isinstance(column, list) and maps_of(column) == expected
    assert maps_of(pipe(dataset, LABELS, return_label_map=True)) == expected
    assert maps_of(pipe(dataset.to_iterable_dataset(), LABELS, return_label_map=True)) == expected
    stored = dataset.cast_column("image", datasets.Image(decode=False))
    assert maps_of(pipe(stored["image"], LABELS, return_label_map=True)) == expected
    several = dataset[:2]  # a dictionary of columns
    assert maps_of(pipe(several, LABELS, return_label_map=True)) == expected
    own = pipe({**several, "candidate_labels": [LABELS[:2], LABELS]}, return_label_map=True)
    assert [result["labels"] for result in own] == [LABELS[:2], LABELS] and maps_of(own[1:]) == expected[1:]
    with pytest.raises(ValueError, match=r"lengths \{'image': 2, 'candidate_labels': 1\}"):
        pipe({**several, "candidate_labels": [LABELS]})
    batch = np.stack([np.asarray(image) for image in images])
    for array in (batch, torch.from_numpy(batch), torch.from_numpy(batch).permute(0, 3, 1, 2), tuple(images)):
        assert maps_of(pipe(array, LABELS, return_label_map=True)) == expected


def test_bytes_and_open_files_are_images(pipe, images, expected, tmp_path):
    path = tmp_path / "image.png"
    images[0].save(path)
    with open(path, "rb") as file:
        sources = [path.read_bytes(), file, io.BytesIO(path.read_bytes())]
        assert maps_of(pipe(sources, LABELS, return_label_map=True)) == expected[:1] * 3
        assert not file.closed
        with pytest.raises(ValueError, match="read to its end"):
            pipe(file, LABELS)
    with open(path, encoding="latin-1") as file, pytest.raises(ValueError, match="binary mode"):
        pipe(file, LABELS)
    with pytest.raises(ValueError, match="The image of 4 bytes does not have a known image format"):
        pipe(b"none", LABELS)


def test_other_keywords_of_transformers_mean_the_same(pipe, images, expected):
    for keywords in ({"inputs": images, "labels": LABELS}, {"images": images, "text": LABELS}):
        assert maps_of(pipe(**keywords, return_label_map=True)) == expected
    assert maps_of([pipe(image=images[0], labels=LABELS, return_label_map=True)]) == expected[:1]
    with pytest.raises(TypeError, match="Got both candidate_labels and labels"):
        pipe(images, LABELS, labels=LABELS)


@pytest.mark.parametrize(
    "given, meant",
    [
        ("classes", "candidate_labels"),
        ("prompt", "candidate_labels"),
        ("img", "images"),
        ("candidate_label", "candidate_labels"),
        ("hypothesis_template", "templates"),
        ("imagse", "images"),
        ("retrun_masks", "return_masks"),
    ],
)
def test_of_another_keyword_the_right_one_is_named(pipe, images, given, meant):
    for arguments in ((), (images[0],), (images[0], LABELS)):  # also where something else is missing
        with pytest.raises(TypeError, match=f"Unknown option '{given}' of the pipeline. Did you mean '{meant}"):
            pipe(*arguments, **{given: "cat"})


def test_a_comma_at_the_end_is_no_label(pipe, images):
    assert pipe(images[0], "red, blue, ", return_label_map=True)["labels"] == ["red", "blue"]
    for labels in ("red,,blue", ",", ",red"):
        with pytest.raises(ValueError, match="no visible characters"):
            pipe(images[0], labels)


def test_a_result_shows_its_overlay_in_a_notebook(pipe, images, tmp_path):
    def picture(result):
        shown = result._repr_html_()
        return Image.open(io.BytesIO(base64.b64decode(shown.partition("base64,")[2].partition('"')[0]))).convert("RGB")

    segments = pipe(images[0], LABELS)
    assert isinstance(segments, list) and segments[0]["label"] in segments._repr_html_()
    with_map = pipe(images, LABELS, return_label_map=True)
    assert isinstance(with_map[0], dict)
    different = np.asarray(picture(with_map[0])) != np.asarray(picture(with_map[1]))
    assert different.any()
    on_white = pipe(pipe.encode_image(images[0]), LABELS)
    assert picture(on_white).size == picture(segments).size
    assert pipe(images[0], LABELS, return_masks=False)._repr_html_() is None
