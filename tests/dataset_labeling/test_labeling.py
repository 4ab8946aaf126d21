# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Labels of whole data sets: shards, resumed runs, bad rows, streams; what `dinov3seg label` writes and refuses."""

import json
import os
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov3seg_hf import InferenceSettings, OpenVocabularySegmentationPipeline, Vocabulary, cli
from dinov3seg_hf.annotations import ExportOptions
from dinov3seg_hf.data import SegmentationDataset, find_vocabulary, open_dataset
from dinov3seg_hf.data.parquet import encode_png, to_parquet
from dinov3seg_hf.dataset_labeling import Shard, ShardedRows, label_dataset
from dinov3seg_hf.dataset_labeling.folder import LabelFolder

from forked import Script

NAMES = ["red circle", "blue square", "yellow triangle", "green ground"]
LABELS = ", ".join(NAMES)
NUM_ROWS = 8


def images_of(seed=0, num_rows=NUM_ROWS):
    rng = np.random.default_rng(seed)
    for _ in range(num_rows):
        height, width = rng.integers(20, 40, 2)
        yield rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_rows(num_rows=NUM_ROWS, bad=()):
    images = [
        {"bytes": b"no image" if index in bad else encode_png(image), "path": f"photo {index}.png"}
        for index, image in enumerate(images_of(num_rows=num_rows))
    ]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    captions = [f"caption {index}" for index in range(num_rows)]
    return datasets.Dataset.from_dict({"image": images, "caption": captions}, features=features)


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_in(folder, without=("file", "row")):
    rows = open_dataset(folder, "train").cast_column("image", datasets.Image(decode=False))
    return rows.cast_column("mask", datasets.Image(decode=False)).remove_columns(list(without)).to_list()


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")


@pytest.fixture(scope="module")
def label(pipe):
    def run(dataset, output, *, rows_per_shard=2, image_column=None, keep=(), **options):
        rows = ShardedRows(dataset, image_column, keep, rows_per_shard)
        options = {"batch_size": 2, "progress": False, **options}
        return label_dataset(pipe, rows, options.pop("vocabulary", Vocabulary(NAMES)), output, **options)

    return run


# --- shards -----------------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    rows_per_shard=st.integers(1, 5),
    counts=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stop=st.integers(0, 40),
    streamed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_two_numbers_of_processes_label_each_row_once(lengths, rows_per_shard, counts, stop, streamed):
    features = datasets.Features({"image": datasets.Image(decode=False)})
    paths = [[f"{file}-{number}.png" for number in range(length)] for file, length in enumerate(lengths)]
    if streamed:
        dataset = datasets.IterableDataset.from_generator(
            lambda paths: ({"image": {"bytes": None, "path": path}} for of_file in paths for path in of_file),
            features=features,
            gen_kwargs={"paths": paths},
        )
    else:
        flat = [path for of_file in paths for path in of_file]
        if not flat:
            return
        dataset = datasets.Dataset.from_dict({"image": flat}, features=features)
    rows = ShardedRows(dataset, "image", rows_per_shard=rows_per_shard)
    done, ended = {}, {}
    for count, limit in zip(counts, (stop, 10**6)):  # the first run stops after some rows
        before, before_ended = dict(done), dict(ended)
        for rank in range(count):
            shards = {}
            for row in rows.share(rank, count, before, before_ended, ended.__setitem__):
                shards.setdefault(row.shard, []).append(row.values["image"]["path"])
                limit -= 1
                if limit < 0:
                    shards.popitem()  # a shard is written whole or not at all
                    break
            assert not set(shards) & set(done)
            done |= shards
    seen = [path for shard in sorted(done) for path in done[shard]]
    assert seen == [path for of_file in paths for path in of_file]
    assert all(len(of_shard) <= rows_per_shard for of_shard in done.values())
    assert not list(rows.share(0, 1, done, ended, ended.__setitem__))


def test_the_number_of_rows_of_a_share_is_known_before():
    rows = ShardedRows(make_rows(), rows_per_shard=3)
    for done in ([], [Shard(0, 1)], [Shard(0, 3), Shard(0, 0)]):
        for count in (1, 2, 3, 7):
            for rank in range(count):
                share = list(rows.share(rank, count, done, {}, lambda *_: None))
                assert len(share) == rows.num_rows_of_share(rank, count, done)


