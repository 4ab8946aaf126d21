# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The options of a segmentation: refused where they are given, and resolved in one place."""

import dataclasses
import json
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3seg_hf.model.inference_settings import InferenceSettings, choose_head, choose_patch_source

CONFIG = SimpleNamespace(head="full", head_trained=True, patch_source="head", refine_features=False)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("inference", "hole", '"whole", "local-global" or "slide"'),
        ("head", "dino", '"full" or "dinotxt"'),
        ("patch_source", "neck", '"head" or "backbone"'),
        ("refine_features", "yes", "True, False or None"),
        ("threshold", 1.5, "between 0 and 1"),
        ("threshold", float("nan"), "between 0 and 1"),
        ("threshold", True, "between 0 and 1"),
        ("threshold", "0.5", "between 0 and 1"),
        ("temperature", 0, "positive"),
        ("active_classes", 0, "at least 1"),
        ("temperature", float("inf"), "positive"),
        ("temperature", float("nan"), "positive"),
    ],
)
def test_an_option_out_of_range_is_refused_with_what_there_is(option, value, message):
    with pytest.raises(ValueError, match=message):
        InferenceSettings(**{option: value})
    with pytest.raises(ValueError, match=message):
        InferenceSettings().updated(**{option: value})


@pytest.mark.parametrize("option", ["threshold", "temperature"])
def test_every_number_in_range_is_taken(option):
    for value in (1e-9, 0.5, 1, 1.0):
        assert InferenceSettings(**{option: value}).given() == {option: value}


def test_what_is_not_given_changes_nothing():
    settings = InferenceSettings(head="dinotxt", threshold=0.25)
    assert settings.updated() == settings
    assert settings.updated(**dict.fromkeys(field.name for field in dataclasses.fields(settings))) == settings
    assert settings.updated(threshold=0.0) == InferenceSettings(head="dinotxt", threshold=0.0)


@pytest.mark.parametrize(("do_windows", "inference"), [(True, "local-global"), (False, "whole")])
def test_a_checkpoint_decides_what_is_left_open(do_windows, inference):
    resolved = InferenceSettings().resolved(CONFIG, SimpleNamespace(do_windows=do_windows))
    assert (resolved.inference, resolved.head, resolved.patch_source) == (inference, "full", "head")
    assert resolved.refine_features is False and resolved.refine == "none"
    given = InferenceSettings(
        inference="slide", head="dinotxt", patch_source="backbone", refine_features=True, refine="pixels"
    )
    assert given.resolved(CONFIG, SimpleNamespace(do_windows=do_windows)) == given


def test_a_configuration_that_names_no_head_is_refused():
    with pytest.raises(ValueError, match="head is 'half'"):
        choose_head(SimpleNamespace(head="half"), None)
    assert choose_patch_source(SimpleNamespace(patch_source="half"), "backbone") == "backbone"


@pytest.mark.parametrize(("configured", "given"), [("dinotxt", "full"), ("full", None), ("full", "full")])
def test_a_head_that_was_not_trained_is_refused(configured, given):
    config = SimpleNamespace(**{**vars(CONFIG), "head": configured, "head_trained": False})
    processor = SimpleNamespace(do_windows=False)
    with pytest.raises(
        ValueError, match=r"head is \"full\", but .* not trained; expected \"dinotxt\".*dinov3seg train"
    ):
        InferenceSettings(head=given).resolved(config, processor)
    assert InferenceSettings(head="dinotxt").resolved(config, processor).head == "dinotxt"


PLAIN = {
    "threshold": st.floats(0, 1),
    "temperature": st.floats(0.0009765625, 4, width=32),
    "window_size": st.integers(1, 120),
    "window_stride": st.integers(1, 120),
    "active_classes": st.integers(1, 120),
    "size": st.integers(1, 120),
}


@given(values=st.fixed_dictionaries({}, optional=PLAIN), kind=st.sampled_from(["float32", "float64", "int64", "uint8"]))
@settings(max_examples=60, deadline=None)
def test_numbers_of_numpy_are_stored_as_plain_ones_which_json_knows(values, kind):
    def changed(name, value):
        if kind.startswith("float") == (name in ("threshold", "temperature")):
            return np.dtype(kind).type(value)
        return value

    changed_values = {name: changed(name, value) for name, value in values.items()}
    if "size" in changed_values:
        changed_values["size"] = MappingProxyType({"shortest_edge": changed_values["size"]})
    made = InferenceSettings(**changed_values)
    assert InferenceSettings(**json.loads(json.dumps(made.given()))) == made
    for name, value in made.given().items():
        assert type(value) in (int, float, dict)
        assert value == ({"shortest_edge": values[name]} if name == "size" else float(changed_values[name]))


def test_the_size_is_a_copy():
    size = {"shortest_edge": 16}
    made = InferenceSettings(size=size)
    size["shortest_edge"] = 32
    assert made.size == {"shortest_edge": 16}
