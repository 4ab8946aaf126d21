# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Atomic writes: what a killed process left is removed, what another process writes is not."""

import fcntl
import multiprocessing
import os
import re
import signal
import time
import uuid
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov3seg_hf.data.opening import find_vocabulary
from dinov3seg_hf.hub.model_card import read_results
from dinov3seg_hf.model import files
from dinov3seg_hf.model.files import (
    MAX_TEXT_BYTES,
    open_atomically,
    open_folder_atomically,
    read_text_up_to,
    remove_leftovers,
    write_atomically,
)
from dinov3seg_hf.model.vocabulary import Vocabulary
from dinov3seg_hf.model.workers import end_with_parent
from dinov3seg_hf.training.config import TrainingConfig


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(files, "_swept", set())


def leftover(folder):
    path = folder / f".{uuid.uuid4().hex}.tmp"
    path.write_bytes(b"half")
    return path


def test_the_next_write_to_a_folder_removes_what_a_killed_process_left(tmp_path):
    leftover(tmp_path)
    others = [tmp_path / name for name in (".mine.tmp", "0123.tmp", f".{uuid.uuid4().hex}")]
    for other in others:
        other.touch()
    write_atomically(tmp_path / "a", b"whole")
    assert set(tmp_path.iterdir()) == {*others, tmp_path / "a"} and (tmp_path / "a").read_bytes() == b"whole"


def test_what_another_process_writes_stays(tmp_path):
    path = leftover(tmp_path)
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a", b"")
        assert path.exists()
    files._swept.clear()
    write_atomically(tmp_path / "b", b"")
    assert not path.exists()


def test_a_file_is_in_use_until_it_has_its_name(tmp_path):
    with open_atomically(tmp_path / "a") as file:
        file.write(b"1")
        remove_leftovers(tmp_path, files.TEMPORARY_FILE)
    assert (tmp_path / "a").read_bytes() == b"1" and len(list(tmp_path.iterdir())) == 1


def test_a_temporary_file_that_was_taken_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    removed = []

    def lock_too_late(descriptor):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()

    monkeypatch.setattr(files, "lock", lock_too_late)
    write_atomically(tmp_path / "a", b"whole")
    assert removed and (tmp_path / "a").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_links_are_not_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "folder" / ".link").symlink_to(tmp_path / "mine")
    remove_leftovers(tmp_path / "folder", re.compile(r"\.link"))
    assert (tmp_path / "mine" / "file").exists()


def test_a_folder_behind_a_link_is_replaced_where_it_lies(tmp_path):
    (tmp_path / "disk" / "folder").mkdir(parents=True)
    (tmp_path / "disk" / "folder" / "earlier").touch()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "folder")
    with open_folder_atomically(link) as partial:
        assert partial.parent == tmp_path / "disk"
        (partial / "new").touch()
    assert link.is_symlink() and sorted(tmp_path.iterdir()) == [tmp_path / "disk", link]
    assert list((tmp_path / "disk").iterdir()) == [tmp_path / "disk" / "folder"]
    assert [path.name for path in link.iterdir()] == ["new"]


def test_the_current_folder_is_replaced_like_any_other(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with open_folder_atomically(Path(".")) as partial:
        (partial / "new").touch()
    assert list(tmp_path.iterdir()) == [tmp_path / "here"] and (tmp_path / "here" / "new").exists()


def _parent(pids):
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        process = context.Process(target=_child, args=(pids,))
        process.start()
    time.sleep(60)


def _child(pids):
    end_with_parent(0)
    pids.put(os.getpid())
    time.sleep(60)


def test_workers_end_with_their_parent():
    context = multiprocessing.get_context("fork")
    pids = context.Queue()
    parent = context.Process(target=_parent, args=(pids,))
    parent.start()
    workers = [pids.get(timeout=30) for _ in range(2)]
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(map(_runs, workers)):
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- bounded reads ----------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), limit=st.integers(0, 60), mark=st.booleans()
)
def test_text_up_to_a_limit_is_read_as_python_reads_it(tmp_path, text, limit, mark):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    if path.stat().st_size > limit:
        with pytest.raises(ValueError, match=r"The file .*a\.txt' is larger than .* MiB; expected a text file"):
            read_text_up_to(path, limit=limit)
    else:
        assert read_text_up_to(path, limit=limit) == path.read_text(encoding="utf-8-sig")


def test_what_is_no_text_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    for path, message in (("a.txt", "is not UTF-8 text"), ("b.txt", "No such file"), (".", "Is a directory")):
        with pytest.raises(ValueError, match=f"The list .*{message}"):
            read_text_up_to(tmp_path / path, "The list")


@pytest.mark.parametrize("name", ["names.txt", "names.tsv", "names.json", "names.yaml", "README.md", "id2label.json"])
def test_the_files_of_people_have_a_limit(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)  # takes no place on the disk
    reads = {
        "names.yaml": [Vocabulary.from_file, TrainingConfig.from_yaml],
        "README.md": [lambda path: find_vocabulary(None, card=path.parent)],
        "id2label.json": [lambda path: find_vocabulary(None, card=path.parent), read_results],
    }
    for read in reads.get(name, [Vocabulary.from_file]):
        with pytest.raises(ValueError, match="is larger than 64 MiB"):
            read(tmp_path / name)
