# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The journal of annotations loses no work of an interrupted run and no file of somebody else."""

import os

import pytest

from dinov3seg_hf import export_annotations
from dinov3seg_hf.annotations import ExportOptions, open_writer
from dinov3seg_hf.annotations import journal as journal_module
from dinov3seg_hf.annotations.journal import Journal
from dinov3seg_hf.data import open_dataset

from .conftest import NAMES

SOURCES = {f"{number}.png": ["photos", number] for number in range(3)}


def opened(folder, sources=SOURCES, begin_again=False):
    journal = Journal(folder / "a.json")
    journal.keep({"model": "a"}, sources, lambda name: True, begin_again)
    return journal


def filled(folder, num_images):
    """A journal that a process has left."""
    journal = opened(folder)
    for name in list(SOURCES)[:num_images]:
        journal.add([name], {"of": name})
    journal.close()
    return journal.path


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_journal_that_was_cut_off_anywhere_goes_on(tmp_path):
    path = filled(tmp_path, 3)
    content = path.read_bytes()
    for end in range(len(content) + 1):
        path.write_bytes(content[:end])
        journal = opened(tmp_path)
        for name in SOURCES.keys() - set(journal.names):
            journal.add([name], {"of": name})
        assert sorted(entry["of"] for entry in journal) == list(SOURCES), end
        journal.close()
        again = opened(tmp_path)
        assert sorted(again.names) == list(SOURCES), end
        again.close()


def test_begin_again_leaves_the_entries_out(tmp_path):
    filled(tmp_path, 2)
    journal = opened(tmp_path, begin_again=True)
    journal.add(["2.png"], {})
    journal.close()
    assert opened(tmp_path).names == ["2.png"]


def test_images_of_another_folder_with_the_same_names_do_not_replace_the_work(tmp_path):
    """Cameras name their images alike; the other run began with an empty journal."""
    path = filled(tmp_path, 2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="interrupted run with another folder of images"):
        opened(tmp_path, {name: ["other photos", 0] for name in SOURCES})
    assert path.read_bytes() == before
    journal = opened(tmp_path, {**SOURCES, "0.png": ["photos", "changed"]})
    assert journal.names == ["1.png"] and journal.num_left_out == 1
    journal.close()


@pytest.mark.parametrize("begin_again", [False, True])
def test_a_file_of_somebody_else_is_no_journal(tmp_path, begin_again):
    for content in ("my diary\n", "my diary", "{}\n"):
        (tmp_path / "a.json.journal").write_text(content)
        with pytest.raises(ValueError, match="is no journal"):
            opened(tmp_path, begin_again=begin_again)
        assert (tmp_path / "a.json.journal").read_text() == content


def test_work_that_another_process_did_while_the_model_was_loaded_stays(tmp_path):
    late = opened(tmp_path)
    path = filled(tmp_path, 2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"written in the meantime.* Run the same command again to go on"):
        late.begin()
    late.close()
    assert path.read_bytes() == before and opened(tmp_path).names == ["0.png", "1.png"]


def test_a_journal_that_another_process_removes_before_it_is_locked(tmp_path, monkeypatch):
    """The process that had just finished removed the file: its own lines had no name, and were lost with it."""
    filled(tmp_path, 1)
    lock, calls = journal_module.try_lock, []

    def late_lock(descriptor):
        if not calls:
            os.unlink(tmp_path / "a.json.journal")
        calls.append(descriptor)
        return lock(descriptor)

    monkeypatch.setattr(journal_module, "try_lock", late_lock)
    journal = opened(tmp_path)
    journal.add(["0.png"], {})
    journal.close()
    assert len(calls) == 2 and opened(tmp_path).names == ["0.png"]


def test_a_prefix_that_is_no_text_is_refused_before_the_work(tmp_path):
    """It was an error when the file of all images was written, and again in each run after it."""
    with pytest.raises(ValueError, match=r"image_prefix is .* which is not UTF-8"):
        open_writer("coco", tmp_path / "a.json", NAMES, ExportOptions(image_prefix="caf\udce9/"))


def test_a_parquet_folder_has_its_journal_inside(annotated, tmp_path, monkeypatch):
    """Beside it, a folder that is all there is to write into (a mounted one, or ".") was refused."""
    monkeypatch.setattr("dinov3seg_hf.annotations.parquet.ROWS_PER_FILE", 1)
    sources = {image.file_name: [str(image.source)] for image in annotated}
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    writer = open_writer("parquet", ".", NAMES)
    writer.resume({}, sources)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.add(annotated[0])
        writer.add(annotated[1])
        raise KeyboardInterrupt
    assert files_in(tmp_path / "set") == ["data.journal", "data/train-00000.parquet"]
    assert len(open_dataset(tmp_path / "set", "train")) == 1
    # of somebody else, and of a process that was killed before it could note them
    (tmp_path / "set" / "data" / "train-00000-of-00001.parquet").write_bytes(b"mine")
    for number in (1, 2):
        (tmp_path / "set" / "data" / f"train-0000{number}.parquet").write_bytes(b"not noted")
    with open_writer("parquet", ".", NAMES) as writer:
        assert writer.resume({}, sources) == {annotated[0].file_name}
        writer.add(annotated[1])
    names = [f"data/train-{number}.parquet" for number in ("00000-of-00001", "00000", "00001")]
    assert files_in(tmp_path / "set") == names
    (tmp_path / "set" / "data" / "train-00000-of-00001.parquet").unlink()
    assert len(open_dataset(tmp_path / "set", "train")) == 2


def test_a_parquet_folder_without_images_is_not_left_behind(annotated, tmp_path):
    for folder in ("new", "old"):
        (tmp_path / "old").mkdir(exist_ok=True)
        with open_writer("parquet", tmp_path / folder, NAMES) as writer:
            writer.resume({}, {})
            assert files_in(tmp_path / folder) == []
    assert not (tmp_path / "new").exists() and (tmp_path / "old").is_dir()
    export_annotations(annotated, NAMES, tmp_path / "new", "parquet")
    assert files_in(tmp_path / "new") == ["data/train-00000.parquet"]
