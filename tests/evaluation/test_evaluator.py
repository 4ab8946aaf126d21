# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
import copy
import json
import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from dinov3seg_hf import InferenceSettings, OpenVocabularySegmentationPipeline, Vocabulary
from dinov3seg_hf.data.benchmarks import PUBLISHED
from dinov3seg_hf.data.parquet import encode_png
from dinov3seg_hf.data.rows import RowError
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.data.streamed import StreamedSegmentationDataset
from dinov3seg_hf.distributed import Processes
from dinov3seg_hf.evaluation.evaluator import evaluate
from dinov3seg_hf.evaluation.protocol import describe_view
from dinov3seg_hf.evaluation.results import results_table, seen_classes
from dinov3seg_hf.metrics.scoring import ConfusionMatrix, ImageCounts, bootstrap_intervals
from dinov3seg_hf.model import active_classes
from dinov3seg_hf.model.calibration import Calibration
from dinov3seg_hf.model.checks import CalibrationWarning

VOCABULARY = Vocabulary(["red circle", "blue square", "yellow triangle", "green ground"])
NUM_IMAGES = 5


def make_rows(num_images: int = NUM_IMAGES, bad: tuple[int, ...] = ()) -> datasets.Dataset:
    """Noise of different sizes, with labels of four classes and ignored pixels."""
    rng = np.random.default_rng(0)
    images, masks = [], []
    for index in range(num_images):
        size = (int(rng.integers(30, 50)), int(rng.integers(30, 50)))
        images.append({"bytes": encode_png(rng.integers(0, 256, (*size, 3), dtype=np.uint8)), "path": None})
        labels = rng.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
        masks.append({"bytes": encode_png(labels if index not in bad else labels[1:]), "path": None})
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    return datasets.Dataset.from_dict({"image": images, "mask": masks}, features=features)


ROWS = make_rows()


def make_data(rows: datasets.Dataset = ROWS, vocabulary: Vocabulary = VOCABULARY, **options) -> SegmentationDataset:
    return SegmentationDataset(rows, vocabulary, **options)


@pytest.fixture(scope="module")
def run(tiny_model, tiny_processor):
    def run(data=None, **options):
        model = options.pop("model", tiny_model)
        data = make_data() if data is None else data
        names = ("head", "active_classes", "background")
        settings = {"inference": "whole", **{name: options.pop(name) for name in names if name in options}}
        options["settings"] = InferenceSettings(**settings).updated(inference=options.pop("inference", None))
        return evaluate(model, tiny_processor, data, progress=False, **{"num_resamples": 50, **options})

    return run


@pytest.fixture(scope="module")
def reference(run):
    return run()


