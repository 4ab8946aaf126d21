# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Some hostile calls of each family; `make fuzz` runs 20,000."""

import datasets
import pytest
from transformers.utils import logging

from .families import FAMILIES, make_case
from .guard import Escaped, confined
from .outcomes import Case, run
from .world import world as world_of_process

CASES_OF_FAMILY = 44


@pytest.fixture(scope="module")
def world():
    verbosity, bars, cache = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        datasets.config.HF_DATASETS_CACHE,
    )
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    yield world_of_process()
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()
    datasets.config.HF_DATASETS_CACHE = cache


@pytest.mark.parametrize("family", FAMILIES)
def test_every_call_ends_in_a_good_result_or_in_an_error_of_ours(family, world):
    bad = []
    for number in range(CASES_OF_FAMILY):
        outcome = run(make_case(family, number, world), world.folder)
        if outcome.is_bad:
            message = " ".join(outcome.message.split())[:200]
            bad.append(f"python -m tests.fuzz {family} {number}: {outcome.kind}: {message}")
    assert not bad, "\n".join(bad)


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("call", "check", "kind"),
    [
        (lambda: 1, lambda result: None, "good"),
        (lambda: 1, lambda result: "wrong", "silent"),
        (lambda: __import__("dinov3seg_hf").Vocabulary([]), lambda result: None, "ours"),
        (lambda: __import__("json").loads("{"), lambda result: None, "foreign"),
        (lambda: __import__("torch").nn.Linear(2, 1)(__import__("torch").zeros(3)), lambda result: None, "foreign"),
        (lambda: (__import__("pathlib").Path.home() / "x").mkdir(), lambda result: None, "silent"),
    ],
)
def test_the_judge_tells_good_results_from_bad_ones(call, check, kind, world):
    world.fresh_folder()
    assert run(Case("", call, check), world.folder).kind == kind


def test_nothing_is_written_or_deleted_outside_of_the_folder_of_a_case(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(), outside.mkdir()
    (outside / "file").write_text("kept")
    for attempt in (
        lambda: (outside / "file").unlink(),
        lambda: (outside / "file").write_text("lost"),
        lambda: (outside / "file").rename(inside / "file"),
        lambda: __import__("shutil").rmtree(outside, ignore_errors=True),
        lambda: (inside / ".." / "outside" / "new").mkdir(),
    ):
        with confined(inside), pytest.raises(Escaped):
            attempt()
    assert (outside / "file").read_text() == "kept" and len(list(outside.iterdir())) == 1
