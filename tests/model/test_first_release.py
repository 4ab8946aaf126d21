# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A folder that release 0.1.0 published still loads, and segments as that release did.

`fixtures/published_0.1.0.zip` was made by that release's own code: `model/` by `scripts/publish.py` from tiny random
weights, `expected.npz` by its pipeline, before publishing.
"""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

import dinov3seg_hf
from dinov3seg_hf.hub import published_check

from places import FIXTURES

LABELS = ["red circle", "blue square", "green ground"]
MODES = [(inference, head) for inference in ("whole", "local-global", "slide") for head in ("full", "dinotxt")]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The folder that was published, and what the release made of an image."""
    folder = tmp_path_factory.mktemp("released")
    with zipfile.ZipFile(FIXTURES / "published_0.1.0.zip") as archive:
        archive.extractall(folder)
    with np.load(folder / "expected.npz") as expected:
        return folder / "model", dict(expected)


def check(result: dict, expected: dict, mode: str, tolerance: float = 1e-3) -> None:
    # scores are kept as float16
    np.testing.assert_allclose(result["scores"].astype(np.float32), expected[f"{mode}-scores"], atol=tolerance)
    assert (result["label_map"] == expected[f"{mode}-labels"]).mean() > 1 - tolerance


def test_its_code_is_of_that_release(released):
    folder, _ = released
    assert (folder / "inference.py").is_file() and not (folder / "inference_settings.py").exists()


@pytest.mark.parametrize("inference, head", MODES)
def test_with_the_package_it_loads_by_name_and_segments_as_before(released, inference, head):
    folder, expected = released
    assert isinstance(AutoModel.from_pretrained(folder), dinov3seg_hf.Dinov3SegForSemanticSegmentation)
    assert isinstance(AutoProcessor.from_pretrained(folder), dinov3seg_hf.Dinov3SegProcessor)
    pipe = pipeline(dinov3seg_hf.TASK, model=str(folder), device="cpu")
    options = {"inference": inference, "head": head, "return_label_map": True, "return_scores": True}
    # windows of the full head: the sigmoid of the mean logit, where the release had the mean of the sigmoids
    tolerance = 5e-2 if (inference, head) == ("slide", "full") else 1e-3
    check(pipe(Image.fromarray(expected["image"]), LABELS, **options), expected, f"{inference}-{head}", tolerance)


@pytest.mark.multiprocess
def test_without_the_package_its_own_code_runs(released, tmp_path):
    folder, expected = released
    Image.fromarray(expected["image"]).save(tmp_path / "image.png")
    arguments = [str(folder), str(tmp_path / "image.png"), ", ".join(LABELS), str(tmp_path / "result.npz")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, published_check.__file__, *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "result.npz") as result:
        check(result, expected, "whole-full")