class Count(SegmentationDataset):
    """Notes which rows are read, and may break off."""

    def __init__(self, *args, stop_before: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.rows_read: list[int] = []
        self.stop_before = stop_before

    def read(self, index):
        if index == self.stop_before:
            raise KeyboardInterrupt
        self.rows_read.append(index)
        return super().read(index)


def test_a_calibration_leaves_no_pixel_out_of_the_scores(run, reference):
    strict = Calibration((1e9,) * len(VOCABULARY), "full", "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # bounds that are not used need not fit
        result = run(make_data(vocabulary=replace(VOCABULARY, calibration=strict)))
    assert result.scores == reference.scores


# --- scores -----------------------------------------------------------------------------------------------------------


@given(
    num_classes=st.integers(1, 6), seed=st.integers(0, 2**32 - 1), size=st.tuples(st.integers(0, 9), st.integers(1, 9))
)
@settings(max_examples=60, deadline=None)
def test_confusion_matrix_counts_each_pixel_once(num_classes, seed, size):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(str(rng.choice(["int8", "int64", "uint8", ">u2", "int32", "uint64"])))
    low = 0 if dtype.kind == "u" else -2
    predictions, labels = rng.integers(low, num_classes + 3, (2, *size)).astype(dtype)
    expected = np.zeros((num_classes, num_classes + 1), int)
    for prediction, label in zip(predictions.ravel().tolist(), labels.ravel().tolist()):
        if 0 <= label < num_classes:
            expected[label, prediction if 0 <= prediction < num_classes else num_classes] += 1
    matrix = ConfusionMatrix(num_classes)
    matrix.update(predictions, labels)
    assert np.array_equal(matrix.counts, expected)
    image = ImageCounts.from_json(ImageCounts.of(3, predictions, labels, num_classes).to_json())
    again = ConfusionMatrix(num_classes)
    again.add(image.labels, image.predictions, image.counts)
    assert image.index == 3 and np.array_equal(again.counts, expected)


@pytest.mark.parametrize("num_classes", [3, 150])
@pytest.mark.parametrize("block", [1, 40])  # noise, and regions
def test_large_maps_are_counted_in_parts(num_classes, block):
    rng = np.random.default_rng(0)
    predictions, labels = np.kron(
        rng.integers(-1, num_classes + 1, (2, 400 // block, 400 // block)), np.ones((block,) * 2, int)
    )
    matrix, expected = ConfusionMatrix(num_classes), np.zeros((num_classes, num_classes + 1), int)
    matrix.update(predictions, labels)
    valid = (labels >= 0) & (labels < num_classes)
    none = (predictions < 0) | (predictions >= num_classes)
    np.add.at(expected, (labels[valid], np.where(none, num_classes, predictions)[valid]), 1)
    assert np.array_equal(matrix.counts, expected)


@pytest.mark.parametrize("value", [2**32, 2**40 + 1, -(2**40), -1, 65535])
def test_large_numbers_do_not_wrap_round_into_classes(value):
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[value, 1]]), np.array([[0, value]]))
    assert matrix.counts.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_confusion_matrix_resizes_nothing_and_takes_integers_alone():
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match="Resize the prediction"):
        matrix.update(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="prediction has dtype float64"):
        matrix.update(np.zeros((2, 3)), np.zeros((2, 3), int))


def test_scores_of_nothing_are_not_numbers():
    assert all(math.isnan(value) for value in ConfusionMatrix(2).scores().values())


def counts_of(pairs: list[list[tuple[int, int, int]]]) -> list[ImageCounts]:
    return [ImageCounts(index, *np.array(image, np.int64).T) for index, image in enumerate(pairs)]


def test_bootstrap_interval_of_equal_images_has_no_width():
    images = counts_of([[(0, 0, 5), (0, 1, 3), (1, 1, 2)]] * 7)
    intervals = bootstrap_intervals(images, 3, {"all": range(3), "absent": [2]})
    iou = (5 / 8 + 2 / 5) / 2
    assert intervals["all"] == pytest.approx((iou, iou))
    assert all(math.isnan(value) for value in intervals["absent"])


def test_bootstrap_agrees_with_drawing_images_one_by_one():
    rng = np.random.default_rng(0)
    images = [ImageCounts.of(index, *rng.integers(0, 3, (2, 4, 4)), 3) for index in range(6)]
    low, high = bootstrap_intervals(images, 3, {"all": range(3)}, num_resamples=4000)["all"]
    means = []
    for _ in range(1500):
        matrix = ConfusionMatrix(3)
        for index in rng.integers(0, 6, 6):
            matrix.add(images[index].labels, images[index].predictions, images[index].counts)
        means.append(matrix.mean_iou())
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.015)
    assert bootstrap_intervals(images, 3, {"all": range(3)}, num_resamples=4000)["all"] == (low, high)


