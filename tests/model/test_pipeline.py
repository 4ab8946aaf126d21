# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""From images and words to masks: what comes out, what is computed only once, and what is refused."""

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    AutoProcessor,
    pipeline,
)

import dinov3seg_hf
from dinov3seg_hf import InferenceSettings, OpenVocabularySegmentationPipeline, TextEmbeddings, Vocabulary
from dinov3seg_hf.model import fingerprints, text_cache
from dinov3seg_hf.model.checks import UnknownWordsWarning
from dinov3seg_hf.model.fingerprints import model_fingerprint, weights_fingerprint
from dinov3seg_hf.model.sliding_window import segment_windows

LABELS = ["red circle", "blue square", "yellow triangle", "green background", "cat", "dog", "grass"]
MODES = ("whole", "local-global", "slide")


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")


@pytest.fixture
def own_pipe(tiny_model, tiny_processor):
    """With a model that a test may change."""
    return OpenVocabularySegmentationPipeline(model=copy.deepcopy(tiny_model), processor=tiny_processor, device="cpu")


@pytest.fixture
def num_encoded(pipe, monkeypatch):
    """Classes that the text tower encodes and images that the vision tower encodes, from here on."""
    count = {"classes": 0, "images": 0}
    encode_text, encode_image = pipe.model.get_text_features, pipe.model.get_image_features

    def counting_text(input_ids, *args, **kwargs):
        count["classes"] += len(input_ids)
        return encode_text(input_ids, *args, **kwargs)

    def counting_image(pixel_values, *args, **kwargs):
        count["images"] += len(pixel_values)
        return encode_image(pixel_values, *args, **kwargs)

    monkeypatch.setattr(pipe.model, "get_text_features", counting_text)
    monkeypatch.setattr(pipe.model, "get_image_features", counting_image)
    monkeypatch.setattr(pipe, "_text_cache", type(pipe._text_cache)())
    return count


def label_map_of(pipe, image, labels=tuple(LABELS), **options):
    return pipe(image, labels, return_label_map=True, **options)["label_map"]


def random_image(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- by name ---------------------------------------------------------------------------------------------------------


def test_task_and_auto_classes_find_ours_after_import(tiny_checkpoint, sample_image):
    pipe = pipeline("open-vocabulary-segmentation", model=str(tiny_checkpoint), device="cpu")
    assert isinstance(pipe, OpenVocabularySegmentationPipeline)
    assert {segment["label"] for segment in pipe(sample_image, candidate_labels=LABELS)} <= set(LABELS)
    for auto_class in (AutoModel, AutoModelForSemanticSegmentation):
        assert isinstance(auto_class.from_pretrained(tiny_checkpoint), dinov3seg_hf.Dinov3SegForSemanticSegmentation)
    assert isinstance(AutoProcessor.from_pretrained(tiny_checkpoint), dinov3seg_hf.Dinov3SegProcessor)
    assert isinstance(AutoImageProcessor.from_pretrained(tiny_checkpoint), dinov3seg_hf.Dinov3SegImageProcessorPil)


def test_options_of_the_constructor_are_defaults_of_calls(tiny_model, tiny_processor, sample_image):
    pipe = pipeline(
        "open-vocabulary-segmentation",
        model=tiny_model,
        processor=tiny_processor,
        device="cpu",
        candidate_labels=LABELS,
        threshold=1.0,
        return_label_map=True,
    )
    assert pipe(sample_image)["segments"] == []
    assert pipe(sample_image, threshold=0.0)["segments"]
    assert pipe(sample_image, candidate_labels=["cat"])["labels"] == ["cat"]


def test_model_without_processor_is_refused(tiny_model):
    with pytest.raises(ValueError, match="processor"):
        OpenVocabularySegmentationPipeline(model=tiny_model, device="cpu")


def test_checkpoint_without_a_tokenizer_takes_text_embeddings_only(
    pipe, tiny_model, tiny_processor, sample_image, tmp_path
):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.image_processor.save_pretrained(tmp_path)
    wordless = pipeline("open-vocabulary-segmentation", model=str(tmp_path), device="cpu")
    np.testing.assert_array_equal(
        label_map_of(wordless, sample_image, pipe.encode_labels(LABELS)), label_map_of(pipe, sample_image)
    )
    with pytest.raises(ValueError, match="has no tokenizer"):
        wordless(sample_image, LABELS)


def test_image_processor_is_the_one_of_the_processor(tiny_checkpoint):
    pipe = pipeline("open-vocabulary-segmentation", model=str(tiny_checkpoint), device="cpu")
    assert pipe.image_processor is pipe.processor.image_processor and pipe.tokenizer is pipe.processor.tokenizer


# --- what comes out --------------------------------------------------------------------------------------------------


def test_segments_have_the_form_of_transformers(pipe, sample_image):
    segments = pipe(sample_image, candidate_labels=LABELS)
    assert len(segments) > 1
    for segment in segments:
        assert set(segment) == {"score", "label", "mask"}
        assert isinstance(segment["score"], float) and 0 <= segment["score"] <= 1
        assert segment["mask"].mode == "L" and segment["mask"].size == sample_image.size
        assert set(np.unique(segment["mask"])) == {0, 255}
    order = [LABELS.index(segment["label"]) for segment in segments]
    assert order == sorted(order)


@pytest.mark.parametrize("inference", MODES)
def test_masks_share_out_the_image_and_agree_with_the_label_map(pipe, sample_image, inference):
    result = pipe(sample_image, LABELS, inference=inference, return_label_map=True)
    masks = np.stack([np.asarray(segment["mask"]) > 0 for segment in result["segments"]])
    assert (masks.sum(axis=0) == 1).all()
    assert result["label_map"].dtype == np.int32 and result["labels"] == LABELS
    for segment, mask in zip(result["segments"], masks):
        np.testing.assert_array_equal(mask, result["label_map"] == LABELS.index(segment["label"]))


@pytest.mark.parametrize("inference", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (33, 47), (131, 67)])
def test_results_have_the_size_of_the_image(pipe, size, inference):
    options = {"size": {"shortest_edge": 64, "longest_edge": 128}}
    assert label_map_of(pipe, random_image(*size), inference=inference, **options).shape == size


