# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The default vocabulary: what the model does without text, and how it is kept with the checkpoint."""

import copy
import json
import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, pipeline

from dinov3seg_hf import OpenVocabularySegmentationPipeline, TextEmbeddings, Vocabulary

WORDS = ["red circle", "blue square", "background"]
PIXELS = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(tiny_model):
    return copy.deepcopy(tiny_model)


@pytest.fixture
def checkpoint(model, tiny_processor, tmp_path):
    """A folder with the model alone: neither processor nor tokenizer."""
    model.set_vocabulary(["red circle|red disk", "blue square"], tiny_processor).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_without_text_and_vocabulary_the_remedy_is_named(model):
    with pytest.raises(ValueError, match=r"no default vocabulary.*set_vocabulary"):
        model(PIXELS)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3, unique=True), min_size=1, max_size=4),
    st.sampled_from(["scene", "none", "simple"]),
)
def test_no_text_is_exactly_the_text_of_the_same_names(tiny_model, tiny_processor, synonyms, templates):
    model = copy.deepcopy(tiny_model)
    vocabulary = Vocabulary(
        [f"class {index}" for index in range(len(synonyms))],
        [[f"{word} {index}" for word in words] for index, words in enumerate(synonyms)],
        templates,
    )
    model.set_vocabulary(vocabulary, tiny_processor)
    text = tiny_processor(text=vocabulary.prompts())
    labels = torch.randint(-1, len(vocabulary), (2, 48, 64))
    given, default = model(PIXELS, labels=labels, **text), model(PIXELS, labels=labels)
    assert torch.equal(given.logits, default.logits) and torch.equal(given.loss, default.loss)
    assert model.vocabulary == vocabulary
    assert model.config.num_labels == len(vocabulary) and model.config.id2label == vocabulary.id2label
    assert model.config.label2id == vocabulary.label2id


def test_it_is_saved_and_loaded_with_the_model_alone(checkpoint, model):
    loaded = AutoModel.from_pretrained(checkpoint)
    assert loaded.vocabulary == model.vocabulary and loaded.config.id2label == {0: "red circle", 1: "blue square"}
    with torch.no_grad():
        assert torch.equal(loaded(PIXELS).logits, model(PIXELS).logits)


def test_embeddings_are_kept_with_the_weights(model, tiny_processor, tmp_path):
    text = Vocabulary.from_list(WORDS).encode(model, tiny_processor)
    model.set_vocabulary(text).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(PIXELS).logits, loaded(PIXELS, text_embeds=text.tensor).logits)
    kept = loaded.vocabulary
    assert isinstance(kept, TextEmbeddings) and kept.names == tuple(WORDS) and torch.equal(kept.tensor, text.tensor)
    kept.check(loaded, Vocabulary.from_list(WORDS))
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(PIXELS.bfloat16()).logits.isfinite().all()
    # another vocabulary takes their place in the weights, too
    assert "default_text_embeds" not in loaded.set_vocabulary(WORDS, tiny_processor).state_dict()


def test_embeddings_of_another_text_tower_are_never_used(model, tiny_processor, tmp_path):
    text = Vocabulary.from_list(WORDS).encode(model, tiny_processor)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.text_model.text_projection.weight.mul_(1.1)
    with pytest.raises(ValueError, match="another model"):
        other.set_vocabulary(text)
    model.set_vocabulary(text)
    model(PIXELS)
    with torch.no_grad():
        model.text_model.text_projection.weight.mul_(1.1)
    with pytest.raises(ValueError, match="text tower changed"):
        model(PIXELS)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text tower changed"):
        AutoModel.from_pretrained(tmp_path)(PIXELS)


def test_a_text_tower_in_training_gets_gradients_and_a_frozen_one_is_read_once(model, tiny_processor, monkeypatch):
    model.set_vocabulary(WORDS, tiny_processor)
    model.requires_grad_(True)
    labels = torch.zeros(2, 48, 64, dtype=torch.long)
    model(PIXELS, labels=labels).loss.backward()
    assert model.text_model.text_projection.weight.grad.abs().sum() > 0
    model.freeze_encoders().train()
    calls = []
    encode = type(model).get_text_features
    monkeypatch.setattr(type(model), "get_text_features", lambda *args: calls.append(1) or encode(*args))
    with torch.inference_mode():
        before = model(PIXELS).logits
    for _ in range(2):
        model(PIXELS, labels=labels).loss.backward()
    assert len(calls) == 1
    with torch.no_grad():
        model.text_model.text_projection.weight.mul_(-1)
    assert not torch.equal(model(PIXELS).logits, before) and len(calls) == 2


def test_names_that_are_passed_on_loading_are_used(tiny_checkpoint, tiny_model, tiny_processor):
    id2label = dict(enumerate(WORDS))
    config = AutoConfig.from_pretrained(
        tiny_checkpoint, id2label=id2label, label2id={w: i for i, w in enumerate(WORDS)}
    )
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tiny_checkpoint, config=config)
    assert loaded.config.num_labels == 3
    with torch.no_grad():
        assert torch.equal(loaded(PIXELS).logits, tiny_model(PIXELS, **tiny_processor(text=WORDS)).logits)