def test_the_interval_of_a_gain_takes_the_same_images_from_both():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (40, 8, 8))
    noise = rng.random(labels.shape) < rng.random((40, 1, 1))  # images of very different difficulty
    wrong = np.where(noise, 0, labels)
    better = np.where(rng.random(labels.shape) < 0.1, labels, wrong)
    one, other = (
        [ImageCounts.of(index, *pair, 3) for index, pair in enumerate(zip(predictions, labels))]
        for predictions in (better, wrong)
    )
    groups = {"all": range(3)}
    low, high = bootstrap_intervals(one, 3, groups, baseline=other)["all"]
    alone_low, alone_high = bootstrap_intervals(one, 3, groups)["all"]
    assert 0 < low < high and high - low < (alone_high - alone_low) / 2
    assert bootstrap_intervals(one, 3, groups, baseline=one)["all"] == (0, 0)
    with pytest.raises(ValueError, match="other images"):
        bootstrap_intervals(one, 3, groups, baseline=other[1:])


def test_classes_with_a_word_of_training_are_seen():
    vocabulary = Vocabulary.from_list(["cat|kitten", "Sofa|couch", "gray wolf"])
    assert seen_classes(vocabulary, Vocabulary.from_list(["Kitten", "couch|settee"])) == [True, True, False]
    assert seen_classes(vocabulary, ["GRAY  wolf"]) == [False, False, True]
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert (
        seen_classes(Vocabulary([composed]), [decomposed])
        == seen_classes(Vocabulary([decomposed]), [composed])
        == [True]
    )
    background = Vocabulary(["cat", "tree", "sky"], background_from=1)
    assert seen_classes(background, ["sky"]) == [False, True]


# --- evaluating -------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_pipeline_at_each_images_own_size(reference, tiny_model, tiny_processor):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    predicted, true = [], []
    for item in make_data():
        label_map = pipe(item["image"], VOCABULARY, inference="whole", return_label_map=True)["label_map"]
        assert label_map.shape == item["labels"].shape
        predicted.append(label_map[item["labels"] >= 0])
        true.append(item["labels"][item["labels"] >= 0])
    predicted, true = np.concatenate(predicted), np.concatenate(true)
    ious = jaccard_score(true, predicted, labels=range(4), average=None, zero_division=0)
    assert reference.scores["mean_iou"] == pytest.approx(ious.mean(), abs=1e-12)
    assert [row["iou"] for row in reference.per_class] == pytest.approx(ious.tolist(), abs=1e-12)
    assert [row["name"] for row in reference.per_class] == list(VOCABULARY.names)
    assert sum(row["truth_pixels"] for row in reference.per_class) == len(true) == reference.confusion.sum()
    assert reference.num_images == NUM_IMAGES and reference.num_skipped == 0
    low, high = reference.scores["mean_iou_low"], reference.scores["mean_iou_high"]
    assert 0 <= low <= reference.scores["mean_iou"] * 1.2 and low < high <= 1


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"num_workers": 2}, {"num_workers": 1, "batch_size": 2}])
def test_batches_and_workers_do_not_matter(run, reference, options):
    assert run(**options).to_json() == reference.to_json()


def test_streamed_data_give_the_same(run, reference):
    result = run(StreamedSegmentationDataset(ROWS.to_iterable_dataset(num_shards=2), VOCABULARY), batch_size=2)
    assert result.scores == reference.scores and result.num_images == NUM_IMAGES
    assert result.protocol["data"]["fingerprint"] is None


@pytest.mark.parametrize("options", [{"inference": "local-global"}, {"inference": "slide"}, {"head": "dinotxt"}])
def test_every_kind_of_inference_is_another_protocol(run, reference, options):
    result = run(**options)
    assert result.protocol_fingerprint != reference.protocol_fingerprint
    assert not np.array_equal(result.confusion, reference.confusion)
    assert result.confusion.sum() == reference.confusion.sum()


def test_rejected_classes_are_another_protocol(run, reference, monkeypatch):
    result = run(active_classes=1)
    assert result.protocol["inference"]["active_classes"] == 1 and "active classes 1" in result.table()
    assert result.protocol_fingerprint != reference.protocol_fingerprint
    np.testing.assert_array_equal(result.confusion, reference.confusion)  # too few classes to reject any
    monkeypatch.setattr(active_classes, "MAX_GROUPS", 1)
    assert not np.array_equal(run(active_classes=1).confusion, reference.confusion)


