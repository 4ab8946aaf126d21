# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Vocabularies keep what they were given, refuse what is ambiguous, and their embeddings fit one model alone."""

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from dinov3seg_hf.model.dinotxt import encode_prompts
from dinov3seg_hf.model.fingerprints import model_fingerprint, weights_key
from dinov3seg_hf.model.text_embeddings import TextEmbeddings
from dinov3seg_hf.model.tokenization import clean_text
from dinov3seg_hf.model.vocabulary import Vocabulary

MAX_TOKENS = 40
no_deadline = settings(deadline=None)  # shared machines are slow at times


def spelling(word):
    return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFC", word).split()).casefold())


# characters that are printable, and hide in a word
HIDDEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U0001d159\u180b\u180c\u180d\u180f" + "".join(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
words = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs"), exclude_characters="," + HIDDEN), min_size=1, max_size=8
).filter(lambda word: any(c.isprintable() and c != " " for c in " ".join(unicodedata.normalize("NFC", word).split())))


@st.composite
def vocabularies(draw):
    all_words = draw(st.lists(words, min_size=2, max_size=12, unique_by=spelling))
    cuts = sorted(draw(st.sets(st.integers(1, len(all_words) - 1))))
    synonyms = [all_words[a:b] for a, b in zip([0, *cuts], [*cuts, len(all_words)])]
    size = len(synonyms)
    names = draw(st.sampled_from([[w[0] for w in synonyms], [f"class {i}" for i in range(size)]]))
    background_from = draw(st.none() | st.integers(1, size - 1)) if size > 1 else None
    num_scored = size if background_from is None else background_from + 1
    return Vocabulary(
        names,
        synonyms,
        templates=draw(st.sampled_from(["scene", "none", "simple", "\u2028 ü\t{}"])),
        ignore_label=draw(st.sampled_from([None, -100, 65535])),
        raw_ids=draw(st.none() | st.dictionaries(st.integers(0, 65535), st.integers(0, num_scored - 1), min_size=1)),
        background_from=background_from,
        shared_synonyms=draw(st.booleans()),
    )


# Names


@no_deadline
@given(st.lists(words, min_size=1, max_size=8, unique_by=spelling))
def test_label_i_is_the_i_th_name_whatever_its_spaces_and_letter_case(names):
    vocabulary = Vocabulary(names)
    assert len(vocabulary) == len(names)
    for i, name in enumerate(names):
        assert spelling(vocabulary.names[i]) == spelling(name)
        assert vocabulary.index(f"  {name} ") == vocabulary.label2id[vocabulary.id2label[i]] == i
    assert vocabulary.index(names[0].casefold()) == 0


def test_words_after_a_bar_are_synonyms_and_all_of_them_are_prompted():
    vocabulary = Vocabulary.from_list(["sofa | couch", "cat"], templates=["{}", "a {}"])
    assert vocabulary.names == ("sofa", "cat")
    assert vocabulary.synonyms == (("sofa", "couch"), ("cat",))
    assert vocabulary.prompts() == [["sofa", "a sofa", "couch", "a couch"], ["cat", "a cat"]]