def test_score_is_the_mean_of_the_winning_probability(pipe):
    image = random_image(64, 96)  # the model's own size: no resizing in between
    for head, function in (("full", torch.sigmoid), ("dinotxt", lambda x: x.softmax(dim=0))):
        result = pipe(image, LABELS, head=head, return_label_map=True)
        inputs = pipe.processor(images=image, text=LABELS)
        with torch.no_grad():
            logits = pipe.model(**inputs, head=head).logits
            if head == "dinotxt":
                logits = logits * pipe.model.logit_scale.exp()
        logits = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)[0]
        probabilities, winners = function(logits).max(dim=0)
        np.testing.assert_array_equal(result["label_map"], winners)
        for segment in result["segments"]:
            expected = probabilities[winners == LABELS.index(segment["label"])].mean()
            assert segment["score"] == pytest.approx(expected.item(), abs=1e-6)


def test_local_global_is_the_models_own_with_windows(pipe, sample_image):
    inputs = pipe.processor(images=sample_image, text=LABELS, do_windows=True)
    with torch.no_grad():
        outputs = pipe.model(**inputs)
    expected = pipe.processor.post_process_semantic_segmentation(outputs, [(60, 90)])[0]
    np.testing.assert_array_equal(label_map_of(pipe, sample_image, inference="local-global"), expected)


@pytest.mark.parametrize("head", ["full", "dinotxt"])
def test_slide_is_the_mean_of_the_windows_resized(pipe, sample_image, head):
    inputs = pipe.processor(images=sample_image, text=LABELS, do_windows=False)
    text_embeds = pipe.encode_labels(LABELS).tensor
    scale = pipe.model.logit_scale.exp().item() if head == "dinotxt" else 1.0
    maps = segment_windows(
        pipe.model, inputs["pixel_values"], text_embeds, window_size=48, stride=24, head=head, temperature=1 / scale
    )
    resized = torch.nn.functional.interpolate(maps, size=(60, 90), mode="bilinear", align_corners=False)[0]
    best = resized.max(dim=0).values
    scores = best.sigmoid() if head == "full" else best
    result = pipe(sample_image, LABELS, inference="slide", head=head, return_label_map=True)
    np.testing.assert_array_equal(result["label_map"], resized.argmax(dim=0))
    for segment in result["segments"]:
        inside = torch.as_tensor(result["label_map"] == LABELS.index(segment["label"]))
        assert segment["score"] == pytest.approx(scores[inside].mean().item(), abs=1e-5)


@pytest.mark.parametrize("inference", ["local-global", "slide"])
@pytest.mark.parametrize("head", ["full", "dinotxt"])
def test_one_window_as_large_as_the_image_is_the_whole_image(pipe, head, inference):
    image = random_image(64, 96)
    options = {"head": head, "return_label_map": True}
    whole = pipe(image, LABELS, inference="whole", **options)
    windowed = pipe(image, LABELS, inference=inference, window_size=200, window_stride=200, **options)
    np.testing.assert_array_equal(whole["label_map"], windowed["label_map"])
    for one, other in zip(whole["segments"], windowed["segments"]):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_default_inference_is_what_the_image_processor_is_set_to(tiny_model, tiny_processor, sample_image):
    windows = copy.deepcopy(tiny_processor)
    windows.image_processor.do_windows = True
    for processor, inference in ((tiny_processor, "whole"), (windows, "local-global")):
        pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=processor, device="cpu")
        assert pipe.default_inference == inference
        np.testing.assert_array_equal(
            label_map_of(pipe, sample_image), label_map_of(pipe, sample_image, inference=inference)
        )