def test_protocol_names_all_that_decides_but_the_weights(run, reference, tiny_model):
    assert {"data", "vocabulary", "templates", "inference", "image_processor", "versions"} == set(reference.protocol)
    assert reference.protocol["data"]["fingerprint"] == make_data().fingerprint
    assert reference.protocol["image_processor"]["window_size"] == 48
    other = copy.deepcopy(tiny_model)
    other.logit_scale.add_(1)
    result = run(model=other)
    assert result.protocol_fingerprint == reference.protocol_fingerprint
    assert result.model["fingerprint"] != reference.model["fingerprint"]
    data = make_data(make_rows(NUM_IMAGES - 1))
    assert run(data).protocol_fingerprint != reference.protocol_fingerprint


def test_seen_and_unseen_classes_are_scored_apart(run, reference):
    result = run(training_vocabulary=["red circle", "green ground"])
    iou = [row["iou"] for row in result.per_class]
    seen, unseen = (iou[0] + iou[3]) / 2, (iou[1] + iou[2]) / 2
    scores = result.scores
    assert (scores["seen_mean_iou"], scores["unseen_mean_iou"]) == pytest.approx((seen, unseen))
    assert scores["harmonic_mean"] == pytest.approx(2 * seen * unseen / (seen + unseen))
    assert [row["seen"] for row in result.per_class] == [True, False, False, True]
    assert {name: scores[name] for name in reference.scores} == reference.scores
    assert math.isnan(run(training_vocabulary=VOCABULARY).scores["unseen_mean_iou"])


def test_background_classes_are_prompted_and_count_as_one(run, reference):
    vocabulary = Vocabulary(VOCABULARY.names, background_from=2)
    rows = ROWS.map(lambda row: {"mask": row["mask"].point(lambda value: 2 if value == 3 else value)})
    result = run(make_data(rows, vocabulary))
    assert [row["name"] for row in result.per_class] == ["red circle", "blue square", "background"]
    merged = np.zeros((3, 4), int)
    for true in range(4):
        for predicted in range(4):
            merged[min(true, 2), min(predicted, 2)] += reference.confusion[true, predicted]
    assert np.array_equal(result.confusion, merged)


def test_other_templates_may_be_prompted_other_classes_not(run, reference):
    other = run(vocabulary=Vocabulary(VOCABULARY.names, templates="none"))
    assert other.protocol["templates"] == ["{}"] and other.protocol_fingerprint != reference.protocol_fingerprint
    with pytest.raises(ValueError, match=r"has 1 scored classes.*expected the 4 classes"):
        run(vocabulary=Vocabulary(["cat"]))


# --- during training --------------------------------------------------------------------------------------------------


def test_the_model_comes_back_as_it_was(run, reference, tiny_model):
    model = copy.deepcopy(tiny_model).train().requires_grad_(True)
    model.vision_model.eval()  # frozen parts of a training run
    modes = [module.training for module in model.modules()]
    plain = model.forward
    model._original_forward = plain  # what accelerate leaves when it wraps forward in mixed precision

    def half(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return plain(*args, **kwargs)

    model.forward = half
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    result = run(model=model, num_workers=1)
    assert result.to_json() == reference.to_json()  # in full precision, in eval mode
    assert [module.training for module in model.modules()] == modes
    assert model.forward is half and all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state[0]) and np.random.get_state()[1].tolist() == state[1]


def test_the_model_comes_back_even_if_a_row_is_bad(run, tiny_model):
    model = copy.deepcopy(tiny_model).train()
    with pytest.raises(RowError, match="Row 3: the mask is"):
        run(make_data(make_rows(bad=(3,))), model=model)
    assert model.training