# --- results ----------------------------------------------------------------------------------------------------------


def test_rows_are_what_the_pipeline_gives_and_training_reads_them(label, pipe, tmp_path):
    result = label(make_rows(), tmp_path / "out", keep=["caption"])
    assert (result.num_rows, result.num_shards, result.num_done_before, result.failed) == (NUM_ROWS, 4, 0, ())
    dataset = open_dataset(tmp_path / "out", "train")
    assert dataset["row"] == list(range(NUM_ROWS)) and dataset["caption"][3] == "caption 3"
    data = SegmentationDataset(dataset, find_vocabulary(dataset))
    assert data.vocabulary.names == tuple(NAMES) and data.columns == ("image", "mask")
    text = pipe.encode_labels(Vocabulary(NAMES))
    for index, image in enumerate(images_of()):
        item = data.read(index)
        np.testing.assert_array_equal(item["image"], image)
        # batches round otherwise than single images, so a few pixels may differ
        (labeled,) = pipe.segment_prepared([pipe.prepare(image)], text)
        assert (item["labels"] == labeled.label_map).mean() > 0.99
        assert dataset[index]["classes"] == np.unique(item["labels"]).tolist()


def test_streams_give_the_rows_of_a_stored_set(label, tmp_path):
    rows = make_rows()
    label(rows, tmp_path / "stored")
    # in one file, even the files are equal
    label(rows.to_iterable_dataset(), tmp_path / "streamed")
    stored, streamed = files_in(tmp_path / "stored"), files_in(tmp_path / "streamed")
    assert {name for name in stored if stored[name] != streamed.get(name)} <= {"labeling.json"}
    (tmp_path / "source").mkdir()
    for number, first in enumerate((0, 5)):  # the first file has a shard of one row
        part = rows.select(range(first, min(first + 5, NUM_ROWS)))
        (tmp_path / "source" / f"train-{number}.parquet").write_bytes(to_parquet(part))
    stream = open_dataset(tmp_path / "source", "train", streaming=True)
    assert stream.num_shards == 2
    label(stream, tmp_path / "files")
    assert rows_in(tmp_path / "files") == rows_in(tmp_path / "stored")


