# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The doctor finds what is planted, leaves good words alone, and its vocabulary fits the masks of the first one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinov3seg_hf.cli import main
from dinov3seg_hf.doctor import (
    Finding,
    apply_findings,
    count_winners,
    find_similar,
    find_spelling,
    find_winners,
    verify_active_classes,
)
from dinov3seg_hf.doctor.spelling import MEANINGS, known_words, separated
from dinov3seg_hf.drawn_world.names import COLORS, KINDS
from dinov3seg_hf.model import active_classes
from dinov3seg_hf.model.calibration import Calibration
from dinov3seg_hf.model.pipeline import OpenVocabularySegmentationPipeline
from dinov3seg_hf.model.text_embeddings import TextEmbeddings
from dinov3seg_hf.model.vocabulary import Vocabulary

WORDS = [
    *("TrafficLight", "traffic light", "traffic_light", "trafficlight", "mouse", "computer mouse", "mouse animal"),
    *("trafic light", "light", "lamp light", "sidewlk", "sidewalk", "side_walk", "sky", "zzyzx"),
]


class Letters:
    """A tokenizer that knows the given words and tears all others into letters."""

    def __init__(self, *known):
        self.known = known

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [0] if text in self.known else list(range(len(text)))}


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("trafficlight", "traffic light"),
        ("TrafficLight", "traffic light"),
        ("dining_table", "dining table"),
        ("wall/other", "wall other"),
        ("red trafficlight", "red traffic light"),
        ("sidewalk", "sidewalk"),
        ("TV", "TV"),
        ("New York", "New York"),
        ("qwertyuiop", "qwertyuiop"),
    ],
)
def test_joined_words_are_separated_and_others_stay(word, expected):
    assert separated(word) == expected
    assert separated(expected) == expected


def test_a_word_that_is_one_piece_to_the_tokenizer_is_not_separated():
    vocabulary = Vocabulary(["plain background", "trafficlight"])
    tokenizer = Letters("plain", "background", "traffic", "light")
    assert [finding.labels for finding in find_spelling(vocabulary) if finding.kind == "joined"] == [(0,), (1,)]
    (finding,) = find_spelling(vocabulary, tokenizer)
    assert finding.labels == (1,) and finding.words == {"trafficlight": "traffic light"}


def test_the_words_of_the_benchmarks_are_known_and_not_separated():
    for preset in Vocabulary.presets():
        found = find_spelling(Vocabulary.from_preset(preset))
        joined = {finding.message.split("'")[1] for finding in found if finding.kind == "joined"}
        assert not [word for word in joined if word.isalpha() and word.islower()], preset
    assert {"sky", "traffic", "necktie"} <= known_words()


@pytest.mark.parametrize("word", sorted(MEANINGS))
def test_a_word_with_several_meanings_is_named_with_a_phrase_that_has_one(word):
    (finding,) = find_spelling(Vocabulary(["sky", word]))
    assert (finding.kind, finding.labels) == ("meanings", (1,))
    better = apply_findings(Vocabulary(["sky", word]), [finding])
    assert better.names[1] == MEANINGS[word][0]
    assert find_spelling(better) == []


def test_a_synonym_says_which_meaning_is_meant():
    assert find_spelling(Vocabulary.from_list(["tie|necktie", "mouse|computer mouse"])) == []


@pytest.mark.parametrize("tokenizer", [None, Letters("sky")])
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, unique_by=str.casefold), data=st.data())
def test_proposals_for_any_words_can_be_applied(words, data, tokenizer):
    """Also where a class, a synonym or another proposal has the word: "mouse, computer mouse"."""
    classes = [[words[0]]]
    for word in words[1:]:
        if data.draw(st.booleans()):
            classes.append([word])
        else:
            classes[-1].append(word)
    vocabulary = Vocabulary([words[0] for words in classes], classes)
    changed = apply_findings(vocabulary, find_spelling(vocabulary, tokenizer))
    assert len(changed) == len(vocabulary)


def test_of_several_meanings_one_that_no_other_class_has_is_proposed():
    (found,) = find_spelling(Vocabulary(["mouse", "computer mouse"]))
    assert found.words == {"mouse": "mouse animal"}
    found = find_spelling(Vocabulary(["TrafficLight", "traffic light", "traffic_light"]))
    assert [finding.has_proposal for finding in found] == [False, False]
    assert "There is 'traffic light' already." in found[0].message