def test_a_name_is_the_same_however_its_letters_and_spaces_are_written():
    assert Vocabulary([" cafe\u0301\tbar"]) == Vocabulary(["caf\u00e9 bar"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "Got no labels; expected at least one"),
        ("cat", r"are one string, 'cat'; expected a list of strings. Pass \['cat'\]"),
        ({"cat": 0}, "are of type dict; expected a list"),
        ({"cat"}, "are of type set; .*in the order of the labels"),
        (None, "are of type NoneType"),
        (7, "are of type int"),
        (["cat", ""], "Label 1 is '', which has no visible characters"),
        (["cat", " \t\n"], "Label 1 is .*, which has no visible characters"),
        (["\u200b"], "no visible characters"),
        (["cat|"], "A word of label 0 .'cat'. is '', which has no visible characters"),
        (["cat||puss"], "no visible characters"),
        (["a\x00b"], "control characters"),
        (["a\ud800"], "broken Unicode"),
        (["cat", "cat\u200b"], r"Label 1, 'cat\\u200b', contains the invisible character U\+200B"),
        (["cat", 3], "Label 1 is 3 of type int; expected a string"),
        (["cat", None], "Label 1 is None of type NoneType"),
        (["cat", "dog", "Cat"], "Labels 0 and 2 have the same name, 'cat' and 'Cat'; expected different"),
        (["red  circle", " red circle"], "Labels 0 and 1 have the same name"),
        (["caf\u00e9", "cafe\u0301"], "Labels 0 and 1 have the same name"),
        (["\u0390", "\u0390".upper()], "Labels 0 and 1 have the same name"),
        (["cat|CAT"], "Label 0 .'cat'. has the word 'CAT' twice"),
        (["cat", "dog|cat"], "The word 'cat' stands for two classes, label 0 .'cat'. and label 1 .'dog'."),
        (["sofa|seat", "chair|seat"], "The word 'seat' stands for two classes"),
        (map(str, range(65536)), "Got 65536 labels; expected at most 65535, because a 16-bit label map"),
    ],
)
def test_bad_labels_are_refused_with_what_was_given(labels, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_list(labels)


def test_a_message_stays_short_however_long_the_label():
    with pytest.raises(ValueError) as error:
        Vocabulary.from_list(["x" * 10**6, "x" * 10**6])
    assert len(str(error.value)) < 400


def test_shared_words_are_allowed_on_request_but_classes_without_a_difference_never():
    Vocabulary(["sofa", "chair"], [["sofa", "seat"], ["chair", "seat"]], shared_synonyms=True)
    with pytest.raises(ValueError, match=r"Labels 0 .'one'. and 1 .'two'. have the same words"):
        Vocabulary(["one", "two"], [["sofa", "seat"], ["Seat", "sofa"]], shared_synonyms=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"synonyms": [["cat"]]}, "Got 1 lists of synonyms for 2 names"),
        ({"synonyms": [["cat"], []]}, "Label 1 .'dog'. has no words to prompt"),
        ({"synonyms": [["cat"], "dog"]}, "Synonyms of label 1 are one string"),
        ({"templates": "photo"}, "templates is 'photo'; expected a template set"),
        ({"ignore_label": 1}, "ignore_label is 1, which is the label of 'dog'"),
        ({"ignore_label": 1.5}, "ignore_label is 1.5 of type float; expected an integer"),
        ({"ignore_label": True}, "expected an integer"),
        ({"background_from": 0}, "background_from is 0; expected a label between 1 and 1"),
        ({"background_from": 2}, "background_from is 2"),
        ({"raw_ids": [1, 2]}, "raw_ids is of type list"),
        ({"raw_ids": {1: 2}}, "raw id 1 stands for label 2; expected a label from 0 to 1"),
        ({"raw_ids": {-1: 0}}, "raw id is -1; expected 0 to 65535"),
        ({"raw_ids": {"1": 0}}, "A raw id is '1' of type str"),
        ({"shared_synonyms": 1}, "shared_synonyms is 1; expected true or false"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(["cat", "dog"], **arguments)


@pytest.mark.parametrize(("size", "ignore_label"), [(1, 255), (255, 255), (256, 65535), (65535, 65535)])
def test_the_ignore_label_is_never_a_class(size, ignore_label):
    assert Vocabulary([f"class {i}" for i in range(size)]).ignore_label == ignore_label


def test_an_unknown_name_is_refused_with_what_comes_close():
    with pytest.raises(
        ValueError, match=r"Name 'stripped circle' was not found in the 2 classes. Similar names: 'Striped circle'"
    ):
        Vocabulary(["Striped circle", "sky"]).index("stripped circle")


def test_class_labels_of_a_data_set_keep_their_order():
    assert Vocabulary.from_class_label(SimpleNamespace(names=["b", "a|c"])).names == ("b", "a|c")
    with pytest.raises(ValueError, match=r"has no class names; expected a datasets.ClassLabel"):
        Vocabulary.from_class_label(SimpleNamespace(names=None))
    with pytest.raises(ValueError, match="has no class names"):
        Vocabulary.from_class_label(["cat"])


def test_the_class_label_of_datasets_is_understood():
    datasets = pytest.importorskip("datasets")
    assert Vocabulary.from_class_label(datasets.ClassLabel(names=["sky", "sea"])).names == ("sky", "sea")


def test_a_vocabulary_can_be_a_key_travel_to_a_worker_and_be_changed_in_one_field():
    vocabulary = Vocabulary(["cat", "dog"], raw_ids={7: 0, 9: 1})
    assert vocabulary.fingerprint  # a computed property must not matter to what follows
    again = pickle.loads(pickle.dumps(vocabulary))
    assert again == vocabulary and {vocabulary: 1}[again] == 1
    assert dataclasses.replace(vocabulary, templates="none").prompts() == [["cat"], ["dog"]]
    with pytest.raises(dataclasses.FrozenInstanceError):
        vocabulary.names = ("x",)


@no_deadline
@given(vocabularies())
def test_the_fingerprint_stands_for_names_words_and_templates(vocabulary):
    changed = [dataclasses.replace(vocabulary, templates="Only {}")]
    words_of_last = (*vocabulary.synonyms[-1], "one word more than eight letters")
    changed.append(dataclasses.replace(vocabulary, synonyms=(*vocabulary.synonyms[:-1], words_of_last)))
    changed.append(dataclasses.replace(vocabulary, names=(*vocabulary.names[:-1], "a name of more than eight letters")))
    if len(vocabulary) > 1:
        changed.append(
            dataclasses.replace(vocabulary, names=vocabulary.names[::-1], synonyms=vocabulary.synonyms[::-1])
        )
    assert len({vocabulary.fingerprint, *(c.fingerprint for c in changed)}) == 1 + len(changed)
    assert dataclasses.replace(vocabulary, ignore_label=-1).fingerprint == vocabulary.fingerprint


# Annotations


@no_deadline
@given(vocabularies(), st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]), st.data())
def test_raw_annotations_become_labels_pixel_by_pixel(vocabulary, dtype, data):
    raw_ids = vocabulary.raw_ids
    if raw_ids is None:
        raw_ids = {label: label for label in range(len(vocabulary.scored_names))}
    info = np.iinfo(dtype)
    values = [v for v in (*raw_ids, 0, info.min, info.max) if info.min <= v <= info.max]
    pixels = data.draw(st.lists(st.sampled_from(values) | st.integers(info.min, info.max), min_size=1, max_size=12))
    labels = vocabulary.labels_from_raw(np.array([pixels], dtype))
    assert labels.dtype == np.int32
    assert labels.tolist() == [[raw_ids.get(pixel, vocabulary.ignore_label) for pixel in pixels]]