def test_threads_change_nothing(label, tmp_path):
    label(make_rows(bad=[4]), tmp_path / "one", num_workers=1)
    label(make_rows(bad=[4]), tmp_path / "many", num_workers=4)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "many")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_that_broke_off_goes_on_shard_by_shard(label, tmp_path, monkeypatch, streamed):
    rows = make_rows().to_iterable_dataset() if streamed else make_rows()
    label(rows, tmp_path / "whole")
    write, written = LabelFolder.write, []

    def stop(folder, shard, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        write(folder, shard, *arguments)

    monkeypatch.setattr(LabelFolder, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        label(rows, tmp_path / "parts")
    monkeypatch.undo()
    assert len(list((tmp_path / "parts").glob("data/*.parquet"))) == 2
    assert len(open_dataset(tmp_path / "parts", "train")) == 4  # whole shards are readable
    result = label(rows, tmp_path / "parts")
    assert result.num_done_before == 2 and files_in(tmp_path / "parts") == files_in(tmp_path / "whole")


def test_a_full_disk_leaves_no_half_file(label, tmp_path, monkeypatch):
    from dinov3seg_hf.dataset_labeling import folder

    def full(path, content):
        raise ValueError("No space left on device")

    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(ValueError, match="No space left"):
        label(make_rows(), tmp_path / "out")
    assert not [name for name in files_in(tmp_path / "out") if name.endswith((".parquet", ".tmp"))]


def test_a_shard_that_is_labeled_again_has_the_record_of_its_rows(label, tmp_path, monkeypatch):
    """Of a process that was stopped, the record was that of the earlier run."""
    from dinov3seg_hf.dataset_labeling.folder import LabelFolder

    out = tmp_path / "out"
    assert label(make_rows(bad=[0]), out).num_rows == NUM_ROWS - 1

    def stop(self, name, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LabelFolder, "_write_record", stop)
        with pytest.raises(KeyboardInterrupt):
            label(make_rows(), out, retry_failed=True)
    mended = label(make_rows(), out)
    assert mended.failed == () and mended.num_done_before == mended.num_shards - 1
    assert open_dataset(out, "train")["row"] == list(range(NUM_ROWS))


def test_a_retry_that_labels_fewer_rows_keeps_those_of_the_earlier_run(label, tmp_path):
    """Such as while the place of the images cannot be reached."""
    out = tmp_path / "out"
    before = label(make_rows(bad=[0]), out)
    rows = open_dataset(out, "train")["row"]
    again = label(make_rows(bad=[0, 1]), out, retry_failed=True)
    assert (again.failed, again.num_rows) == (before.failed, before.num_rows)
    assert open_dataset(out, "train")["row"] == rows == list(range(1, NUM_ROWS))


def test_bad_rows_are_reported_and_the_others_labeled(label, tmp_path):
    result = label(make_rows(bad=[0, 3, 6, 7]), tmp_path / "out")
    assert [name for name, _ in result.failed] == ["row 0", "row 3", "row 6", "row 7"]
    assert result.num_rows == NUM_ROWS - 4 and "known image format" in result.failed[0][1]
    assert open_dataset(tmp_path / "out", "train")["row"] == [1, 2, 4, 5]
    # the last shard has no row, and is done all the same
    again = label(make_rows(bad=[0, 3, 6, 7]), tmp_path / "out")
    assert again.num_done_before == again.num_shards == 4 and again.failed == result.failed
    mended = label(make_rows(), tmp_path / "out", retry_failed=True)
    assert mended.num_done_before == 1 and mended.failed == ()
    assert open_dataset(tmp_path / "out", "train")["row"] == list(range(NUM_ROWS))
    with pytest.raises(ValueError, match="No row could be labeled; the first one: row 0"):
        label(make_rows(3, bad=[0, 1, 2]), tmp_path / "none")


def test_other_labels_are_not_mixed_into_a_folder(label, tmp_path):
    label(make_rows(), tmp_path / "out", rows_per_shard=np.int64(2))
    before = files_in(tmp_path / "out")
    for options, message in (
        ({"vocabulary": Vocabulary([*NAMES, "cat"])}, "another labels and vocabulary"),
        ({"settings": InferenceSettings(head="dinotxt")}, "another inference.head"),
        ({"rows_per_shard": 4}, "another dataset.rows_per_shard"),
        ({"export": ExportOptions(ignore_below=0.5)}, "another ignore_below"),
    ):
        with pytest.raises(ValueError, match=message):
            label(make_rows(), tmp_path / "out", **options)
    (tmp_path / "other" / "data").mkdir(parents=True)
    (tmp_path / "other" / "data" / "train.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="parquet files of another data set"):
        label(make_rows(), tmp_path / "other")
    assert files_in(tmp_path / "out") == before


def test_what_cannot_be_labeled_is_refused(label, tmp_path):
    for options, message in (
        ({"image_column": "caption"}, "expected images"),
        ({"image_column": "photo"}, "expected a column of the data set"),
        ({"keep": ["image"]}, "cannot be kept"),
        ({"keep": ["captoin"]}, "expected one of the other columns: caption"),
        ({"rows_per_shard": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            label(make_rows(), tmp_path / "out", **options)
    with pytest.raises(ValueError, match="'row' cannot be kept"):
        label(make_rows().rename_column("caption", "row"), tmp_path / "named", keep=["row"])
    with pytest.raises(ValueError, match="empty"):
        label(make_rows().select([]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_that_is_on_another_machine_is_missed(label, tmp_path, monkeypatch):
    write = LabelFolder.write

    def elsewhere(folder, shard, *arguments):
        if shard.piece != 2:
            write(folder, shard, *arguments)

    monkeypatch.setattr(LabelFolder, "write", elsewhere)
    with pytest.raises(ValueError, match="one folder that all machines share"):
        label(make_rows(), tmp_path / "out")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "test").mkdir(parents=True)
    # `datasets` would take these names for splits
    names = ["train-station.png", "b.png", "test/c.png", "rotated.jpg", "long name.png"]
    for name, image in zip(names, images_of()):
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "rotated.jpg" else 1
        Image.fromarray(image).save(folder / name, exif=exif)
    return folder


@pytest.fixture
def command(capsys, tiny_checkpoint):
    def run(*arguments):
        capsys.readouterr()
        start = ["label", "--model", str(tiny_checkpoint), "--labels", LABELS, "--device", "cpu"]
        try:
            code = cli.main([*start, *map(str, arguments)])
        except SystemExit as error:  # argparse
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_folder_of_images_is_labeled_whole_whatever_its_names(command, photos, tmp_path):
    (photos / "bad.png").write_bytes(b"no image")
    code, out, err = command("--dataset", photos, "--output", tmp_path / "out", "--rows-per-shard", 2)
    assert code == 2 and "Labeled 5 images (1 failed)" in out
    assert f"1 of 6 rows were not labeled; {tmp_path / 'out' / '.progress'} lists them with the reasons" in err
    assert (
        f"not labeled: row 1: the image {str(photos / 'bad.png')!r} does not have a known image format" in err
        and "image/s" in err
    )
    rows = rows_in(tmp_path / "out")
    assert [row["name"] for row in rows] == ["b", "long name", "rotated", "test/c", "train-station"]
    upright = Image.open(photos / "rotated.jpg")
    data = SegmentationDataset(open_dataset(tmp_path / "out", "train"), Vocabulary(NAMES))
    assert data.read(2)["image"].shape[:2] == upright.size  # height and width swapped by EXIF
    code, _, err = command("--dataset", photos, "--output", tmp_path / "out", "--rows-per-shard", 2)
    assert code == 2 and "3 of 3 shards were done before" in err and "1 of 6 rows were not labeled" in err
    Image.fromarray(next(images_of())).save(photos / "bad.png")
    code, _, err = command("--dataset", photos, "--output", tmp_path / "out", "--rows-per-shard", 2, "--retry-failed")
    assert code == 0 and "not labeled" not in err


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_a_folder_whose_files_changed_is_not_resumed(command, photos, tmp_path, streaming):
    """Rows are files in order; a renamed one would be labeled twice or never."""
    arguments = ["--dataset", photos, "--output", tmp_path / "out", "--rows-per-shard", 2, *streaming]
    assert command(*arguments)[0] == 0
    before = files_in(tmp_path / "out")
    (photos / "b.png").rename(photos / "z.png")
    code, _, err = command(*arguments)
    assert code == 2 and "whose files have changed" in err and files_in(tmp_path / "out") == before


def test_names_of_linked_images_keep_their_folders(command, photos, tmp_path):
    (tmp_path / "links" / "a").mkdir(parents=True)
    (tmp_path / "links" / "a" / "1.png").symlink_to(photos / "b.png")
    (tmp_path / "links" / "2.png").symlink_to(photos / "test" / "c.png")
    assert command("--dataset", tmp_path / "links", "--output", tmp_path / "out")[0] == 0
    assert [row["name"] for row in rows_in(tmp_path / "out")] == ["2", "a/1"]


def test_references_in_place_of_copies(command, photos, tmp_path):
    code, _, _ = command("--dataset", photos, "--output", tmp_path / "out", "--no-copy-images")
    assert code == 0
    assert {row["image"]["bytes"] for row in rows_in(tmp_path / "out")} == {None}
    data = SegmentationDataset(open_dataset(tmp_path / "out", "train"), Vocabulary(NAMES))
    assert data.num_skipped == 0 and all(data.read(index)["labels"].size for index in range(5))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.parquet").write_bytes(to_parquet(make_rows()))
    code, _, err = command("--dataset", tmp_path / "source", "--output", tmp_path / "stored", "--no-copy-images")
    assert code == 2 and "nothing to refer to" in err


def test_the_command_refuses_in_one_line(command, photos, tmp_path):
    for arguments, message in (
        (["--dataset", tmp_path / "nothing"], "was not found"),
        (["--dataset", photos, "--rows-per-shard", 0], "at least 1"),
        (["--dataset", photos, "--image-column", "img"], "expected a column"),
        (["--dataset", photos, "--split", "validation"], "cannot be opened"),
    ):
        code, out, err = command(*arguments, "--output", tmp_path / "out")
        assert code == 2 and out == "" and message in err and "Traceback" not in err, arguments
    assert not (tmp_path / "out").exists()
    name = photos / os.fsdecode(b"M\xfcller.png")
    (photos / "b.png").rename(name)
    code, _, err = command("--dataset", photos, "--output", tmp_path / "out")
    assert code == 2 and "is not UTF-8" in err and "Rename the file" in err and not (tmp_path / "out").exists()
    code, _, err = command("--dataset", photos, "--output", photos / "out")
    assert code == 2 and "lies in the data set" in err and not (photos / "out").exists()


# --- processes --------------------------------------------------------------------------------------------------------


def labels_in_two_processes(arguments, launcher):
    """Forked ones, or those of Accelerate's launcher, as people start them."""
    command = ["-m", "dinov3seg_hf", "label", "--labels", LABELS, "--device", "cpu", *arguments]
    if not launcher:
        return Script(command, 2).wait()
    start = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", 1, "--mixed_precision", "no"]
    start += ["--multi_gpu", "--dynamo_backend", "no", "--main_process_port", 0, "--num_processes", 2]
    return subprocess.run(
        list(map(str, [*start, *command])),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.multiprocess
@pytest.mark.parametrize("streamed", [False, True])
def test_two_processes_one_of_them_killed_and_a_third_run_give_what_one_gives(tiny_checkpoint, tmp_path, streamed):
    (tmp_path / "source").mkdir()
    for number in range(2):
        rows = to_parquet(make_rows(20, bad=[7]))
        (tmp_path / "source" / f"train-{number}.parquet").write_bytes(rows)
    arguments = ["--dataset", tmp_path / "source", "--model", tiny_checkpoint, "--rows-per-shard", 2, "--batch-size", 2]
    arguments += ["--streaming"] if streamed else []

    def in_one_process(output):
        command = ["label", "--labels", LABELS, "--device", "cpu", *arguments, "--output", output]
        assert cli.main(list(map(str, command))) == 2  # rows that failed
        return files_in(output)

    expected = in_one_process(tmp_path / "1")
    process = labels_in_two_processes([*arguments, "--output", tmp_path / "2"], launcher=not streamed)
    assert process.returncode != 0 and "Labeled 38 images (2 failed)" in process.stdout, process.stderr
    assert "2 of 40 rows were not labeled" in process.stderr
    assert files_in(tmp_path / "2") == expected

    command = ["-m", "dinov3seg_hf", "label", "--labels", LABELS, "--device", "cpu", *arguments]
    script = Script([*command, "--output", tmp_path / "3"], 2)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "3").glob("data/*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    script.kill()
    script.wait()
    done = len(list((tmp_path / "3" / ".progress").glob("0*.json")))
    assert 0 < done < 20, "killed too late: no shard was left"
    for unfinished in (tmp_path / "3").rglob("*.tmp"):  # nobody could remove it, and no reader takes it for a shard
        unfinished.unlink()
    assert in_one_process(tmp_path / "3") == expected
    assert json.loads(expected["labeling.json"])["dataset"]["num_files"] == (2 if streamed else 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5 of type float"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"settings": {"head": "dinotxt"}}, "expected InferenceSettings"),
        ({"export": {"min_area": 2}}, "expected ExportOptions"),
        ({"source": "photos"}, "source is 'photos'; expected dict"),
        ({"root": 1}, "The folder of the images is 1"),
    ],
)
def test_a_wrong_argument_does_not_spoil_the_folder(label, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        label(make_rows(3), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    result = label(make_rows(3), tmp_path / "out", vocabulary=NAMES)
    assert (result.num_rows, result.num_done_before) == (3, 0)


NESTED: list = []
for _ in range(sys.getrecursionlimit()):
    NESTED = [NESTED]


@pytest.mark.parametrize("keep", ["caption", ["caption", "caption"], [["caption"]], None, {"caption"}, NESTED])
def test_columns_to_keep_are_a_list_of_different_names(keep):
    with pytest.raises(ValueError, match=r"keep is .*expected a list|cannot be kept"):
        ShardedRows(make_rows(), keep=keep)
    with pytest.raises(ValueError, match="a DatasetDict; expected one split"):
        ShardedRows(datasets.DatasetDict(train=make_rows()))