@pytest.mark.parametrize("inference", MODES)
def test_order_of_labels_does_not_matter(pipe, sample_image, inference):
    shuffled = [LABELS[i] for i in (4, 2, 6, 0, 3, 1, 5)]
    one = np.array(LABELS)[label_map_of(pipe, sample_image, inference=inference)]
    other = np.array(shuffled)[label_map_of(pipe, sample_image, shuffled, inference=inference)]
    assert (one == other).mean() > 0.999  # but for pixels between two labels


@pytest.mark.parametrize("inference", MODES)
def test_threshold_turns_what_scores_lower_into_none(pipe, sample_image, inference):
    options = {"inference": inference, "head": "dinotxt"}
    everything = label_map_of(pipe, sample_image, **options)
    assert (label_map_of(pipe, sample_image, threshold=0.0, **options) == everything).all()
    score = pipe(sample_image, LABELS, **options)[0]["score"]
    some = pipe(sample_image, LABELS, threshold=score, return_label_map=True, **options)
    is_none = some["label_map"] == -1
    assert 0 < is_none.sum() < is_none.size
    assert (some["label_map"][~is_none] == everything[~is_none]).all()
    assert all(segment["score"] >= score - 1e-6 for segment in some["segments"])
    assert pipe(sample_image, LABELS, threshold=1.0, **options) == []


@pytest.mark.parametrize("inference", MODES)
@pytest.mark.parametrize("head", ["full", "dinotxt"])
def test_scores_are_probabilities_of_every_label(pipe, sample_image, head, inference):
    options = {"head": head, "inference": inference, "return_scores": True, "return_label_map": True}
    result = pipe(sample_image, LABELS, **options)
    scores = result["scores"].astype(np.float32)
    assert result["scores"].dtype == np.float16 and scores.shape[0] == len(LABELS)
    assert scores.min() >= 0 and scores.max() <= 1
    if head == "dinotxt":
        np.testing.assert_allclose(scores.sum(axis=0), 1, atol=5e-3)
    # each pixel has the label that is best there; between two cells that may be one that wins in neither. It is the
    # logits that are interpolated, which scores tell up to a number that is the same for all labels.
    scores = torch.from_numpy(scores).double()
    logits = scores.clamp(min=1e-7).log() if head == "dinotxt" else scores.clamp(1e-7, 1 - 1e-7).logit()
    label_map = torch.from_numpy(np.asarray(result["label_map"], np.int64))
    size = tuple(label_map.shape)
    logits = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    gap = logits.amax(dim=0) - logits.gather(0, label_map[None])[0]
    assert (gap < 0.01).double().mean() > 0.99  # scores have 11 bits


def test_temperature_spreads_scores_and_changes_no_winner(pipe, sample_image):
    hot, cold = (
        pipe(sample_image, LABELS, head="dinotxt", temperature=temperature, return_label_map=True)
        for temperature in (1.0, 0.01)
    )
    np.testing.assert_array_equal(hot["label_map"], cold["label_map"])
    assert hot["segments"][0]["score"] < cold["segments"][0]["score"]


def test_masks_can_be_left_out(pipe, sample_image):
    assert all(set(segment) == {"score", "label"} for segment in pipe(sample_image, LABELS, return_masks=False))


# --- one, several, many ----------------------------------------------------------------------------------------------


def test_single_image_gives_a_result_and_several_give_a_list(pipe, sample_image, tmp_path):
    path = tmp_path / "image.png"
    sample_image.save(path)
    forms = [sample_image, str(path), path, np.asarray(sample_image), torch.as_tensor(np.array(sample_image))]
    single = pipe(sample_image, LABELS, return_masks=False)
    assert all(pipe(form, LABELS, return_masks=False) == single for form in forms)
    assert pipe(forms, LABELS, return_masks=False) == [single] * len(forms)
    assert pipe(tuple(forms[:2]), LABELS, return_masks=False) == [single] * 2
    assert pipe([sample_image], LABELS, return_masks=False) == [single]
    assert pipe([], LABELS) == []


def test_an_image_is_decoded_once_and_made_a_picture_again_only_to_be_resized(
    pipe, sample_image, tmp_path, monkeypatch
):
    path = tmp_path / "image.png"
    sample_image.save(path)
    opened, made = [], []
    open_file, from_array = Image.open, Image.fromarray
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(1) or open_file(*args, **kwargs))
    monkeypatch.setattr(
        Image, "fromarray", lambda array, *args, **kwargs: made.append(array.size) or from_array(array, *args, **kwargs)
    )
    pipe(path, LABELS, return_masks=False)
    assert (len(opened), sum(made)) == (1, 3 * sample_image.width * sample_image.height)  # one channel after the other