def test_words_that_the_tokenizer_tears_are_found_and_misspelled_ones_corrected():
    tokenizer = Letters("sky", "green", "sidewalk")
    vocabulary = Vocabulary(["sky", "green sidewlk", "zzyzx", "car"])
    found = find_spelling(vocabulary, tokenizer)
    assert [(finding.kind, finding.labels) for finding in found] == [("torn", (1,)), ("torn", (2,))]
    assert "'sidewlk' in 'green sidewlk' is 7 pieces" in found[0].message and not found[1].has_proposal
    assert apply_findings(vocabulary, found).names == ("sky", "green sidewalk", "zzyzx", "car")


# --- embeddings ------------------------------------------------------------------------------------------------------


def embeddings(vocabulary, rows):
    tensor = torch.nn.functional.normalize(torch.tensor(rows).float(), dim=-1)
    return TextEmbeddings(torch.stack([tensor, tensor], dim=1), vocabulary.names, vocabulary.fingerprint, "none")


def test_classes_with_the_same_embedding_are_found_the_most_similar_first():
    vocabulary = Vocabulary(["sofa", "couch", "sky", "settee"])
    text = embeddings(vocabulary, [[1, 0, 0], [1, 0.01, 0], [0, 0, 1], [1, 0.2, 0]])
    found = find_similar(vocabulary, text, 0.95)
    assert [finding.labels for finding in found] == [(0, 1), (1, 3), (0, 3)]
    assert find_similar(vocabulary, text, 0.99999) == []
    assert apply_findings(vocabulary, found).synonyms == (("sofa", "couch", "settee"), ("sky",))


def test_masks_of_the_first_vocabulary_fit_the_merged_one():
    vocabulary = Vocabulary(["sofa", "sky", "couch", "road"], ignore_label=9)
    merged = apply_findings(vocabulary, [Finding("similar", (0, 2), "", merge=(0, 2))])
    assert merged.names == ("sofa", "sky", "road")
    np.testing.assert_array_equal(merged.labels_from_raw(np.array([[0, 1, 2, 3, 9]])), [[0, 1, 0, 2, 9]])
    raw = Vocabulary(["sofa", "sky", "couch"], raw_ids={10: 0, 20: 1, 30: 2, 31: 2})
    merged = apply_findings(raw, [Finding("similar", (0, 2), "", merge=(0, 2))])
    assert dict(merged.raw_ids) == {10: 0, 20: 1, 30: 0, 31: 0}


def test_synonyms_of_merged_classes_are_not_repeated():
    vocabulary = Vocabulary(["sofa", "couch"], [["sofa", "settee"], ["couch", "Settee"]], shared_synonyms=True)
    assert apply_findings(vocabulary, [Finding("similar", (0, 1), "", merge=(0, 1))]).synonyms == (
        ("sofa", "settee", "couch"),
    )


def test_classes_that_are_merged_for_evaluation_are_not_merged_again():
    vocabulary = Vocabulary(["sofa", "couch", "sky"], background_from=1)
    with pytest.raises(ValueError, match="background_from"):
        apply_findings(vocabulary, [Finding("similar", (1, 2), "", merge=(1, 2))])


# --- images ----------------------------------------------------------------------------------------------------------


def test_thieves_and_classes_without_a_pixel_are_found():
    vocabulary = Vocabulary(["thief", "dog", "cat", "bird", "horse", "cow", "sheep", "sky"])
    shares = np.zeros((8, 8))
    shares[:, 0] = 0.7
    shares[np.arange(6), np.arange(1, 7)] = 0.3  # each of six classes in one image
    found = find_winners(vocabulary, shares)
    assert [(finding.kind, finding.labels) for finding in found] == [("everywhere", (0,)), ("nowhere", (7,))]
    assert find_winners(vocabulary, shares[:4]) == []  # too few images to say anything
    shares[:, 0] = 0.0
    shares[:2, 0] = 0.7  # large, but rare
    assert [finding.kind for finding in find_winners(vocabulary, shares)] == ["nowhere"]


def test_shares_are_those_of_the_label_map():
    class Pipe:
        def __call__(self, image, text, **options):
            assert options == {"return_label_map": True, "return_masks": False, "head": "dinotxt"}
            return {"label_map": np.array([[0, 0], [2, -1]])}

    vocabulary = Vocabulary(["a", "b", "c"])
    shares = count_winners(Pipe(), [None, None], embeddings(vocabulary, np.eye(3).tolist()), head="dinotxt")
    np.testing.assert_array_equal(shares, [[0.5, 0, 0.25]] * 2)


