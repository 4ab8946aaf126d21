# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The metric, against scikit-learn's confusion matrix and Jaccard index."""

import math
import multiprocessing
import tracemalloc
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score, recall_score

from dinov3seg_hf.metrics import mean_iou
from dinov3seg_hf.metrics.mean_iou import MeanIoU
from dinov3seg_hf.metrics.scoring import ConfusionMatrix

SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy", "frequency_weighted_iou")


@st.composite
def label_maps(draw):
    """(number of classes, predictions, references): some classes absent, ignored pixels, labels up to 846."""
    num_labels = draw(st.sampled_from([1, 2, 5, 150, 847]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    used = rng.choice(num_labels, min(num_labels, draw(st.integers(1, 6))), replace=False)
    used[0] = num_labels - 1  # the last label: 846
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        size = tuple(rng.integers(1, 12, 2))
        reference = rng.choice([*used, 65535], size)
        prediction = np.where(rng.random(size) < 0.5, reference, rng.integers(0, num_labels, size))
        pairs.append((np.where(prediction == 65535, 0, prediction), reference))
    pairs[0][1].flat[0] = used[0]
    predictions, references = zip(*pairs)
    return num_labels, predictions, references


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(label_maps())
@settings(max_examples=40, deadline=None)
def test_agrees_with_an_independent_implementation(drawn):
    num_labels, predictions, references = drawn
    metric = MeanIoU(num_labels=num_labels, ignore_index=65535)
    result = metric.compute(predictions=predictions, references=references, return_confusion_matrix=True)

    predicted, true = (np.concatenate([array.ravel() for array in arrays]) for arrays in (predictions, references))
    predicted, true = predicted[true != 65535], true[true != 65535]
    present, counts = np.unique(true, return_counts=True)  # a class without a pixel drops out
    ious = jaccard_score(true, predicted, labels=present, average=None, zero_division=0)
    accuracies = recall_score(true, predicted, labels=present, average=None, zero_division=0)
    assert result["mean_iou"] == pytest.approx(ious.mean(), abs=1e-12)
    assert result["mean_accuracy"] == pytest.approx(accuracies.mean(), abs=1e-12)
    assert result["overall_accuracy"] == pytest.approx((predicted == true).mean(), abs=1e-12)
    assert result["frequency_weighted_iou"] == pytest.approx((ious * counts).sum() / counts.sum(), abs=1e-12)
    by_name = result["per_category_iou"]
    assert len(by_name) == num_labels
    assert by_name[present].tolist() == pytest.approx(ious.tolist(), abs=1e-12)
    assert np.isnan(np.delete(by_name, present)).all()
    # mmseg: classes that are predicted and have no pixel count with 0
    either = np.union1d(present, predicted[predicted < num_labels])
    assert result["mean_iou_mmseg"] == pytest.approx(ious.sum() / len(either), abs=1e-12)
    expected = confusion_matrix(true, predicted, labels=range(num_labels))
    assert np.array_equal(result["confusion_matrix"][:, :-1], expected)
    assert not result["confusion_matrix"][:, -1].any()


@given(label_maps())
@settings(max_examples=20, deadline=None)
def test_batches_and_their_order_do_not_matter(drawn):
    num_labels, predictions, references = drawn
    at_once = MeanIoU(num_labels=num_labels).compute(predictions=predictions, references=references)
    metric = MeanIoU(num_labels=num_labels)
    for prediction, reference in reversed(list(zip(predictions, references))):
        metric.add(prediction=torch.from_numpy(prediction), reference=reference.tolist())
    assert repr(metric.compute()) == repr(at_once)  # as text, in which NaN equals NaN


def test_evaluate_loads_the_file_without_a_network():
    metric = evaluate.load(str(Path(mean_iou.__file__)), num_labels=2, label_names=["cat", "dog"], ignore_index=255)
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=[np.array([[0, 1], [1, 1]])], references=[np.array([[0, 0], [1, 255]])])
    result = metric.compute()
    assert result["per_category_iou"] == {"cat": 0.5, "dog": 0.5}
    assert result["per_category_accuracy"] == {"cat": 0.5, "dog": 1.0}
    assert set(SCORES) < set(result)


def test_options_may_come_with_the_label_maps_as_in_the_stock_metric():
    maps = {"predictions": [[[0, 2]]], "references": [[[0, 9]]]}
    assert MeanIoU().compute(**maps, num_labels=3, ignore_index=9)["mean_iou"] == 1
    metric = MeanIoU(num_labels=3)
    metric.add_batch(**maps)
    with pytest.raises(ValueError, match="cannot change after label maps were added"):
        metric.compute(ignore_index=9)


def test_an_ignore_label_may_be_one_of_the_classes():
    result = MeanIoU(num_labels=2, ignore_index=0).compute(predictions=[[[0, 1, 0]]], references=[[[0, 1, 1]]])
    assert result["per_category_iou"].tolist() == pytest.approx([math.nan, 0.5], nan_ok=True)


@given(label_maps(), st.booleans(), st.sampled_from([None, 0, 255]))
@settings(max_examples=30, deadline=None)
def test_options_after_the_label_maps_are_options_before_them(drawn, reduce_labels, ignore_index):
    num_labels, predictions, references = drawn
    options = {"label_map": {0: 1, 1: 0}, "reduce_labels": reduce_labels, "ignore_index": ignore_index}
    before = MeanIoU(num_labels=num_labels, **options)
    before.add_batch(predictions=predictions, references=references)
    after = MeanIoU()
    after.add_batch(predictions=predictions, references=references)
    late = after.compute(num_labels=num_labels, **options, return_confusion_matrix=True)
    assert np.array_equal(late["confusion_matrix"], before.compute(return_confusion_matrix=True)["confusion_matrix"])


def test_the_options_of_the_stock_metric_mean_the_same():
    maps = {"predictions": [[[0, 0, 1]]], "references": [[[0, 1, 255]]]}
    assert MeanIoU(num_labels=2).compute(**maps, reduce_labels=True)["overall_accuracy"] == 1  # 0 and 255 are ignored
    swapped = MeanIoU(num_labels=2).compute(**maps, label_map={0: 1, 1: 0})
    assert swapped["per_category_accuracy"].tolist() == [1, 0]
    result = MeanIoU(num_labels=3).compute(**maps, nan_to_num=0)
    assert result["per_category_iou"].tolist() == [0.5, 0.0, 0.0] and result["mean_iou"] == 0.25


def test_predictions_of_none_are_wrong_and_no_class_is_charged_with_them():
    metric = MeanIoU(num_labels=2)
    result = metric.compute(predictions=[[[0, -1, 7]]], references=[[[0, 0, 1]]], return_confusion_matrix=True)
    assert result["confusion_matrix"].tolist() == [[1, 0, 1], [0, 0, 1]]
    assert result["per_category_iou"].tolist() == [0.5, 0.0]


def test_a_computation_starts_afresh():
    metric = MeanIoU(num_labels=2)
    metric.add(prediction=[[0]], reference=[[1]])
    assert metric.compute()["mean_iou"] == 0
    metric.add(prediction=[[1]], reference=[[1]])
    assert metric.compute()["mean_iou"] == 1
    with pytest.raises(ValueError, match="Nothing was added"):
        metric.compute()


def test_memory_does_not_grow_with_the_number_of_images():
    metric = MeanIoU(num_labels=150)
    image = np.random.default_rng(0).integers(0, 150, (256, 256))

    def peak_of(num_images: int) -> int:
        tracemalloc.start()
        for _ in range(num_images):
            metric.add(prediction=image, reference=image)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_of(1)
    assert peak_of(30) <= 1.1 * peak_of(2)


@pytest.mark.parametrize(
    ("prediction", "reference", "reason"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "Resize the prediction"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "float64"),
        (np.zeros((1, 2, 3), int), np.zeros((1, 2, 3), int), r"\(1, 2, 3\)"),
    ],
)
def test_what_is_no_pair_of_label_maps_is_refused_not_resized(prediction, reference, reason):
    with pytest.raises(ValueError, match=reason):
        MeanIoU(num_labels=2).add(prediction=prediction, reference=reference)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="at least one class"):
        MeanIoU(num_labels=0)
    with pytest.raises(ValueError, match="2 names, 1 of them different"):
        MeanIoU(label_names=["cat", "cat"])
    with pytest.raises(ValueError, match="Pass num_labels"):
        MeanIoU().compute(predictions=[[[0]]], references=[[[0]]])
    with pytest.raises(ValueError, match="'reduced_labels'"):
        MeanIoU(num_labels=1).compute(predictions=[[[0]]], references=[[[0]]], reduced_labels=True)
    with pytest.raises(ValueError, match="Resize the prediction"):
        MeanIoU().add(prediction=[[0]], reference=[[0, 1]])
    with pytest.raises(ValueError, match=r"longer|shorter"):
        MeanIoU(num_labels=1).add_batch(predictions=[[[0]]], references=[])
    with pytest.raises(ValueError, match="references is None"):
        MeanIoU(num_labels=1).compute(predictions=[[[0]]])
    with pytest.raises(ValueError, match="predictions is None"):
        MeanIoU(num_labels=1).add_batch(references=[[[0]]])