# --- bad rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_bad_rows_are_left_out_and_counted_where_asked_for(run, streamed):
    rows = make_rows(bad=(1, 3))
    good = run(make_data(rows.select([0, 2, 4])))
    if streamed:
        data = StreamedSegmentationDataset(rows.to_iterable_dataset(), VOCABULARY, skip_bad=True)
    else:
        data = make_data(rows, skip_bad=True)
    result = run(data)
    assert np.array_equal(result.confusion, good.confusion)
    assert (result.num_images, result.num_skipped) == (3, 2)
    assert [reason[:6] for reason in result.skipped] == ["Row 1:", "Row 3:"]
    assert "3 (2 skipped)" in result.table()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_row_is_told_in_a_sentence_whoever_reads_it(run, num_workers):
    with pytest.raises(RowError, match=r"^Row 1: the mask is \d+ x \d+ and the image is"):
        run(make_data(make_rows(bad=(1,))), num_workers=num_workers)


def test_data_without_a_labeled_pixel_are_an_error(run):
    rows = ROWS.map(lambda row: {"mask": row["mask"].point(lambda value: 255)})
    with pytest.raises(ValueError, match="The 5 images do not contain any labeled pixel"):
        run(make_data(rows))


# --- broken off, and started again ------------------------------------------------------------------------------------


def test_an_evaluation_goes_on_where_it_was_broken_off(run, reference, tmp_path):
    data = Count(ROWS, VOCABULARY, stop_before=3)
    with pytest.raises(KeyboardInterrupt):
        run(data, resume_from=tmp_path)
    assert data.rows_read == [0, 1, 2]
    (log,) = tmp_path.iterdir()
    with open(log, "ab") as file:
        file.write(b'{"index": 4, "pairs": [[0, 1')  # killed in the middle of a line
    data = Count(ROWS, VOCABULARY)
    result = run(data, resume_from=tmp_path, batch_size=2)
    assert data.rows_read == [3, 4]
    assert result.to_json() == reference.to_json()
    data = Count(ROWS, VOCABULARY)
    assert run(data, resume_from=tmp_path).to_json() == reference.to_json() and data.rows_read == []


def test_streams_and_skipped_rows_go_on_too(run, tmp_path):
    rows = make_rows(bad=(1,))
    data = make_data(rows, skip_bad=True)
    whole = run(data, resume_from=tmp_path / "whole")
    first = run(make_data(rows, skip_bad=True), resume_from=tmp_path / "whole")
    assert first.to_json() == whole.to_json() and first.num_skipped == 1
    stream = StreamedSegmentationDataset(rows.to_iterable_dataset(), VOCABULARY, skip_bad=True)
    results = [run(stream, resume_from=tmp_path / "stream") for _ in range(2)]
    assert results[0].to_json() == results[1].to_json()


def test_a_folder_of_another_evaluation_is_refused(run, tmp_path):
    run(resume_from=tmp_path)
    for options in ({"inference": "slide"}, {"data": make_data(make_rows(3))}):
        with pytest.raises(ValueError, match="contains another evaluation"):
            run(resume_from=tmp_path, **options)


@pytest.mark.parametrize("streamed", [False, True])
def test_masks_that_mean_something_else_are_another_evaluation(run, tmp_path, streamed):
    one, other = (replace(VOCABULARY, raw_ids={value: (value + shift) % 4 for value in range(4)}) for shift in (0, 1))

    def data(vocabulary, **options):
        if streamed:
            return StreamedSegmentationDataset(ROWS.to_iterable_dataset(), vocabulary, **options)
        return make_data(vocabulary=vocabulary, **options)

    first = run(data(one), resume_from=tmp_path)
    assert run(data(one), resume_from=tmp_path).to_json() == first.to_json()
    for changed in (data(other), data(one, mask_values="labels")):
        with pytest.raises(ValueError, match="contains another evaluation"):
            run(changed, resume_from=tmp_path)
        assert run(changed).protocol_fingerprint != first.protocol_fingerprint