def test_a_misspelt_option_is_named_with_the_one_that_is_meant(pipe, sample_image):
    with pytest.raises(TypeError, match=r"Unknown option 'treshold' of the pipeline. Did you mean 'threshold'?"):
        pipe(sample_image, LABELS, treshold=0.5)
    with pytest.raises(TypeError, match=r"The options are inference, head,.*return_masks"):
        pipe(sample_image, LABELS, xyz=0.5)


def test_options_of_the_constructor_and_of_a_call_add_up(tiny_model, tiny_processor, sample_image):
    pipe = OpenVocabularySegmentationPipeline(
        model=tiny_model, processor=tiny_processor, device="cpu", head="dinotxt", threshold=0.9
    )
    assert pipe.settings == InferenceSettings(head="dinotxt", threshold=0.9)
    expected = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    options = {"return_label_map": True, "inference": "whole"}
    one = pipe(sample_image, LABELS, threshold=0.1, **options)["label_map"]
    other = expected(sample_image, LABELS, threshold=0.1, head="dinotxt", **options)["label_map"]
    np.testing.assert_array_equal(one, other)


def test_prepared_images_are_segmented_as_the_call_segments_them(pipe, sample_image):
    settings = InferenceSettings(inference="local-global", head="dinotxt")
    images = [sample_image, random_image(40, 80)]
    text = pipe.encode_labels(LABELS)
    prepared = [pipe.prepare(image, settings) for image in images]
    assert [image.size for image in prepared] == [(60, 90), (40, 80)]
    labeled = pipe.segment_prepared(prepared, text, settings, return_scores=True)
    for image, result in zip(images, labeled, strict=True):
        expected = pipe(image, text, return_label_map=True, return_scores=True, **settings.given())
        np.testing.assert_array_equal(result.label_map, expected["label_map"])
        np.testing.assert_array_equal(result.scores, expected["scores"])


@pytest.mark.parametrize("inference", MODES)
def test_batch_of_unequal_images_is_as_one_by_one(pipe, sample_image, inference):
    images = [
        sample_image,
        random_image(40, 80),
        sample_image.rotate(180),
        random_image(80, 40, 1),
        random_image(60, 90),
    ]
    options = {"inference": inference, "return_label_map": True}
    alone = [pipe(image, LABELS, **options) for image in images]
    for batch_size in (2, 5):
        together = pipe(images, LABELS, batch_size=batch_size, **options)
        for one, other in zip(alone, together, strict=True):
            assert (one["label_map"] == other["label_map"]).mean() > 0.999
            for a, b in zip(one["segments"], other["segments"]):
                assert a["label"] == b["label"] and a["score"] == pytest.approx(b["score"], abs=1e-4)


def test_generators_and_data_sets_are_read_as_results_are(pipe, sample_image):
    num_read = 0

    def images():
        nonlocal num_read
        for _ in range(4):
            num_read += 1
            yield sample_image

    expected = pipe(sample_image, LABELS, return_masks=False)
    results = iter(pipe(images(), LABELS, return_masks=False))
    assert next(results) == expected
    assert num_read < 4
    assert list(results) == [expected] * 3

    class Images(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return sample_image

    results = list(pipe(Images(), LABELS, batch_size=2, return_label_map=True))
    assert [result["label_map"].shape for result in results] == [(60, 90)] * 3


# --- words -----------------------------------------------------------------------------------------------------------


def test_labels_come_in_many_forms(pipe, sample_image):
    vocabulary = Vocabulary.from_list(LABELS)
    forms = [", ".join(LABELS), tuple(LABELS), vocabulary, vocabulary.encode(pipe.model, pipe.processor)]
    expected = label_map_of(pipe, sample_image)
    for form in forms:
        np.testing.assert_array_equal(label_map_of(pipe, sample_image, form), expected)


def test_synonyms_and_templates_reach_the_text_tower(pipe):
    plain = pipe.encode_labels(["cat"]).tensor
    both = pipe.encode_labels(["cat|kitten"])
    assert both.names == ("cat",) and not torch.allclose(both.tensor, plain)
    bare = pipe.encode_labels(["cat"], templates="none").tensor
    assert not torch.allclose(bare, plain)
    vocabulary = Vocabulary.from_list(["cat"])
    torch.testing.assert_close(pipe.encode_labels(vocabulary, templates="none").tensor, bare, rtol=0, atol=1e-6)


@pytest.mark.parametrize("labels", [None, [], "", "  ", ()])
def test_no_labels_are_refused(pipe, sample_image, labels):
    with pytest.raises(ValueError, match="Got no labels"):
        pipe(sample_image, candidate_labels=labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "dog", "Cat"], "same name"),
        ("cat, dog, cat", "same name"),
        (["cat", ""], "no visible characters"),
        ("cat,, dog", "no visible characters"),
        (["cat", 3], "expected a string"),
        (["cat|dog", "dog"], "two classes"),
        (["x" * 400], "at most 77"),
        ({"cat": 1}, "list of strings"),
        (7, "list of strings"),
    ],
)
def test_bad_labels_are_refused(pipe, sample_image, labels, message):
    with pytest.raises(ValueError, match=message):
        pipe(sample_image, labels)


