# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Somebody who has transformers and not this package: OUTCOMES MODEL OLD_REVISION IMAGE LABELS LOGITS FOLDER."""

import sys
import time

sys.modules["dinov3seg_hf"] = None  # any import of it fails

import torch  # noqa: E402 after the line above
from steps import Steps  # noqa: E402 likewise
from transformers import (  # noqa: E402 likewise
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    AutoProcessor,
    pipeline,
)

_, _, NAME, OLD, IMAGE, LABELS, LOGITS, FOLDER = sys.argv
AUTO_CLASSES = (AutoConfig, AutoModel, AutoModelForSemanticSegmentation, AutoImageProcessor, AutoProcessor)
TRUST = {"trust_remote_code": True}
step = Steps()


def refusal(load, *args, **kwargs):
    try:
        return f"no refusal: {type(load(*args, **kwargs)).__name__}"
    except ValueError as error:
        return str(error)


@step
def refuses_without_trust():
    refusals = {auto_class.__name__: refusal(auto_class.from_pretrained, NAME) for auto_class in AUTO_CLASSES}
    return {**refusals, "pipeline": refusal(pipeline, "dinov3seg", NAME)}


@step
def cold_model():
    """Everything is downloaded: configuration, code and weights."""
    start = time.perf_counter()
    AutoModel.from_pretrained(NAME, **TRUST)
    return time.perf_counter() - start


@step
def loads_with_trust():
    return {
        auto_class.__name__: [type(loaded).__name__, type(loaded).__module__]
        for auto_class in AUTO_CLASSES
        for loaded in [auto_class.from_pretrained(NAME, **TRUST)]
    }


def logits_of(revision=None):
    processor = AutoProcessor.from_pretrained(NAME, revision=revision, **TRUST)
    model = AutoModel.from_pretrained(NAME, revision=revision, **TRUST).eval()
    with torch.no_grad():
        return model(**processor(images=IMAGE, text=LABELS.split(", "), do_windows=True)).logits


@step
def logits():
    torch.save({"main": logits_of(), "old": logits_of(OLD)}, LOGITS)


@step
def revision_pins_the_code():
    model = AutoModel.from_pretrained(NAME, revision=OLD, **TRUST)
    return {"module": type(model).__module__, "marker": getattr(sys.modules[type(model).__module__], "MARKER", None)}


def without_labels(pipe):
    """The labels of a call without any: those of the default vocabulary, once there is one."""
    try:
        pipe(IMAGE)
    except ValueError as error:
        assert "Got no labels" in str(error), error
    pipe.model.set_vocabulary(["red circle", "blue square"], pipe.processor)
    pipe.save_pretrained("with_vocabulary")
    again = pipeline("image-segmentation", model="with_vocabulary", **TRUST)
    assert again(IMAGE, return_label_map=True)["labels"] == ["red circle", "blue square"]
    pipe.model.set_vocabulary(None)
    return "no default vocabulary"


@step
def pipeline_travels():
    tasks = ("image-segmentation", "open-vocabulary-segmentation", "zero-shot-image-segmentation", "dinov3seg")
    named = [pipeline(task, model=NAME, **TRUST) for task in tasks]
    found = pipeline(model=NAME, **TRUST)  # the repository says which
    result = found(IMAGE, candidate_labels=LABELS, return_label_map=True, inference="whole")
    words = found.encode_labels(LABELS)
    words.save("words.safetensors")
    again = type(words).load("words.safetensors")
    return {
        "classes": [type(pipe).__name__ for pipe in (*named, found)],
        "module": type(found).__module__,
        "label_map": result["label_map"].tolist(),
        "without_labels": without_labels(found),
        "from_saved_words": found(IMAGE, again, return_label_map=True, inference="whole")["label_map"].tolist(),
    }


@step
def what_was_loaded_is_saved_with_its_code():
    model = AutoModel.from_pretrained(NAME, **TRUST)
    model.save_pretrained(FOLDER)
    AutoProcessor.from_pretrained(NAME, **TRUST).save_pretrained(FOLDER)
    return type(AutoModel.from_pretrained(FOLDER, **TRUST)).__name__


@step
def imported():
    import os

    folder = os.path.join(os.environ["HF_HOME"], "modules", "transformers_modules")
    return sorted({name for _, _, names in os.walk(folder) for name in names if name.endswith(".py")} - {"__init__.py"})


step.write()