def _process(rank: int, folder: Path, results: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    metric = MeanIoU(num_labels=3)
    rng = np.random.default_rng(0)
    for index in range(5):  # five images for two processes
        pair = rng.integers(0, 3, (2, 50, 50))
        if index % 2 == rank:
            metric.add(prediction=pair[0], reference=pair[1])
    results.put(metric.compute(return_confusion_matrix=True)["confusion_matrix"].tolist())
    torch.distributed.destroy_process_group()


def test_processes_add_up_exactly(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_process, args=(rank, tmp_path, results)) for rank in range(2)]
    for process in processes:
        process.start()
    counted = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=120)
    alone = ConfusionMatrix(3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        alone.update(*rng.integers(0, 3, (2, 50, 50)))
    assert counted == [alone.counts.tolist()] * 2


def test_processes_that_cannot_be_added_up_are_refused():
    metric = MeanIoU(num_labels=1, num_process=2, process_id=0, experiment_id="test")
    metric.add(prediction=[[0]], reference=[[0]])
    with pytest.raises(ValueError, match=r"torch.distributed"):
        metric.compute()


@given(label_maps(), st.data())
@settings(max_examples=25, deadline=None)
def test_a_batch_that_is_refused_counts_nothing(drawn, data):
    num_labels, predictions, references = drawn
    options = {"num_labels": num_labels} if data.draw(st.booleans()) else {}
    metric = MeanIoU(**options)
    number = data.draw(st.integers(0, len(predictions)))
    bad = data.draw(st.sampled_from([None, np.zeros((1, 1, 1), int), np.ones((3, 3)), np.ma.masked_all((3, 3), int)]))
    with pytest.raises(ValueError, match="expected"):
        metric.add_batch(
            predictions=[*predictions[:number], bad], references=[*references[:number], np.ones((3, 3), int)]
        )
    metric.add_batch(predictions=predictions, references=references)
    result = metric.compute(num_labels=num_labels, return_confusion_matrix=True)
    expected = MeanIoU(num_labels=num_labels).compute(
        predictions=predictions, references=references, return_confusion_matrix=True
    )
    np.testing.assert_array_equal(result["confusion_matrix"], expected["confusion_matrix"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_map": [(0, 1)]}, "label_map is of type list; expected a mapping"),
        ({"label_map": {1.5: 0}}, "A value of label_map is 1.5 .*expected an integer"),
        ({"label_map": {0: math.nan}}, "The new value of 0 in label_map is nan"),
        ({"label_map": {True: 0}}, "of type bool; expected an integer"),
        ({"reduce_labels": "false"}, "reduce_labels is of type str; expected True or False"),
        ({"ignore_index": True}, "ignore_index is of type bool; expected an integer"),
    ],
)
def test_options_of_ground_truth_that_are_no_integers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MeanIoU(num_labels=2, **options)
    with pytest.raises(ValueError, match="nan_to_num is of type str"):
        MeanIoU(num_labels=2).compute(nan_to_num="0")
    with pytest.raises(ValueError, match="return_confusion_matrix is of type ndarray"):
        MeanIoU(num_labels=2).compute(return_confusion_matrix=np.zeros(0))
    maps = {"predictions": [np.zeros((2, 2), int)], "references": [np.full((2, 2), 7)]}
    assert MeanIoU(num_labels=2, label_map={"7": np.int64(0)}).compute(**maps)["mean_iou"] == 1