def test_embeddings_of_another_model_are_refused(pipe, own_pipe, sample_image):
    text = pipe.encode_labels(LABELS)
    with torch.no_grad():
        own_pipe.model.text_model.text_projection.weight.mul_(1.01)
    with pytest.raises(ValueError, match="another model"):
        own_pipe(sample_image, text)
    with pytest.raises(ValueError, match="Got templates for text embeddings"):
        pipe(sample_image, text, templates="none")


# --- text is encoded once --------------------------------------------------------------------------------------------


def test_a_word_seen_before_is_not_encoded_again(pipe, sample_image, num_encoded):
    first = label_map_of(pipe, sample_image)
    assert num_encoded["classes"] == len(LABELS)
    np.testing.assert_array_equal(label_map_of(pipe, sample_image), first)
    pipe([sample_image] * 3, LABELS)
    assert num_encoded["classes"] == len(LABELS)
    pipe(sample_image, [*LABELS[:3], "purple star", *LABELS[4:]])
    assert num_encoded["classes"] == len(LABELS) + 1
    pipe(sample_image, LABELS, templates="none")
    assert num_encoded["classes"] == 2 * len(LABELS) + 1


def test_default_labels_that_can_be_read_only_once_hold_for_all_calls(own_pipe):
    own_pipe._set_default_labels((name for name in LABELS), None)
    assert own_pipe.encode_labels().names == own_pipe.encode_labels().names == tuple(LABELS)


def test_a_new_word_reads_no_weight_of_the_text_tower_again(own_pipe, monkeypatch):
    """It costs its own prompts: at full width, reading all weights took four times as long as encoding a word."""
    read = []
    monkeypatch.setattr(
        fingerprints, "_bytes_of", lambda tensor, bytes_of=fingerprints._bytes_of: read.append(1) or bytes_of(tensor)
    )
    own_pipe.encode_labels(LABELS)
    num_weights = len(own_pipe.model.text_model.state_dict())
    assert len(read) == num_weights
    text = own_pipe.encode_labels([*LABELS, "a new word"])
    own_pipe.encode_labels(text)  # are these of this model?
    assert len(read) == num_weights
    with torch.no_grad():
        own_pipe.model.text_model.text_projection.weight.mul_(1.01)
    own_pipe.encode_labels(LABELS)
    assert len(read) == 2 * num_weights


def test_every_prompt_is_tokenized_once(own_pipe, monkeypatch):
    tokenizer, seen = own_pipe.tokenizer, []

    def counting(prompts, *args, **kwargs):
        seen.extend([prompts] if isinstance(prompts, str) else prompts)
        return tokenizer(prompts, *args, **kwargs)

    class Counting:
        __call__ = staticmethod(counting)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    processor = copy.copy(own_pipe.processor)
    processor.tokenizer = Counting()
    prompts = [f"A photo of a {label} in the scene" for label in LABELS]
    processor(text=LABELS)
    assert sorted(seen) == sorted(prompts)
    seen.clear()
    Vocabulary.from_list(LABELS).encode(own_pipe.model, processor)
    assert sorted(seen) == sorted(prompts)


def test_cached_text_is_fresh_text(pipe, num_encoded):
    pipe.encode_labels(["dog", "grass", "cat"])
    for labels in (["cat", "dog"], ["grass", "a new word", "cat|kitten"], LABELS):
        fresh = Vocabulary.from_list(labels).encode(pipe.model, pipe.processor)
        cached = pipe.encode_labels(labels)
        torch.testing.assert_close(cached.tensor, fresh.tensor, rtol=0, atol=1e-5)
        assert (cached.names, cached.fingerprint) == (fresh.names, fresh.fingerprint)
        cached.check(pipe.model, Vocabulary.from_list(labels))


def test_vocabularies_of_equal_length_are_not_mixed_up(pipe, sample_image, num_encoded):
    one = label_map_of(pipe, sample_image, ["grass", "cat"])
    other = label_map_of(pipe, sample_image, ["cat", "grass"])
    np.testing.assert_array_equal(one, 1 - other)


def write_in_place(weight):
    weight.mul_(1.5)


def write_past_the_counter(weight):
    weight.data.mul_(1.5)