def test_placeholders_are_no_names_and_other_names_are_never_mixed_up(checkpoint, tiny_checkpoint, caplog):
    assert AutoModel.from_pretrained(tiny_checkpoint, num_labels=3).vocabulary is None
    loaded = AutoModel.from_pretrained(checkpoint)
    loaded.config.id2label = {0: "cat", 1: "dog"}
    for use in (lambda: loaded(PIXELS), lambda: loaded.vocabulary):
        with pytest.raises(ValueError, match=r"id2label contains \['cat', 'dog'\].*set_vocabulary"):
            use()
    # no tokenizer in the folder: the names are told of, and nothing is segmented by the former ones
    loaded = AutoModel.from_pretrained(checkpoint, id2label={0: "cat", 1: "dog"})
    with pytest.raises(ValueError, match="id2label contains"):
        loaded(PIXELS)


@pytest.mark.parametrize(
    ("vocabulary", "with_processor", "message"),
    [
        (["cat", "dog"], False, "Got no tokenizer"),
        ([], True, "Got no labels"),
        (["cat", "Cat"], True, "same name"),
        ([" ".join(["cat"] * 90)], True, "expected at most 77"),
    ],
)
def test_bad_vocabularies_are_refused_and_the_former_one_stays(
    model, tiny_processor, vocabulary, with_processor, message
):
    model.set_vocabulary(WORDS, tiny_processor.tokenizer)
    with pytest.raises(ValueError, match=message):
        model.set_vocabulary(vocabulary, tiny_processor if with_processor else None)
    assert model.vocabulary.names == tuple(WORDS)
    model.set_vocabulary(None)
    assert model.vocabulary is None and model.config.num_labels == 2


def test_the_pipeline_falls_back_on_it(model, tiny_processor, sample_image):
    pipe = OpenVocabularySegmentationPipeline(model=model, processor=tiny_processor, device="cpu")
    with pytest.raises(ValueError, match="Got no labels"):
        pipe(sample_image)
    model.set_vocabulary(WORDS, tiny_processor)
    expected = pipe(sample_image, WORDS, return_label_map=True, return_scores=True)
    found = pipe(sample_image, return_label_map=True, return_scores=True)
    assert found["labels"] == WORDS and (found["scores"] == expected["scores"]).all()
    assert pipe(sample_image, templates="none", return_label_map=True)["labels"] == WORDS
    without_tokenizer = OpenVocabularySegmentationPipeline(
        model=model, image_processor=tiny_processor.image_processor, device="cpu"
    )
    found = without_tokenizer(sample_image, return_label_map=True)
    assert found["labels"] == WORDS and (found["label_map"] == expected["label_map"]).all()
    model.set_vocabulary(pipe.encode_labels(WORDS))
    assert (pipe(sample_image, return_label_map=True)["label_map"] == expected["label_map"]).all()


def test_the_stock_pipeline_segments_by_it(model, tiny_processor, sample_image, tmp_path, caplog):
    model.set_vocabulary(WORDS, tiny_processor).save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").addHandler(caplog.handler)  # it does not propagate
        pipe = pipeline("image-segmentation", model=str(tmp_path), device="cpu")
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records  # "The model ... is not supported", although it works
    segments = pipe(sample_image)
    ours = pipeline("open-vocabulary-segmentation", model=str(tmp_path), device="cpu")(sample_image, WORDS)
    assert [segment["label"] for segment in segments] == [segment["label"] for segment in ours]
    assert all(a["mask"].tobytes() == b["mask"].tobytes() for a, b in zip(segments, ours))


def test_the_stock_pipeline_segments_batches_with_windows(model, tiny_processor, sample_image, tmp_path):
    """It puts what the image processor returns for each image behind each other, the boxes of windows too."""
    model.set_vocabulary(WORDS, tiny_processor).save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    image_processor = AutoImageProcessor.from_pretrained(tmp_path, do_windows=True)
    pipe = pipeline("image-segmentation", model=str(tmp_path), image_processor=image_processor, device="cpu")
    images = [sample_image, sample_image.rotate(180)]
    for one, other in zip(map(pipe, images), pipe(images, batch_size=2)):
        assert [segment["label"] for segment in one] == [segment["label"] for segment in other]
        assert all(a["mask"].tobytes() == b["mask"].tobytes() for a, b in zip(one, other))

    inputs = image_processor(images, return_tensors="pt")
    boxes = inputs.pop("window_boxes")
    assert len(boxes) > 1
    with torch.no_grad():
        repeated = model(**inputs, window_boxes=boxes.repeat(2, 1)).logits
        assert torch.equal(repeated, model(**inputs, window_boxes=boxes).logits)
    with pytest.raises(ValueError, match="matches pixel_values and window_boxes"):
        model(**inputs, window_boxes=torch.cat([boxes, boxes.flip(0)]))


def test_the_package_s_pipeline_is_found_without_a_task_and_under_its_alias(checkpoint, tiny_processor):
    tiny_processor.save_pretrained(checkpoint)
    for task in (None, "zero-shot-image-segmentation", "open-vocabulary-segmentation"):
        for trust in (None, True):
            pipe = pipeline(task, model=str(checkpoint), device="cpu", trust_remote_code=trust)
            assert type(pipe) is OpenVocabularySegmentationPipeline


def test_token_ids_stay_readable_in_the_configuration(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    stored = config["default_vocabulary"]
    assert stored["names"] == list(config["id2label"].values()) and stored["synonyms"][0] == ["red circle", "red disk"]
    assert all(number.isdecimal() for number in stored["prompt_ids"][0][1].split())
