# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Templates are filled in order, literally, and bad ones are refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3seg_hf.model.prompts import DEFAULT_TEMPLATE, TEMPLATES, fill_templates, resolve_templates

text_without_slot = st.text(max_size=10).filter(lambda text: "{}" not in text)
templates = st.builds(lambda a, b: f"{a}{{}}{b}", text_without_slot, text_without_slot).filter(
    lambda t: t.count("{}") == 1
)


@settings(deadline=None)
@given(
    names=st.lists(st.text(max_size=10), max_size=5), templates=st.lists(templates, min_size=1, max_size=4, unique=True)
)
def test_every_name_meets_every_template_in_order(names, templates):
    prompts = fill_templates(names, templates)
    assert len(prompts) == len(names) * len(templates)
    for i, name in enumerate(names):
        for j, template in enumerate(templates):
            before, after = template.split("{}")
            assert prompts[i * len(templates) + j] == before + name + after


def test_the_default_is_the_papers_prompt_to_the_letter():
    assert TEMPLATES["scene"] == (DEFAULT_TEMPLATE,)
    assert fill_templates(["apple"]) == ["A photo of a apple in the scene"]


def test_every_named_set_is_valid_and_says_each_thing_once():
    for name, templates in TEMPLATES.items():
        assert resolve_templates(name) == resolve_templates(list(templates)) == templates
        assert len(set(fill_templates(["x"], name))) == len(templates)


def test_braces_of_names_and_templates_are_plain_characters():
    assert fill_templates(["{0} {}", "{x}"], "{y} {}") == ["{y} {0} {}", "{y} {x}"]


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("a photo", "templates is 'a photo'; expected a template set .'scene', 'none', 'simple'."),
        (["a photo"], "Template 0, 'a photo', contains '{}' 0 times; expected it exactly once"),
        (["{}", "{} and {}"], "Template 1, '{} and {}', contains '{}' 2 times"),
        ("{} and {}", "2 times"),
        (["{}", "{}"], "is given twice"),
        ([], "Got no template"),
        ([None], "Template 0 is None of type NoneType; expected a string"),
        (3, "Templates are of type int"),
    ],
)
def test_a_bad_template_is_refused_with_the_remedy(templates, message):
    with pytest.raises(ValueError, match=message):
        fill_templates(["cat"], templates)


@pytest.mark.parametrize(("names", "message"), [("cat", r"Pass \['cat'\]"), (["cat", 3], "The name 3 is of type int")])
def test_names_that_are_no_list_of_strings_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        fill_templates(names)