def write_elsewhere(weight):
    weight.data = weight.data * 1.5


@pytest.mark.parametrize("write", [write_in_place, write_past_the_counter, write_elsewhere])
def test_new_weights_make_new_text(own_pipe, write):
    before = own_pipe.encode_labels(LABELS)
    with torch.no_grad():
        write(own_pipe.model.text_model.text_model.embeddings.token_embedding.weight)
    after = own_pipe.encode_labels(LABELS)
    fresh = Vocabulary.from_list(LABELS).encode(own_pipe.model, own_pipe.processor)
    torch.testing.assert_close(after.tensor, fresh.tensor, rtol=0, atol=1e-5)
    assert not torch.allclose(after.tensor, before.tensor, atol=1e-3)
    assert after.fingerprint == fresh.fingerprint != before.fingerprint
    with pytest.raises(ValueError, match="another model"):
        own_pipe.encode_labels(before)


def test_another_model_in_the_pipeline_gets_its_own_text(own_pipe):
    before = own_pipe.encode_labels(LABELS)
    own_pipe.model = copy.deepcopy(own_pipe.model)
    with torch.no_grad():
        own_pipe.model.text_model.text_projection.weight.add_(0.1)
    assert not torch.allclose(own_pipe.encode_labels(LABELS).tensor, before.tensor, atol=1e-3)


def test_text_cache_is_bounded_and_keeps_what_was_used_last(pipe, num_encoded, monkeypatch):
    monkeypatch.setattr(text_cache, "MAX_CACHED_CLASSES", 4)
    pipe.encode_labels(["a", "b", "c", "d"])
    pipe.encode_labels(["a", "e", "f"])
    assert len(pipe._text_cache) == 4
    before = num_encoded["classes"]
    pipe.encode_labels(["a", "d", "e", "f"])
    assert num_encoded["classes"] == before
    many = pipe.encode_labels([f"word {i}" for i in range(9)])  # more than there is room for
    assert len(many) == 9 and len(pipe._text_cache) == 4


def test_keys_of_the_text_cache_are_small_however_many_synonyms_a_label_has(pipe):
    pipe.encode_labels(Vocabulary(["a"], [[f"word {number}" for number in range(100)]]))
    assert pipe._text_cache._embeds and max(map(len, pipe._text_cache._embeds)) <= 64


def test_error_counts_labels_as_the_caller_does(pipe, num_encoded):
    pipe.encode_labels(["cat", "dog"])
    with pytest.raises(ValueError, match="of label 2 has"):
        pipe.encode_labels(["cat", "dog", "x" * 400])


def test_shared_synonyms_are_no_obstacle_to_the_cache(pipe, num_encoded):
    words = [["cat"], ["dog", "animal"], ["horse", "animal"]]
    vocabulary = Vocabulary([row[0] for row in words], words, shared_synonyms=True)
    pipe.encode_labels(["cat"])
    fresh = vocabulary.encode(pipe.model, pipe.processor)
    torch.testing.assert_close(pipe.encode_labels(vocabulary).tensor, fresh.tensor, rtol=0, atol=1e-5)


def test_threads_get_their_own_words(pipe, sample_image, num_encoded):
    vocabularies = [["cat", f"thing {i}", "grass"] for i in range(6)]
    results = [None] * 6

    def work(i):
        results[i] = pipe(sample_image, vocabularies[i], return_label_map=True)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for labels, result in zip(vocabularies, results):
        assert result["labels"] == labels
        np.testing.assert_array_equal(result["label_map"], label_map_of(pipe, sample_image, labels))
    assert num_encoded["classes"] == 2 + 6


# --- images are encoded once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", ["whole", "local-global"])
@pytest.mark.parametrize("head", ["full", "dinotxt"])
def test_encoded_image_gives_what_the_image_gives_and_is_not_encoded_again(
    pipe, sample_image, num_encoded, head, inference
):
    encoded = pipe.encode_image(sample_image, inference=inference, head=head)
    num_images = num_encoded["images"]
    results = [pipe(encoded, labels, return_label_map=True) for labels in (LABELS, [*LABELS, "one more"])]
    assert num_encoded["images"] == num_images
    for labels, result in zip((LABELS, [*LABELS, "one more"]), results):
        expected = pipe(sample_image, labels, inference=inference, head=head, return_label_map=True)
        np.testing.assert_array_equal(result["label_map"], expected["label_map"])
    both = pipe([encoded, sample_image], LABELS, batch_size=2, head=head, return_label_map=True)
    np.testing.assert_array_equal(both[0]["label_map"], results[0]["label_map"])


