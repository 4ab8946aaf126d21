# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Names of data sets: typing errors are found, and what may exist passes."""

from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from dinov3seg_hf.data.dataset_names import check_dataset


def answer_of(error):
    response = SimpleNamespace(headers={}, request=None)
    return error("no", response=response) if issubclass(error, HfHubHTTPError) else error("no")


@pytest.mark.parametrize(
    "name, answer, message",
    [
        ("me/photos", None, None),
        ("photos", None, None),
        ("me/photos", GatedRepoError, None),
        ("me/photos", RepositoryNotFoundError, "no data set of this name on the Hub"),
        ("me/photos", RevisionNotFoundError, "has no revision 'v2' on the Hub"),
        ("me/photos", ConnectionError, None),  # it may be in the cache
        ("photos", ConnectionError, "the Hub does not answer"),
    ],
)
def test_the_hub_is_asked_for_what_is_no_folder(tmp_path, monkeypatch, name, answer, message):
    asked = []

    def dataset_info(self, repo, **options):
        asked.append((repo, options["revision"]))
        if answer is not None:
            raise answer_of(answer)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    if message is None:
        check_dataset(name, "v2")
    else:
        with pytest.raises(ValueError, match=message):
            check_dataset(name, "v2")
    assert asked == [(name, "v2")]


def test_paths_are_checked_without_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HfApi, "dataset_info", None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "images").mkdir(parents=True)
    (tmp_path / "rows.parquet").write_bytes(b"")
    check_dataset("full")
    check_dataset(tmp_path / "full")
    for name, message in {
        "empty": "is empty",
        "rows.parquet": "is a file",
        "./no": "was not found",
        "a/b/c": "was not found",
        "no/": "was not found",
        str(tmp_path / "no"): "was not found",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_dataset(name)
