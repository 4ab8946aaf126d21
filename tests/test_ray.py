# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg_hf.ray.Segmenter`: batches without Ray, and two workers of a local Ray of which one is killed."""

import os
import signal
import time

import numpy as np
import pytest

from dinov3seg_hf import OpenVocabularySegmentationPipeline, Vocabulary
from dinov3seg_hf.data.parquet import encode_png
from dinov3seg_hf.model.image_input import read_label_map
from dinov3seg_hf.ray import Segmenter

NAMES = ["red circle", "blue square", "yellow triangle"]


def images_of(number):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (30 + 2 * (index % 3), 40, 3), dtype=np.uint8) for index in range(number)]


def check(image, mask, tiny_model, tiny_processor):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    (expected,) = pipe.segment_prepared([pipe.prepare(image)], pipe.encode_labels(Vocabulary(NAMES)))
    # batches round otherwise than single images, so a few pixels may differ
    assert (read_label_map(mask).numpy() == expected.label_map).mean() > 0.99


def test_arrays_files_and_paths_become_masks_and_bad_rows_say_why(
    tiny_checkpoint, tiny_model, tiny_processor, tmp_path
):
    images = images_of(4)
    segmenter = Segmenter(NAMES, tiny_checkpoint, image_column="picture", device="cpu")
    (tmp_path / "a.png").write_bytes(encode_png(images[0]))
    stacked = np.stack([images[0], images[3]])
    files = np.array([encode_png(images[0]), b"no image", encode_png(images[1])], dtype=object)
    paths = np.array([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    for batch, expected in (
        (stacked, [images[0], images[3]]),
        (files, [images[0], None, images[1]]),
        (paths, [images[0], None]),
    ):
        out = segmenter({"picture": batch, "id": np.arange(len(batch))})
        assert out["id"].tolist() == list(range(len(batch)))
        for image, mask, error in zip(expected, out["mask"], out["error"]):
            if image is None:
                assert mask == b"" and ("known image format" in error or "does not exist" in error)
            else:
                assert error == ""
                check(image, mask, tiny_model, tiny_processor)
    with pytest.raises(ValueError, match="expected one of its columns: image"):
        segmenter({"image": stacked})
    with pytest.raises(ValueError, match="a column 'mask', which the result would replace"):
        segmenter({"picture": stacked, "mask": np.zeros((2, 30, 40), np.uint8)})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of Ray
def test_a_worker_that_is_killed_costs_no_row(tiny_checkpoint, tiny_model, tiny_processor, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # no token in the home folder
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # on a machine that does other work
    ray = pytest.importorskip("ray", reason='pip install "dinov3seg_hf[ray]"')
    pids = tmp_path / "pids"
    pids.mkdir()

    class Slow(Segmenter):
        """Says who it is, and takes long enough to be killed at work."""

        def __call__(self, batch):
            (pids / str(os.getpid())).touch()
            time.sleep(0.3)
            return super().__call__(batch)

    images = images_of(40)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        rows = [{"image": encode_png(image), "id": index} for index, image in enumerate(images)]
        labeled = (
            ray.data.from_items(rows, override_num_blocks=20)
            .map_batches(
                Slow,
                fn_constructor_kwargs={"labels": NAMES, "model": str(tiny_checkpoint), "device": "cpu"},
                compute=ray.data.ActorPoolStrategy(size=2),
                batch_size=2,
            )
            .iter_rows()
        )
        labeled = iter(labeled)
        found = [next(labeled)]
        while len(list(pids.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)
        found += list(labeled)
        assert len(list(pids.iterdir())) == 3  # the worker that took over
    finally:
        ray.shutdown()
    assert sorted(row["id"] for row in found) == list(range(len(images)))
    for row in found:
        assert row["error"] == ""
        check(images[row["id"]], row["mask"], tiny_model, tiny_processor)


def test_columns_of_other_kinds_are_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match="image_column is 3; expected the name"):
        Segmenter(NAMES, tiny_checkpoint, image_column=3, device="cpu")
    with pytest.raises(ValueError, match="expected InferenceSettings"):
        Segmenter(NAMES, tiny_checkpoint, settings={"head": "full"}, device="cpu")
    segmenter = Segmenter(NAMES, tiny_checkpoint, device="cpu")
    for column in (3, iter([]), np.array(3), "a.png"):
        with pytest.raises(ValueError, match="expected an array with an image for each row"):
            segmenter({"image": column})