def test_an_annotation_of_floats_is_refused():
    with pytest.raises(ValueError, match="The annotation has dtype float64; expected one integer per pixel"):
        Vocabulary(["cat"]).labels_from_raw(np.zeros((2, 2)))


@no_deadline
@given(vocabularies(), st.sampled_from([np.uint16, np.int64]), st.data())
def test_scored_labels_merge_the_background_and_nothing_else(vocabulary, dtype, data):
    values = st.integers(0, len(vocabulary) - 1)
    if vocabulary.ignore_label >= 0:
        values |= st.just(vocabulary.ignore_label)
    predicted = np.array(data.draw(st.lists(values, min_size=1, max_size=12)), dtype)
    scored = vocabulary.to_scored(predicted)
    assert scored.dtype == dtype
    for before, after in zip(predicted.tolist(), scored.tolist()):
        if before == vocabulary.ignore_label:
            assert after == before
        elif vocabulary.background_from is None or before < vocabulary.background_from:
            assert vocabulary.scored_names[after] == vocabulary.names[before]
        else:
            assert vocabulary.scored_names[after] == "background"


# Files


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("suffix", [".json", ".tsv"])
@given(vocabulary=vocabularies())
def test_a_saved_vocabulary_comes_back_equal(vocabulary, suffix, tmp_path):
    path = tmp_path / f"vocabulary{suffix}"
    vocabulary.save(path)
    again = Vocabulary.from_file(path)
    assert again == vocabulary
    assert again.fingerprint == vocabulary.fingerprint


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_file_has_a_class_a_line(tmp_path):
    content = b"\xef\xbb\xbfsofa|couch\r\n\r\n# what is left\r\nred  circle\r\n"
    vocabulary = Vocabulary.from_file(write(tmp_path, "words.txt", content))
    assert vocabulary == Vocabulary.from_list(["sofa|couch", "red circle"])
    assert Vocabulary.from_file(tmp_path / "words.txt", templates="none").prompts()[1] == ["red circle"]


def test_a_benchmark_file_has_words_by_comma_and_raw_ids(tmp_path):
    content = "label\traw_id\tnames\n0\t2978\twall\n1\t312, 313\tbuilding, edifice\n2\t\tsky\n"
    vocabulary = Vocabulary.from_file(write(tmp_path, "a.tsv", content))
    assert vocabulary.synonyms == (("wall",), ("building", "edifice"), ("sky",))
    assert vocabulary.raw_ids == {312: 1, 313: 1, 2978: 0}


def test_json_is_a_list_or_the_arguments(tmp_path):
    assert Vocabulary.from_file(write(tmp_path, "a.json", '["sofa|couch", "cat"]')) == Vocabulary.from_list(
        ["sofa|couch", "cat"]
    )
    content = {"names": ["sofa"], "synonyms": [["sofa", "a, b|c"]], "templates": "none", "raw_ids": {"4": 0}}
    vocabulary = Vocabulary.from_file(write(tmp_path, "b.json", json.dumps(content)))
    assert vocabulary == Vocabulary(["sofa"], [["sofa", "a, b|c"]], templates="none", raw_ids={4: 0})


def test_comments_end_a_line_of_a_text_file_and_words_may_contain_their_sign(tmp_path):
    content = "# pets\ncat  # or kitten\n  # none\nC# book|C#\n"
    assert Vocabulary.from_file(write(tmp_path, "a.txt", content)) == Vocabulary.from_list(["cat", "C# book|C#"])