@pytest.mark.parametrize("inference", ["whole", "local-global", "slide"])
def test_the_zero_shot_head_uses_refined_features_where_asked(own_pipe, sample_image, inference):
    def scores(**options):
        result = own_pipe(
            sample_image,
            LABELS,
            head="dinotxt",
            inference=inference,
            return_label_map=True,
            return_scores=True,
            **options,
        )
        return result["scores"]

    plain, refined = scores(refine_features=False), scores(refine_features=True)
    assert plain.shape == refined.shape and np.abs(plain - refined).max() > 1e-3
    np.testing.assert_array_equal(scores(), plain)
    own_pipe.model.config.refine_features = True
    np.testing.assert_array_equal(scores(), refined)
    own_pipe.model.early_refinement.mixing_weight.data.fill_(-10)  # the refined features are then the plain ones
    np.testing.assert_allclose(scores(), plain, atol=1e-3)


def test_encoded_image_is_bound_to_how_it_was_encoded(own_pipe, sample_image):
    encoded = own_pipe.encode_image(sample_image, head="full")
    for options in (
        {"inference": "slide"},
        {"head": "dinotxt"},
        {"window_size": 32},
        {"patch_source": "backbone"},
    ):
        with pytest.raises(ValueError, match="again"):
            own_pipe(encoded, LABELS, **options)
    own_pipe(encoded, LABELS, refine_features=True)  # the full head does so anyway
    with pytest.raises(ValueError, match="again"):
        own_pipe(own_pipe.encode_image(sample_image, head="dinotxt"), LABELS, refine_features=True)
    with pytest.raises(ValueError, match="already encoded"):
        own_pipe.encode_image(encoded)
    with pytest.raises(ValueError, match=r'inference is "slide".* expected "whole" or "local-global"'):
        own_pipe.encode_image(sample_image, inference="slide")
    own_pipe.model.decoder.classifier.bias.data.add_(1)
    with pytest.raises(ValueError, match="other weights"):
        own_pipe(encoded, LABELS)


@pytest.mark.parametrize("inference", ["whole", "local-global"])
@pytest.mark.parametrize("head", ["full", "dinotxt"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_encoded_image_keeps_no_other_memory_than_its_features(pipe, sample_image, head, inference, count):
    settings = InferenceSettings(inference=inference, head=head)
    encoded = pipe.encode_prepared([pipe.prepare(sample_image, settings)] * count, settings)[-1]
    tensors = [encoded.pixels]
    for value in encoded.features.values():
        tensors += value if isinstance(value, tuple) else [value]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda encoded: pickle.loads(pickle.dumps(encoded))])
@pytest.mark.parametrize("head", ["full", "dinotxt"])
def test_a_copy_of_an_encoded_image_gives_the_same(pipe, sample_image, head, copied):
    encoded = pipe.encode_image(sample_image, inference="local-global", head=head)
    options = {"return_label_map": True, "return_scores": True, "refine": "pixels"}
    expected, found = pipe(encoded, LABELS, **options), pipe(copied(encoded), LABELS, **options)
    for key in ("label_map", "score_map", "scores"):
        np.testing.assert_array_equal(found[key], expected[key])


def test_a_pickled_image_is_for_a_model_with_the_same_weights(own_pipe, tiny_processor, sample_image, monkeypatch):
    encoded, other = own_pipe.encode_image(sample_image), own_pipe.encode_image(sample_image)
    content = pickle.dumps(encoded)
    twin = OpenVocabularySegmentationPipeline(
        model=copy.deepcopy(own_pipe.model), processor=tiny_processor, device="cpu"
    )
    expected = own_pipe(encoded, LABELS, return_label_map=True)["label_map"]
    with pytest.raises(ValueError, match="another model"):
        twin(encoded, LABELS)  # in this process, the model itself is known
    again = pickle.loads(pickle.dumps(pickle.loads(content)))
    read = []
    monkeypatch.setattr(fingerprints, "weights_fingerprint", lambda model: read.append(1) or weights_fingerprint(model))
    for _ in range(2):
        np.testing.assert_array_equal(twin(again, LABELS, return_label_map=True)["label_map"], expected)
    assert len(read) == 1
    twin.model.decoder.classifier.bias.data.add_(1)
    own_pipe.model.decoder.classifier.bias.data.add_(1)
    for pipe in (twin, own_pipe):
        with pytest.raises(ValueError, match="other weights"):
            pipe(again, LABELS)
    with pytest.raises(ValueError, match="have changed"):
        pickle.dumps(other)


