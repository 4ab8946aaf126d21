# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Images and class names become one batch; names become prompts, and no prompt is ever cut."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from dinov3seg_hf.model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from dinov3seg_hf.model.processing_dinov3seg import Dinov3SegProcessor
from dinov3seg_hf.model.prompts import DEFAULT_TEMPLATE


def make_processor(max_length=77):
    """CLIP's tokenizer with a token a letter, built offline."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=max_length)
    image_processor = Dinov3SegImageProcessorPil(size={"height": 32, "width": 48}, window_size=24, window_stride=8)
    return Dinov3SegProcessor(image_processor, tokenizer)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def prompts_in(processor, batch):
    """What the tokens say, class by class, without the padding prompts."""
    return [
        [
            processor.tokenizer.decode(ids[mask.bool()], skip_special_tokens=True).strip()
            for ids, mask in rows
            if mask.any()
        ]
        for rows in (zip(*pair, strict=True) for pair in zip(batch["input_ids"], batch["attention_mask"], strict=True))
    ]


def test_images_and_names_become_one_batch_of_tensors(processor):
    image = Image.new("RGB", (60, 40))
    batch = processor(images=[image, image], text=["cat", "grass", "blue sky"])
    assert batch["pixel_values"].shape == (2, 3, 32, 48)
    assert batch["window_pixel_values"].shape == (2, 8, 3, 24, 24)
    assert batch["window_boxes"].shape == (8, 4)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 1, batch["input_ids"].shape[-1])
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
    assert set(batch) == set(processor.model_input_names)


def test_names_are_wrapped_in_the_papers_template_and_prompts_are_not(processor):
    names = ["cat", "grass"]
    wrapped = [[DEFAULT_TEMPLATE.format(name).lower()] for name in names]
    assert prompts_in(processor, processor(text=names)) == wrapped
    assert prompts_in(processor, processor(text=[["cat"], ["grass"]])) == [["cat"], ["grass"]]
    assert prompts_in(processor, processor(text=names, templates=None)) == [["cat"], ["grass"]]
    assert prompts_in(processor, processor(text=names, templates="a {}")) == [["a cat"], ["a grass"]]
    both = processor(text=names, templates=["a {}", "the {}"])
    assert both["input_ids"].shape[:2] == (2, 2)
    assert prompts_in(processor, both) == [["a cat", "the cat"], ["a grass", "the grass"]]


def test_a_single_string_is_one_class(processor):
    assert processor(text="cat")["input_ids"].shape[:2] == (1, 1)
    assert torch.equal(processor(text="cat")["input_ids"], processor(text=["cat"])["input_ids"])


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.lists(st.text("abc xyz", min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_missing_prompts_are_masked_and_the_rest_are_those_of_each_class_alone(processor, prompts):
    batch = processor(text=prompts)
    assert batch["input_ids"].shape[:2] == (len(prompts), max(map(len, prompts)))
    for row, (ids, mask) in zip(prompts, zip(batch["input_ids"], batch["attention_mask"], strict=True), strict=True):
        assert (mask.sum(-1) > 0).tolist() == [index < len(row) for index in range(len(ids))]
        for prompt, prompt_ids, prompt_mask in zip(row, ids, mask, strict=False):
            assert prompt_ids[prompt_mask.bool()].tolist() == processor.tokenizer(prompt)["input_ids"]
    # cut to the longest prompt
    assert batch["attention_mask"].amax(dim=(0, 1)).all()


def test_a_prompt_that_is_too_long_is_named_and_not_cut():
    processor = make_processor(max_length=12)
    assert processor(text=["abcdefghij"], templates=None)["input_ids"].shape == (1, 1, 12)
    with pytest.raises(ValueError, match=r"'abcdefghijk' of label 1 has 13 tokens; expected at most 12 "):
        processor(text=["short", "abcdefghijk"], templates=None)
    with pytest.raises(ValueError, match="expected at most 5 "):
        processor(text=["abcdef"], templates=None, max_length=5)
    assert processor(text=["a" * 99], templates=None, truncation=True)["input_ids"].shape == (1, 1, 12)


def test_padding_to_a_fixed_length_is_possible(processor):
    assert processor(text=["cat"], padding="max_length", max_length=40)["input_ids"].shape == (1, 1, 40)
    # as the library does: a table may be longer than the tower reads, a prompt may not
    assert processor(text=["cat"], padding="max_length", max_length=117)["input_ids"].shape == (1, 1, 117)


def test_a_length_that_the_tokenizer_does_not_have_is_not_padded_to():
    processor = make_processor(max_length=None)
    with pytest.raises(ValueError, match="model_max_length"):
        processor(text=["cat"], padding="max_length")
    assert (
        processor(text=["cat"])["input_ids"].shape[-1] == processor(text=["cat"], padding="longest").input_ids.shape[-1]
    )
    batch = processor(text=["a", "bcd"], padding=False, templates=None)
    assert batch["input_ids"].shape == (2, 1, 5)


def test_ten_thousand_names_are_one_batch(processor):
    names = [f"thing {index}" for index in range(10_000)]
    assert processor(text=names)["input_ids"].shape[:2] == (10_000, 1)


def test_options_reach_the_image_processor(processor):
    image = np.zeros((10, 10, 3), dtype=np.uint8)
    labels = np.ones((10, 10), dtype=np.int64)
    batch = processor(images=image, segmentation_maps=labels, do_windows=False, size={"height": 16, "width": 16})
    assert set(batch) == {"pixel_values", "labels"}
    assert batch["pixel_values"].shape == (1, 3, 16, 16) and batch["labels"].shape == (1, 16, 16)
    nested = processor(images=image, images_kwargs={"do_windows": False, "size": {"height": 16, "width": 16}})
    assert torch.equal(nested["pixel_values"], batch["pixel_values"])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({}, "neither images nor text"),
        ({"text": []}, "empty"),
        ({"text": ["cat", " "]}, "' '"),
        ({"text": ""}, "''"),
        ({"text": [["cat"], []]}, r"\[\]"),
        ({"text": [["cat"], [""]]}, "prompts for every class"),
        ({"text": ["cat", ["dog"]]}, "one of the two forms for all classes"),
        ({"text": [1, 2]}, "int"),
        ({"text": ["cat"], "templates": "no braces"}, "template"),
        ({"text": ["cat"], "templates": []}, "template"),
        ({"text": ["cat"], "segmentation_maps": np.zeros((4, 4), int)}, "without images"),
        ({"text": ["cat"], "images": "/no/such.png"}, "does not exist"),
    ],
)
def test_bad_requests_are_refused(processor, arguments, words):
    with pytest.raises(ValueError, match=words):
        processor(**arguments)


@pytest.mark.parametrize(
    "options, given, meant",
    [
        ({"do_window": False}, "do_window", "do_windows"),
        ({"tempaltes": ["{}"]}, "tempaltes", "templates"),
        ({"siez": 3}, "siez", "size"),
        ({"image_kwargs": {}}, "image_kwargs", "images_kwargs"),
        ({"images_kwargs": {"siez": 3}}, "siez", "size"),
        ({"text_kwargs": {"maxlength": 3}}, "maxlength", "max_length"),
        ({"common_kwargs": {"retrun_tensors": "pt"}}, "retrun_tensors", "return_tensors"),
    ],
)
def test_of_a_misspelt_option_the_right_one_is_named(processor, options, given, meant):
    for inputs in ({"text": ["cat"]}, {"images": Image.new("RGB", (8, 8))}):
        with pytest.raises(TypeError, match=f"Unknown option '{given}' of .*[.] Did you mean '{meant}'"):
            processor(**inputs, **options)


@settings(max_examples=30, deadline=None)
@given(
    name=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12),
    group=st.sampled_from([None, "images_kwargs", "text_kwargs", "common_kwargs"]),
)
def test_no_unknown_option_is_ignored(processor, name, group):
    kinds = processor.valid_processor_kwargs.__annotations__
    assume(name not in kinds and not any(name in getattr(kind, "__annotations__", {}) for kind in kinds.values()))
    options = {name: 1} if group is None else {group: {name: 1}}
    with pytest.raises(TypeError, match=f"Unknown option '{name}' of .*[.] (Did you mean|The options are) "):
        processor(text=["cat"], **options)


@pytest.mark.parametrize("options", [None, 3, ["size"], "size"])
def test_options_of_a_part_are_a_dictionary(processor, options):
    with pytest.raises(ValueError, match=r"images_kwargs is .*; expected a dictionary of options"):
        processor(text=["cat"], images_kwargs=options)


def test_a_saved_processor_gives_the_same_batch(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = Dinov3SegProcessor(
        Dinov3SegImageProcessorPil.from_pretrained(tmp_path), CLIPTokenizer.from_pretrained(tmp_path)
    )
    image = Image.new("RGB", (9, 9), "red")
    first, second = (item(images=image, text=["cat", "blue sky"]) for item in (processor, loaded))
    for key in first:
        assert torch.equal(first[key], second[key])


def test_label_maps_come_through_the_processor(processor):
    class Outputs:
        logits = torch.randn(1, 3, 4, 4)

    maps = processor.post_process_semantic_segmentation(Outputs(), target_sizes=[(9, 7)])
    assert [tuple(item.shape) for item in maps] == [(9, 7)]