@pytest.mark.parametrize(
    "content",
    [
        "sofa|couch\ncat\n",
        "name\nsofa|couch\ncat\n",
        "# mine\nlabel,Names\n0,sofa|couch\n\n1,cat\n",
        '"sofa|couch"\n"cat"',
        "sofa|couch,\ncat,\n",
        "name,\nsofa|couch,\ncat,\n",
    ],
)
def test_a_table_of_commas_is_a_table_of_tabs_with_words_by_bar(content, tmp_path):
    assert Vocabulary.from_file(write(tmp_path, "a.csv", content)) == Vocabulary.from_list(["sofa|couch", "cat"])


def test_a_table_of_commas_has_all_columns_of_the_other(tmp_path):
    content = '#: ignore_label 65535\nraw_id,names,display\n"1,2",sofa|couch,seat\n,cat,\n'
    vocabulary = Vocabulary.from_file(write(tmp_path, "a.csv", content))
    assert vocabulary == Vocabulary(
        ["seat", "cat"], [["sofa", "couch"], ["cat"]], ignore_label=65535, raw_ids={1: 0, 2: 0}
    )


def test_yaml_is_what_json_is_or_a_yolo_data_set(tmp_path):
    expected = Vocabulary.from_list(["sofa|couch", "cat"])
    for content in (
        "- sofa|couch  # a seat\n- cat\n",
        "names: [sofa|couch, cat]\n",
        "path: .\ntrain: images/train\nnc: 2\nnames:\n  0: sofa|couch\n  1: cat\n",
        "names: [sofa, cat]\nsynonyms: [[sofa, couch], [cat]]\n",
    ):
        assert Vocabulary.from_file(write(tmp_path, "a.yaml", content)) == expected
    content = "names: [sofa]\nraw_ids: {4: 0}\ntemplates: none\n"
    assert Vocabulary.from_file(write(tmp_path, "b.yml", content)) == Vocabulary(["sofa"], None, "none", raw_ids={4: 0})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "Got no labels"),
        ("a.txt", "cat, dog\n", "line 1, 'cat, dog', contains a comma; expected one class per line"),
        ("a.txt", "cat\ndog\nCat\n", "Labels 0 and 2 have the same name"),
        ("a.txt", b"caf\xe9\n", "is not UTF-8 text"),
        ("a.xml", "cat\n", "ends in '.xml'; expected .txt, .tsv, .csv, .json, .yaml, .yml"),
        ("a.csv", "", "Got no labels"),
        ("a.csv", "cat\ndog,sky\n", "has 2 columns; expected a header with 'names'"),
        ("a.csv", "label,color\n0,red\n", "expected 'names'"),
        ("a.csv", "id,name\n0,red\n", r"columns \['id', 'name'\]; expected 'names' and optionally 'label'"),
        ("a.csv", 'names,label\n"cat, kitten",0\n', "expected words separated by '|'"),
        ("a.csv", "names,label\ncat\n", "has 1 columns; expected 2"),
        ("a.csv", "names\tlabel\ncat\t0\n", "contains a tab"),
        ("a.csv", 'names\n"traffic\nlight"\ncat\n', "contains a line break"),
        ("a.yaml", "[cat", "not valid YAML"),
        ("a.yaml", "- no\n", "Label 0 is False of type bool"),
        ("a.yaml", "names: {1: cat}\n", "expected the labels 0, 1"),
        ("a.yaml", "labels: [cat]\n", "the content is an object with"),
        ("a.tsv", "", "Got no labels"),
        ("a.tsv", "label\traw_id\n0\t1\n", "line 1, the header, .*expected 'names'"),
        ("a.tsv", "names\tcolor\ncat\tred\n", "line 1, the header"),
        ("a.tsv", "names\tnames\ncat\tred\n", "line 1, the header"),
        ("a.tsv", "label\tnames\n0\tcat\n0\tdog\n", "line 3 has label 0; expected 1"),
        ("a.tsv", "label\tnames\nzero\tcat\n", "line 2 is 'zero'; expected a whole number"),
        ("a.tsv", "label\tnames\n0\n", "line 2, '0', has 1 columns; expected 2"),
        ("a.tsv", "label\tnames\n0\t\n", "Label 0 is '', which has no visible characters"),
        ("a.tsv", "raw_id\tnames\n3\tcat\n3\tdog\n", "raw_id 3 stands for the labels 0 and 1"),
        ("a.tsv", "raw_id\tnames\nx\tcat\n", "the raw_id of label 0 is 'x'"),
        ("a.tsv", "#: ignore 3\nnames\ncat\n", "line 1 sets 'ignore'; expected one of ignore_label"),
        ("a.tsv", "#: ignore_label\nnames\ncat\n", "line 1 sets ignore_label to ''; expected a JSON value"),
        ("a.tsv", "#: background_from x\nnames\ncat\n", "expected a JSON value"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", "3", "the content is 3; expected a list of names, or an object"),
        ("a.json", '{"labels": ["cat"]}', "the content is an object with .'labels'.; expected"),
        ("a.json", '{"names": ["cat"], "template": "none"}', "the content is an object with"),
        ("a.json", '{"names": ["cat"], "raw_ids": {"x": 0}}', "raw_ids is 'x'"),
        ("a.json", '["cat", null]', "Label 1 is None"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_the_place(name, content, message, tmp_path):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as error:
        Vocabulary.from_file(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        Vocabulary.from_file(tmp_path / "missing.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        Vocabulary.from_file(tmp_path / "folder.txt")


def test_saving_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "vocabulary.json"
    Vocabulary(["old"]).save(path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(ValueError, match="cannot be written: No space left on device"):
            Vocabulary(["new"]).save(path)
    assert Vocabulary.from_file(path).names == ("old",)
    assert list(tmp_path.iterdir()) == [path]

    with pytest.raises(ValueError, match="cannot be written: No such file"):
        Vocabulary(["new"]).save(tmp_path / "missing" / "vocabulary.json")
    with pytest.raises(ValueError, match=r"ends in '.txt'; expected .json or .tsv"):
        Vocabulary(["new"]).save(tmp_path / "vocabulary.txt")
    with pytest.raises(ValueError, match=r"'red, round' contains a comma.*Save the vocabulary as .json"):
        Vocabulary(["red, round"]).save(tmp_path / "vocabulary.tsv")
    assert list(tmp_path.iterdir()) == [path]


# Presets: what is scored is published, so not a word and not a number may change by accident

PRESETS = {  # classes, prompted words, ignore label, checksum of the words, checksum of raw ids and labels
    "ade20k-150": (150, 150, 255, "c3bc33f87b1b9bc2", "251cb8ba6e902963"),
    "ade20k-847": (847, 1281, 65535, "54d257f84fe74fbb", "d07cb2b7d8a93d8b"),
    "coco-stuff-171": (171, 171, 255, "0ae624b3312f240a", "5f0314e518b6467b"),
    "pascal-context-459": (459, 459, 65535, "04da55965ff1efc9", "c8b1ed0136a3ab2b"),
    "pascal-context-59": (59, 59, 255, "37ad8dd9093dcde0", "261698fcd3540a28"),
    "pascal-voc-20": (20, 20, 255, "e5514fa221bd9217", "db06edbba9720d93"),
    "pascal-voc-20b": (59, 59, 255, "2fcd640d024f9a0b", "8aee7e0967c1c802"),
}


def checksum(content):
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def test_the_presets_are_the_seven_benchmarks():
    assert Vocabulary.presets() == tuple(sorted(PRESETS))
    with pytest.raises(ValueError, match=r"Preset 'ade20k' was not found; available: ade20k-150, ade20k-847"):
        Vocabulary.from_preset("ade20k")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_the_benchmark_says(name, tmp_path):
    vocabulary = Vocabulary.from_preset(name)
    content = (
        len(vocabulary),
        sum(map(len, vocabulary.synonyms)),
        vocabulary.ignore_label,
        checksum(vocabulary.synonyms),
        checksum(list(vocabulary.raw_ids.items())),
    )
    assert content == PRESETS[name]
    assert vocabulary.prompts()[0][0] == f"A photo of a {vocabulary.synonyms[0][0]} in the scene"
    assert Vocabulary.from_preset(name, templates="none").prompts() == [list(w) for w in vocabulary.synonyms]
    vocabulary.save(tmp_path / "preset.tsv")
    assert Vocabulary.from_file(tmp_path / "preset.tsv") == vocabulary


def test_presets_read_annotations_by_the_rule_of_their_benchmark():
    def labels(name, raw):
        return Vocabulary.from_preset(name).labels_from_raw(np.array(raw, np.uint16)).tolist()

    assert labels("ade20k-150", [0, 1, 150, 151]) == [255, 0, 149, 255]
    assert labels("ade20k-847", [0, 2978, 312, 3148]) == [65535, 0, 1, 846]
    assert labels("coco-stuff-171", [0, 10, 11, 12, 181, 255]) == [0, 10, 255, 11, 170, 255]
    assert labels("pascal-context-59", [0, 1, 2, 458]) == [255, 255, 0, 58]
    assert labels("pascal-context-459", [0, 1, 431, 459]) == [65535, 0, 430, 458]
    assert labels("pascal-voc-20", [0, 1, 20, 255]) == [255, 0, 19, 255]
    assert labels("pascal-voc-20b", [0, 1, 20, 255]) == [20, 0, 19, 255]


def test_some_names_of_presets_are_where_they_belong():
    for name, label, words in [
        ("ade20k-150", 12, ("person",)),
        ("ade20k-847", 1, ("building", "edifice")),
        ("ade20k-847", 846, ("adding machine", "totalizer", "totaliser")),
        ("coco-stuff-171", 80, ("banner",)),
        ("pascal-context-59", 49, ("diningtable",)),
        ("pascal-context-459", 430, ("unknown",)),
        ("pascal-voc-20", 19, ("tvmonitor",)),
        ("pascal-voc-20b", 20, ("bag",)),
    ]:
        assert Vocabulary.from_preset(name).synonyms[label] == words


def test_classes_of_ade20k_847_with_the_same_first_word_are_told_apart_but_prompted_as_published():
    vocabulary = Vocabulary.from_preset("ade20k-847")
    assert vocabulary.names[114] == "bag" and vocabulary.index("bag (handbag)") == 252
    assert vocabulary.synonyms[252] == ("bag", "handbag", "pocketbook", "purse")
    assert len(vocabulary.label2id) == 847
    assert sum(name != words[0] for name, words in zip(vocabulary.names, vocabulary.synonyms)) == 13


def test_pascal_voc_with_background_predicts_59_names_and_scores_21():
    vocabulary = Vocabulary.from_preset("pascal-voc-20b")
    assert vocabulary.scored_names == (*Vocabulary.from_preset("pascal-voc-20").names, "background")
    assert set(vocabulary.names) == set(Vocabulary.from_preset("pascal-context-59").names)
    assert vocabulary.to_scored(np.array([0, 19, 20, 21, 58, 255])).tolist() == [0, 19, 20, 20, 20, 255]


# Text embeddings


class Processor:
    """Text to `(C, P, L)`, as the processor of the package gives it."""

    def __init__(self):
        alphabet = sorted(ByteLevel.alphabet())
        tokens = [*alphabet, *(a + "</w>" for a in alphabet), "<|startoftext|>", "<|endoftext|>"]
        self.tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)

    def __call__(self, text):
        num_prompts = max(map(len, text))
        flat = [clean_text(prompt) for prompts in text for prompt in prompts]
        tokens = iter(zip(*self.tokenizer(flat, padding=True, return_tensors="pt").values()))
        rows = [[next(tokens) for _ in prompts] for prompts in text]
        padding = tuple(torch.zeros_like(values) for values in rows[0][0])
        rows = [[*row, *[padding] * (num_prompts - len(row))] for row in rows]
        ids, mask = (torch.stack([torch.stack([prompt[i] for prompt in row]) for row in rows]) for i in (0, 1))
        return {"input_ids": ids, "attention_mask": mask}


class Model(torch.nn.Module):
    """Notes how many prompts come at once, and how many of them are padding."""

    def __init__(self, **kwargs):
        super().__init__()
        config = {
            "vocab_size": 514, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "projection_dim": 12, "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": 512, "eos_token_id": 513, "hidden_act": "gelu", **kwargs,
        }  # fmt: skip
        torch.manual_seed(0)
        self.text_model = CLIPTextModelWithProjection(CLIPTextConfig(**config))
        for parameter in self.text_model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        self.calls = []

    def get_text_features(self, input_ids, attention_mask):
        self.calls.append((input_ids.shape[0] * input_ids.shape[1], int((attention_mask.sum(-1) == 0).sum())))
        return encode_prompts(self.text_model, input_ids, attention_mask)


@pytest.fixture(scope="module")
def processor():
    return Processor()


@pytest.fixture
def model():
    return Model()


def test_encoding_in_batches_is_encoding_each_class_alone_in_order(model, processor):
    @settings(max_examples=25, deadline=None)
    @given(vocabulary=vocabularies().filter(lambda v: "simple" not in v.templates), batch_size=st.integers(1, 20))
    def check(vocabulary, batch_size):
        vocabulary = dataclasses.replace(vocabulary, templates=["{}", "a {}"])
        model.calls.clear()
        embeddings = vocabulary.encode(model, processor, batch_size=batch_size)
        most_of_a_class = max(map(len, vocabulary.prompts()))
        assert all(size <= max(batch_size, most_of_a_class) and padding == 0 for size, padding in model.calls)
        assert embeddings.names == vocabulary.names and len(embeddings) == len(vocabulary)
        assert embeddings.tensor.shape == (len(vocabulary), 2, 6) and embeddings.tensor.dtype == torch.float32
        with torch.no_grad():
            alone = torch.cat(
                [model.get_text_features(**processor(text=[prompts])) for prompts in vocabulary.prompts()]
            )
        torch.testing.assert_close(embeddings.tensor, alone, atol=1e-5, rtol=0)

    check()


def test_classes_of_one_kind_share_batches_wherever_they_stand(model, processor):
    vocabulary = Vocabulary.from_list([f"a{i}|b{i}|c{i}" if i % 2 else f"a{i}" for i in range(10)], templates="none")
    vocabulary.encode(model, processor, batch_size=15)
    assert model.calls == [(5, 0), (15, 0)]


def test_ten_thousand_labels_are_encoded_in_batches(model, processor):
    vocabulary = Vocabulary([f"n{i}" for i in range(10_000)], templates="none")
    embeddings = vocabulary.encode(model, processor, batch_size=2500)
    assert len(model.calls) == 4 and len(embeddings) == 10_000
    torch.testing.assert_close(
        embeddings.tensor[[7, 9876]], Vocabulary(["n7", "n9876"], templates="none").encode(model, processor).tensor
    )


def test_a_prompt_that_the_tower_cannot_read_whole_is_refused_by_name(model, processor):
    longest = Vocabulary(["short", "x" * (MAX_TOKENS - 2)], templates="none")
    assert len(longest.encode(model, processor)) == 2
    too_long = Vocabulary(["short", "x" * (MAX_TOKENS - 1)], templates="none")
    with pytest.raises(
        ValueError,
        match=f"prompt 'x+' of label 1 has {MAX_TOKENS + 1} tokens; expected at most {MAX_TOKENS} .*Shorten",
    ):
        too_long.encode(model, processor)
    synonym = Vocabulary(["short"], [["short", "y" * MAX_TOKENS, "z"]], templates="none")
    with pytest.raises(ValueError, match=r"prompt 'y+' of label 0 has"):
        synonym.encode(model, processor)


def test_encoding_needs_a_tokenizer_and_a_batch_size(model, processor):
    with pytest.raises(ValueError, match="has no tokenizer"):
        Vocabulary(["cat"]).encode(model, SimpleNamespace(tokenizer=None))
    with pytest.raises(ValueError, match="has no tokenizer"):
        Vocabulary(["cat"]).encode(model, None)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Vocabulary(["cat"]).encode(model, processor, batch_size=0)


def test_a_model_in_training_encodes_without_dropout_and_stays_in_training(processor):
    vocabulary = Vocabulary(["cat", "dog"], templates="none")
    expected = vocabulary.encode(Model(attention_dropout=0.0).eval(), processor).tensor
    model = Model(attention_dropout=0.9).train()
    assert torch.equal(vocabulary.encode(model, processor).tensor, expected)
    assert model.text_model.training


def test_embeddings_can_be_trained_on(model, processor):
    weight = torch.ones(6, requires_grad=True)
    (Vocabulary(["cat"], templates="none").encode(model, processor).tensor @ weight).sum().backward()
    assert weight.grad.isfinite().all()


def test_an_embedding_that_is_not_finite_is_refused_by_name(model, processor):
    with torch.no_grad():
        model.text_model.text_model.embeddings.token_embedding.weight[ord("z")] = float("nan")
        ids = processor(text=[["z"]])["input_ids"][0, 0, 1]
        model.text_model.text_model.embeddings.token_embedding.weight[ids] = float("nan")
    with pytest.raises(ValueError, match=r"embedding of 'z' .label 1. is not finite"):
        Vocabulary(["cat", "z"], templates="none").encode(model, processor)


def test_half_precision_models_give_float32_embeddings(model, processor):
    embeddings = Vocabulary(["cat"], templates="none").encode(model.to(torch.bfloat16), processor)
    assert embeddings.tensor.dtype == torch.float32


def test_saved_embeddings_come_back_and_fit_their_model_and_vocabulary_alone(model, processor, tmp_path):
    vocabulary = Vocabulary(["café", "dog"], templates="none")
    path = tmp_path / "vocabulary.safetensors"
    embeddings = vocabulary.encode(model, processor)
    embeddings.save(path)
    assert list(tmp_path.iterdir()) == [path]
    again = TextEmbeddings.load(path)
    assert torch.equal(again.tensor, embeddings.tensor) and again.names == ("café", "dog")
    assert again.fingerprint == embeddings.fingerprint

    again.check(model)
    again.check(model, vocabulary)
    again.check(copy.deepcopy(model), Vocabulary(["café", "dog"], templates=["{}"], ignore_label=-1))
    for other, message in [
        (["café"], "the embeddings have 2 classes, and the vocabulary has 1"),
        (["dog", "café"], "label 0 is 'café' in the embeddings and 'dog' in the vocabulary"),
        (["café", "dog|hound"], "the names are equal, but synonyms or templates differ"),
    ]:
        with pytest.raises(ValueError, match=f"belong to another vocabulary: {message}"):
            again.check(model, Vocabulary.from_list(other, templates="none"))
    with torch.no_grad():
        model.text_model.text_projection.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="made by another model"):
        again.check(model, vocabulary)


def test_the_fingerprint_of_a_model_stands_for_its_text_tower(model, tmp_path):
    fingerprint = model_fingerprint(model)
    model.other = torch.nn.Linear(2, 2)
    assert model_fingerprint(model) == fingerprint
    model.text_model.save_pretrained(tmp_path)
    loaded = CLIPTextModelWithProjection.from_pretrained(tmp_path, attn_implementation="eager")
    assert model_fingerprint(SimpleNamespace(text_model=loaded)) == fingerprint

    others = [Model(hidden_act="quick_gelu"), Model(eos_token_id=2), Model(num_attention_heads=4), Model().half()]
    assert len({fingerprint, *map(model_fingerprint, others)}) == 1 + len(others)
    with pytest.raises(ValueError, match="meta device"):
        model_fingerprint(Model().to("meta"))


def test_the_key_of_weights_needs_no_values_of_offloaded_weights(model):
    before = weights_key(model)
    model.text_model.text_projection.to("meta")
    offloaded = weights_key(model)
    assert offloaded != before
    weight = model.text_model.text_projection.weight
    model.text_model.text_projection.weight = torch.nn.Parameter(torch.empty_like(weight).zero_())  # as after each use
    assert weights_key(model) == offloaded
    with torch.no_grad():
        next(model.text_model.parameters()).data[:] += 1  # which torch does not count
    assert weights_key(model) != offloaded


def test_files_that_hold_no_text_embeddings_are_refused(model, processor, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        TextEmbeddings.load(path)
    Vocabulary(["cat"], templates="none").encode(model, processor).save(path)
    whole = path.read_bytes()
    for broken in (b"", whole[:5], whole[:-1]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="cannot be read as safetensors"):
            TextEmbeddings.load(path)
    # another name, another value, another model: whole safetensors, but not what was saved
    metadata_of_another_model = whole.replace(model_fingerprint(model).encode(), b"0" * 64)
    for changed in (whole.replace(b"cat", b"cow"), whole[:-1] + bytes([whole[-1] ^ 1]), metadata_of_another_model):
        assert changed != whole
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="has a wrong checksum"):
            TextEmbeddings.load(path)
    path.write_bytes(whole.replace(b'"vocabulary_fingerprint"', b'"vocabulary_fingerprinT"'))
    with pytest.raises(ValueError, match="has incomplete or invalid metadata"):
        TextEmbeddings.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="contains other data"):
        TextEmbeddings.load(path)
    with pytest.raises(
        ValueError, match=r"have shape \(1, 2, 6\) and dtype torch.float64; expected shape \(1, 2, D\) and float32"
    ):
        TextEmbeddings(torch.zeros(1, 2, 6, dtype=torch.float64), ("cat",), "", "")
    with pytest.raises(ValueError, match=r"have shape \(2, 6\)"):
        TextEmbeddings(torch.zeros(2, 6), ("cat",), "", "")


def test_classes_without_a_synonym_of_known_words_are_named():
    vocabulary = Vocabulary.from_list(["red circle", "dog", "ball|Blue Circle", "red dog"])
    assert vocabulary.unknown_to(["red", "blue", "Circle"]) == ["dog", "red dog"]
    assert vocabulary.unknown_to([]) == list(vocabulary.names)


@pytest.mark.parametrize("names", [torch.tensor(3, dtype=torch.uint8), np.array(3)])
def test_an_array_without_axes_is_no_list_of_names(names):
    with pytest.raises(ValueError, match="expected a list of strings, in the order of the labels"):
        Vocabulary(names)


def test_a_table_is_no_list_of_names():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"name": ["cat", "dog"], "color": ["gray", "brown"]})
    assert Vocabulary.from_list(table["name"]).names == ("cat", "dog")
    assert Vocabulary(table["name"], synonyms=table[["name", "color"]].to_numpy()).synonyms[0] == ("cat", "gray")
    for labels in (table, table[["name"]]):  # whose columns have names
        with pytest.raises(ValueError, match="type DataFrame; expected a list of strings"):
            Vocabulary.from_list(labels)


def test_only_arrays_of_integers_without_a_mask_are_labels():
    for vocabulary in (Vocabulary(["a", "b", "c"]), Vocabulary(["a", "b", "c"], background_from=1)):
        for wrong in ([[0, 1]], torch.tensor([[0, 2]]), np.array([[0.0, 2.0]]), np.array([[True]])):
            with pytest.raises(ValueError, match="expected an array of integers"):
                vocabulary.to_scored(wrong)
    masked = np.ma.masked_array([[0, 1]], [[False, True]])
    with pytest.raises(ValueError, match=r"masked pixels; .* Pass `filled\(255\)`"):
        vocabulary.labels_from_raw(masked)
    assert vocabulary.labels_from_raw(masked.filled(255)).tolist() == [[0, 255]]
