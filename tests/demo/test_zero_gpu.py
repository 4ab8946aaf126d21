# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The demo where a GPU is lent for each call: `spaces` is a stand-in that, like it, pickles what goes in and out."""

import importlib
import sys

import numpy as np
import pytest

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.demo import zero_gpu
from dinov3seg_hf.demo.engine import DemoEngine

STAND_IN = """
import functools, pickle

calls = []

def GPU(duration):
    def decorate(steps):
        @functools.wraps(steps)
        def lent(*args):
            calls.append(duration)
            for step in steps(*pickle.loads(pickle.dumps(args))):
                if isinstance(step, Exception):
                    assert str(step)
                yield pickle.loads(pickle.dumps(step))
        return lent
    return decorate
"""

LABELS = "red circle, blue square|blue box, green background"


@pytest.fixture
def spaces(tmp_path, monkeypatch):
    (tmp_path / "spaces.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    yield importlib.reload(zero_gpu).spaces
    sys.modules.pop("spaces", None)
    monkeypatch.undo()
    importlib.reload(zero_gpu)


@pytest.fixture
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")


@pytest.fixture
def image(tmp_path, sample_image):
    sample_image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_answer_of_a_borrowed_gpu_is_the_answer(spaces, pipe, image, monkeypatch):
    engine = DemoEngine(pipe)
    steps = []
    given = engine.segment("visitor", image, LABELS, progress=lambda fraction, what: steps.append(what))
    assert spaces.calls == [zero_gpu.GPU_SECONDS] and steps[-1] == "Segmenting"
    assert given.num_new_words == 3 and "image" in given.seconds

    assert engine.segment("visitor", image, LABELS).key == given.key
    assert len(spaces.calls) == 1  # what is stored needs no GPU
    more = engine.segment("visitor", image, LABELS + ", star")
    assert more.num_new_words == 1 and len(spaces.calls) == 2
    assert not engine.memory.get("visitor", "features") and engine.model_facts["device"] == "a borrowed GPU"

    monkeypatch.delenv("SPACES_ZERO_GPU")
    expected = DemoEngine(pipe).segment("visitor", image, LABELS)
    np.testing.assert_array_equal(given.shown_labels, expected.shown_labels)
    np.testing.assert_array_equal(given.scores, expected.scores)


def test_error_on_a_borrowed_gpu_keeps_its_message(spaces, pipe, image, monkeypatch):
    monkeypatch.setattr("dinov3seg_hf.demo.engine.SLIDE_VALUES", 1)
    with pytest.raises(ValueError, match="sliding windows"):
        DemoEngine(pipe).segment("visitor", image, LABELS, inference="slide")


def test_nothing_is_borrowed_without_the_library(monkeypatch):
    monkeypatch.setattr(zero_gpu, "spaces", None)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")

    def steps():
        yield 1

    assert zero_gpu.with_borrowed_gpu(steps) is steps and not zero_gpu.on_zero_gpu()


def test_a_request_ends_with_our_words_before_the_gpu_is_taken_back(spaces, pipe, image, monkeypatch):
    assert zero_gpu.seconds_of_a_request(300) < zero_gpu.GPU_SECONDS and zero_gpu.seconds_of_a_request(20) == 20
    monkeypatch.setattr(zero_gpu, "GPU_SECONDS", zero_gpu.SPARE_SECONDS)
    with pytest.raises(ValueError, match="took more than 0 s, the limit of this server"):
        DemoEngine(pipe).segment("visitor", image, LABELS)


def test_the_time_is_limited_in_the_process_that_has_the_gpu_alone(spaces, pipe, image):
    """That process may serve several requests: a limit that it inherits would be the one of an earlier request."""
    engine, seen = DemoEngine(pipe), []
    lend = engine._on_model

    def lent(*args):
        seen.append(any(module._forward_pre_hooks for module in pipe.model.modules()))
        yield from lend(*args)

    engine._on_model = lent
    engine.segment("visitor", image, LABELS)
    assert seen == [False]