@pytest.mark.multiprocess
def test_encoded_images_go_through_processes_that_read_images(pipe, sample_image):
    encoded = pipe.encode_image(sample_image)
    expected = pipe(encoded, LABELS, return_label_map=True)["label_map"]
    for result in pipe([encoded, encoded], LABELS, return_label_map=True, num_workers=1):
        np.testing.assert_array_equal(result["label_map"], expected)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference": "windows"}, "inference is 'windows'"),
        ({"head": "zero-shot"}, "head is 'zero-shot'"),
        ({"patch_source": "tail"}, "patch_source is 'tail'"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"threshold": float("nan")}, "between 0 and 1"),
        ({"temperature": 0.0}, "positive number"),
    ],
)
def test_options_out_of_range_are_refused(pipe, sample_image, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(sample_image, LABELS, **options)


def test_misspelled_options_are_refused(pipe, sample_image):
    with pytest.raises(TypeError, match="treshold"):
        pipe(sample_image, LABELS, treshold=0.5)


def test_bad_images_are_refused(pipe, tmp_path):
    whole = tmp_path / "whole.png"
    random_image(50, 50).save(whole)
    files = {
        "empty.png": b"",
        "truncated.png": whole.read_bytes()[:1000],
        "text.png": b"hello, I am no image",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            pipe(str(tmp_path / name), LABELS)
    for image in (None, np.full((8, 8, 3), np.nan), np.zeros((8, 8, 5), np.uint8), np.zeros((0, 8, 3), np.uint8), 5):
        with pytest.raises(ValueError):
            pipe(image, LABELS)


def test_model_in_training_mode_is_refused(own_pipe, sample_image):
    own_pipe.model.train()
    with pytest.raises(ValueError, match="training mode"):
        own_pipe(sample_image, LABELS)
    with pytest.raises(ValueError, match="training mode"):
        own_pipe.encode_image(sample_image)


@pytest.mark.parametrize("inference", MODES)
def test_broken_numbers_never_become_labels(own_pipe, sample_image, inference):
    own_pipe.encode_labels(LABELS)
    with torch.no_grad():
        own_pipe.model.vision_model.head.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        own_pipe(sample_image, LABELS, inference=inference)


def test_want_of_memory_says_what_to_do(pipe, sample_image, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(pipe, "_forward", fail)
    with pytest.raises(MemoryError, match="7 labels need more memory"):
        pipe(sample_image, LABELS)

    def fail_otherwise(*args, **kwargs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(pipe, "_forward", fail_otherwise)
    with pytest.raises(RuntimeError, match="shapes"):
        pipe(sample_image, LABELS)


def test_bfloat16_model_runs(own_pipe, sample_image):
    own_pipe.model.to(torch.bfloat16)
    for inference in MODES:
        assert label_map_of(own_pipe, sample_image, inference=inference).shape == (60, 90)


# --- many labels -----------------------------------------------------------------------------------------------------


def random_embeddings(model, num_classes):
    width = model.config.vision_config.hidden_size
    tensor = torch.nn.functional.normalize(torch.randn(num_classes, 2, width, generator=torch.manual_seed(0)), dim=-1)
    return TextEmbeddings(tensor, tuple(f"thing {i}" for i in range(num_classes)), "none", model_fingerprint(model))


def test_ten_thousand_labels_work(pipe):
    text = random_embeddings(pipe.model, 10_000)
    result = pipe(random_image(30, 30), text, head="dinotxt", return_label_map=True)
    assert result["label_map"].shape == (30, 30) and result["label_map"].max() > 255
    assert all(segment["label"] == text.names[int(segment["label"].split()[1])] for segment in result["segments"])


@pytest.mark.slow
def test_ten_thousand_labels_work_from_words_through_the_full_head(pipe):
    labels = [f"thing {i}" for i in range(10_000)]
    assert label_map_of(pipe, random_image(30, 30), labels).shape == (30, 30)


def test_labels_that_a_checkpoint_cannot_know_are_warned_of(own_pipe, sample_image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own_pipe(sample_image, LABELS)  # a checkpoint that does not say what it knows
        own_pipe.model.config.known_words = ["red", "blue", "circle", "square"]
        own_pipe(sample_image, ["red circle", "ball|blue square"])
    with pytest.warns(UnknownWordsWarning, match=r"knows 4 words only \(red, blue, circle, square\). 1 of 2 labels"):
        own_pipe(sample_image, ["red circle", "dog"])


@pytest.mark.parametrize("settings", [{"head": "dinotxt"}, "whole", 1, [], InferenceSettings])
def test_stages_refuse_settings_and_labels_of_other_types(pipe, sample_image, settings):
    prepared = pipe.prepare(sample_image)
    text = pipe.encode_labels(LABELS)
    for call in (
        lambda: pipe.prepare(sample_image, settings),
        lambda: pipe.encode_prepared([prepared], settings),
        lambda: pipe.segment_prepared([prepared], text, settings),
        lambda: pipe.resolved_settings(settings),
        lambda: pipe.check_calibration(text, settings),
    ):
        with pytest.raises(ValueError, match="expected InferenceSettings"):
            call()
    with pytest.raises(ValueError, match="expected text embeddings"):
        pipe.segment_prepared([prepared], LABELS)