def test_disagreement_with_all_classes_is_the_share_of_pixels_that_change(
    tiny_model, tiny_processor, sample_image, monkeypatch
):
    monkeypatch.setattr(active_classes, "MAX_GROUPS", 1)
    options = {"active_classes": 1}  # the default of this pipeline
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu", **options)
    text = pipe.encode_labels([f"{color} {kind}" for color in COLORS for kind in KINDS])
    few, every = (
        pipe(sample_image, text, active_classes=number, inference="slide", return_label_map=True)["label_map"]
        for number in (1, 1000)
    )
    assert (few != every).any()
    (found,) = verify_active_classes(pipe, [sample_image], text, 1, inference="slide")
    assert found.share == (few != every).mean() and found.seconds > 0 < found.seconds_of_all
    (found,) = verify_active_classes(pipe, [sample_image], text, len(text))
    assert found.share == 0
    with pytest.raises(ValueError, match=r'head is "dinotxt".* Leave out active_classes'):
        verify_active_classes(pipe, [sample_image], text, head="dinotxt")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_reports_and_writes(tmp_path, capsys, tiny_checkpoint):
    (tmp_path / "classes.txt").write_text("TrafficLight\ntie\nsky\n")
    (tmp_path / "photos").mkdir()
    for index in range(5):
        Image.new("RGB", (40, 30), (index * 40, 80, 120)).save(tmp_path / "photos" / f"{index}.png")
    command = ["doctor", "--labels-file", str(tmp_path / "classes.txt"), "--model", str(tiny_checkpoint)]
    assert main([*command, "--images", str(tmp_path / "photos"), "--write", str(tmp_path / "better.tsv")]) == 0
    printed = capsys.readouterr().out
    assert "'TrafficLight' is written as one word" in printed and "Proposal: 'necktie'." in printed
    assert {"traffic light", "necktie"} <= {
        word for words in Vocabulary.from_file(tmp_path / "better.tsv").synonyms for word in words
    }
    assert main([*command, "--images", str(tmp_path / "photos"), "--active-classes", "auto"]) == 0
    assert "--active-classes auto: 0.00 % of the pixels get another label" in capsys.readouterr().out  # 3 classes
    # words that were calibrated for other settings than those of the checkpoint
    calibration = Calibration((0.1,) * 3, "dinotxt", "other", inference="slide")
    replace(Vocabulary.from_file(tmp_path / "better.tsv"), calibration=calibration).save(tmp_path / "calibrated.tsv")
    images = ["--images", str(tmp_path / "photos")]
    assert main([*command[:2], str(tmp_path / "calibrated.tsv"), *command[3:], *images]) == 0
    capsys.readouterr()
    assert main([*command, "--only", "meanings", "--write", str(tmp_path / "one.json")]) == 0
    assert Vocabulary.from_file(tmp_path / "one.json").names == ("TrafficLight", "necktie", "sky")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--images", "nowhere"), "'nowhere' was not found"),
        (("--write", "better.txt"), "expected a file that ends in .tsv or .json"),
        (("--write", "nowhere/better.tsv"), "Create the folder"),
        (("--active-classes", "auto"), "Pass --images"),
    ],
)
def test_wrong_arguments_are_named_before_a_model_is_loaded(more, message, capsys):
    assert main(["doctor", "--labels", "sky", "--model", "nobody/nothing", *more]) == 2
    assert message in capsys.readouterr().err


# --- what is not what it should be -----------------------------------------------------------------------------------


def test_one_image_is_one_image_and_names_are_encoded(tiny_model, tiny_processor, sample_image):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    names = ["red circle", "blue square", "star"]
    array = np.array(sample_image)
    expected = count_winners(pipe, [sample_image], pipe.encode_labels(names), inference="whole")
    for images in (sample_image, array, array[None], torch.from_numpy(array).permute(2, 0, 1), iter([sample_image])):
        np.testing.assert_array_equal(count_winners(pipe, images, names, inference="whole"), expected)
    assert len(verify_active_classes(pipe, array, ", ".join(names), inference="whole")) == 1


def test_shares_and_embeddings_of_other_classes_are_refused():
    vocabulary = Vocabulary(["sofa", "sky"])
    text = embeddings(Vocabulary(["couch", "sky", "road"]), np.eye(3).tolist())
    with pytest.raises(ValueError, match="those of 3 other classes; expected those of the vocabulary"):
        find_similar(vocabulary, text)
    with pytest.raises(ValueError, match=r"expected text embeddings. Encode"):
        find_similar(vocabulary, ["sofa", "sky"])
    for similarity in (np.nan, 2, "0.9", True):
        with pytest.raises(ValueError, match="expected a number between -1 and 1"):
            find_similar(vocabulary, embeddings(vocabulary, np.eye(2).tolist()), similarity)
    for shares in (np.zeros((6, 3)), np.zeros(2), None, [["a", "b"]], np.zeros((6, 2), bool)):
        with pytest.raises(ValueError, match=r"expected numbers of shape \(images, 2\)"):
            find_winners(vocabulary, shares)
    assert len(find_winners(vocabulary, np.zeros((6, 2)).tolist())) == 2
