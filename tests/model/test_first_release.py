# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A folder that release 0.1.0 published is refused; its own code still segments as that release did.

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
from transformers import AutoConfig, AutoModel, pipeline

import dinov3seg_hf
from dinov3seg_hf.cli import main
from dinov3seg_hf.cli.console import EXIT_ERROR
from dinov3seg_hf.hub import published_check
from dinov3seg_hf.loading import load_model

from places import FIXTURES

LABELS = ["red circle", "blue square", "green ground"]


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


@pytest.mark.parametrize(
    "load",
    [
        AutoConfig.from_pretrained,
        AutoModel.from_pretrained,
        dinov3seg_hf.Dinov3SegForSemanticSegmentation.from_pretrained,
        lambda folder: pipeline(dinov3seg_hf.TASK, model=str(folder)),
        load_model,
    ],
    ids=["AutoConfig", "AutoModel", "from_pretrained", "pipeline", "load_model"],
)
def test_with_the_package_it_is_refused_in_one_sentence(released, load):
    folder, _ = released
    with pytest.raises(ValueError, match=r"is of release 0\.1\.0, whose early refinement .* no longer exists"):
        load(folder)


def test_the_command_names_the_remedy(released, capsys):
    folder, expected = released
    Image.fromarray(expected["image"]).save(folder.parent / "image.png")
    assert (
        main(["segment", str(folder.parent / "image.png"), "--labels", ", ".join(LABELS), "--model", str(folder)])
        == EXIT_ERROR
    )
    error = capsys.readouterr().err
    assert "release 0.1.0" in error and "train the head again" in error and "Traceback" not in error


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