def test_another_stream_is_another_evaluation_and_a_shorter_one_keeps_its_own_rows(run, tmp_path):
    def stream(rows):
        return StreamedSegmentationDataset(rows.to_iterable_dataset(), VOCABULARY)

    run(stream(ROWS), resume_from=tmp_path)
    with pytest.raises(ValueError, match="contains another evaluation"):
        run(stream(ROWS.select([1, 0, 2, 3, 4])), resume_from=tmp_path)
    rows = make_rows(2 * NUM_IMAGES)
    run(stream(rows), resume_from=tmp_path / "long")
    short = StreamedSegmentationDataset(rows.to_iterable_dataset().take(9), VOCABULARY)
    assert run(short, resume_from=tmp_path / "long").to_json() == run(short).to_json()


def test_counts_of_other_bounds_are_another_evaluation(run, reference, tmp_path):
    settings = InferenceSettings(head="full", patch_source="head")
    kept, dropped = (
        make_data(vocabulary=replace(VOCABULARY, calibration=Calibration.measured((bound,) * 4, "other", settings)))
        for bound in (0.0, 1e9)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        result = run(kept, background="auto", resume_from=tmp_path / "bounds")
        assert result.scores == reference.scores
        assert run(kept, background="auto", resume_from=tmp_path / "bounds").to_json() == result.to_json()
        with pytest.raises(ValueError, match="contains another evaluation"):
            run(dropped, background="auto", resume_from=tmp_path / "bounds")
        assert run(dropped, background="auto").scores["mean_iou"] == 0
    # bounds that are not used are not part of an evaluation
    first = run(kept, resume_from=tmp_path / "unused")
    assert run(dropped, resume_from=tmp_path / "unused").to_json() == first.to_json() == reference.to_json()


def test_a_folder_that_cannot_be_made_is_told(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be used"):
        run(resume_from=tmp_path / "file" / "folder")


# --- several processes ------------------------------------------------------------------------------------------------


class Several:
    """Processes one after the other: each does its share, and the last one sees what all found."""

    def __init__(self, count: int):
        self.count, self.found = count, []

    def accelerator(self, rank: int):
        return SimpleNamespace(
            num_processes=self.count,
            process_index=rank,
            distributed_type=SimpleNamespace(value="MULTI_CPU"),
            unwrap_model=lambda model: model,
        )

    def gather(self, content: list) -> list:
        self.found += content
        return list(self.found)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("streamed", [False, True])
def test_processes_share_out_the_rows_and_none_is_scored_twice(run, reference, monkeypatch, count, streamed):
    several = Several(count)
    monkeypatch.setattr("accelerate.utils.gather_object", several.gather)
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda content: content)
    monkeypatch.setattr(Processes, "is_main", True)
    for rank in range(count):
        data = make_data()
        if streamed:
            data = StreamedSegmentationDataset(ROWS.to_iterable_dataset(), VOCABULARY)
        try:
            result = run(data, accelerator=several.accelerator(rank))
        except ValueError as error:  # until the last has come, there may be no image at all
            assert "The 0 images do not contain" in str(error)
    indices = [image.index for images, _ in several.found for image in images]
    assert sorted(indices) == list(range(NUM_IMAGES))
    assert result.scores == reference.scores and np.array_equal(result.confusion, reference.confusion)


def test_a_process_that_fails_lets_the_others_fail(run, monkeypatch):
    several = Several(2)
    monkeypatch.setattr("accelerate.utils.gather_object", several.gather)
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda content: content)
    monkeypatch.setattr(Processes, "is_main", True)
    rows = make_rows(bad=(2,))
    with pytest.raises(RowError, match="Row 2"):
        run(make_data(rows), accelerator=several.accelerator(0))
    with pytest.raises(RuntimeError, match="Process 0 failed: RowError: Row 2"):
        run(make_data(rows), accelerator=several.accelerator(1))


def test_weights_that_are_spread_over_processes_are_refused(run):
    accelerator = Several(2).accelerator(0)
    accelerator.distributed_type.value = "FSDP"
    with pytest.raises(ValueError, match="sharded across 2 processes"):
        run(accelerator=accelerator)


# --- what is written --------------------------------------------------------------------------------------------------


def test_results_are_plain_json_and_whole(run, tmp_path):
    result = run(training_vocabulary=VOCABULARY, benchmark="ade20k-150", model_name="tiny")
    result.save(tmp_path / "results.json", confusion=True)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["scores"]["mean_iou"] == result.scores["mean_iou"]
    assert content["scores"]["unseen_mean_iou"] is None
    assert content["protocol_fingerprint"] == result.protocol_fingerprint
    assert content["confusion"] == result.confusion.tolist()
    assert content["published_mean_iou_percent"] == PUBLISHED["ade20k-150"]
    assert content["model"]["name"] == "tiny"
    with pytest.raises(ValueError, match="cannot be written"):
        result.save(tmp_path / "nowhere" / "results.json")


@pytest.mark.parametrize(
    ("settings", "view"),
    [
        ({"inference": "whole"}, "whole 96"),
        ({"inference": "whole", "size": {"height": 32, "width": 64}}, "whole 32x64"),
        ({"inference": "local-global"}, "local-global 96, windows 48/24"),
        ({"inference": "slide", "window_size": 40}, "slide 96, windows 40/20"),
        ({"inference": "slide", "window_size": 40, "window_stride": 10}, "slide 96, windows 40/10"),
        ({"inference": "whole", "head": "dinotxt"}, "whole 96, zero-shot head"),
        ({"inference": "whole", "head": "full", "active_classes": "auto"}, "whole 96, active classes auto"),
        ({"inference": "whole", "head": "dinotxt", "active_classes": 2}, "whole 96, zero-shot head"),
        (
            {"inference": "whole", "head": "dinotxt", "refine_features": True, "refine": "pixels"},
            "whole 96, zero-shot head, refined features, refined pixels",
        ),
    ],
)
def test_the_mode_and_the_size_are_shown_beside_the_scores(settings, view):
    processor = {"size": {"shortest_edge": 96, "longest_edge": 384}, "window_size": 48, "window_stride": 24}
    assert describe_view({"inference": settings, "image_processor": processor}) == view


def test_the_shown_mode_is_the_one_that_was_used(run):
    result = run(inference="local-global")
    assert result.view.startswith("local-global ") and result.view in result.table()


def test_table_sets_measured_scores_beside_published_ones(run):
    tables = [run(benchmark=name) for name in ("ade20k-150", "pascal-voc-20", "mine")]
    lines = results_table(tables).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["A-150", "PAS-20", "mine"]
    assert lines[0].endswith("dinov3.seg (paper)  best elsewhere")
    published = [line.split()[-3:] for line in lines[1:3]]
    assert published == [["42.19", "44.0", "RetCLIP"], ["97.86", "98.5", "DPSeg"]]
    assert f"{100 * tables[0].scores['mean_iou']:.2f}" in lines[1]
    assert "paper" not in tables[2].table()
    assert [line.split("  ")[0] for line in tables[0].class_table().splitlines()[1:]] == list(VOCABULARY.names)


def test_names_of_the_training_are_not_letters(run):
    result = run(training_vocabulary="red circle, green ground", num_resamples=0)
    assert [row["seen"] for row in result.per_class] == [True, False, False, True]
    for words in (5, [1], b"circle", {"circle": 1}, np.array("circle"), torch.tensor(1)):
        with pytest.raises(ValueError, match=r"training_vocabulary is .*expected a vocabulary or a list of names"):
            run(training_vocabulary=words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected an integer of at least 1"),
        ({"num_resamples": -1}, "num_resamples is -1"),
        ({"num_workers": 0.5}, "num_workers is 0.5"),
        ({"data": ROWS}, "The data is of type Dataset; expected a SegmentationDataset"),
        ({"resume_from": 3}, "resume_from is 3"),
        ({"vocabulary": ["cat"]}, "has 1 scored classes"),
    ],
)
def test_arguments_of_other_types_are_refused_first(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
