# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The model in `transformers.Trainer` and in the way of working of transformers' own examples."""

import copy
import math

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    default_data_collator,
    get_scheduler,
)

from dinov3seg_hf import Vocabulary
from dinov3seg_hf.data import Dinov3SegDataCollator
from dinov3seg_hf.metrics import SegmentationMetrics
from dinov3seg_hf.metrics.mean_iou import MeanIoU
from dinov3seg_hf.model.loss import segmentation_loss

NAMES = ["dark", "bright", "middle"]
ID2LABEL = dict(enumerate(NAMES))
LABEL2ID = {name: label for label, name in ID2LABEL.items()}


@pytest.fixture(scope="module")
def dataset():
    """Six images of three grays, with masks in which a strip is ignored."""
    rng, rows = np.random.default_rng(0), {"image": [], "annotation": []}
    for _ in range(6):
        mask = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16), int)).astype(np.uint8)
        rows["image"].append(Image.fromarray(np.stack([mask * 100] * 3, axis=-1)))
        mask[:4] = 255
        rows["annotation"].append(Image.fromarray(mask))
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def arguments(tmp_path):
    def make(**options):
        return TrainingArguments(
            str(tmp_path / "run"),
            max_steps=3,
            per_device_train_batch_size=2,
            per_device_eval_batch_size=3,
            learning_rate=1e-3,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            **options,
        )

    return make


def load_as_the_examples_do(checkpoint, **options):
    config = AutoConfig.from_pretrained(checkpoint, id2label=ID2LABEL, label2id=LABEL2ID, **options)
    model = AutoModelForSemanticSegmentation.from_pretrained(checkpoint, config=config)
    return model, AutoImageProcessor.from_pretrained(checkpoint, do_reduce_labels=False)


def prepared(dataset, image_processor):
    """Images and labels alone, as tensors, as `run_semantic_segmentation.py` makes them with its transforms."""
    size = {"height": 48, "width": 64}
    return [
        {key: values[0] for key, values in image_processor(row["image"], row["annotation"], size=size).items()}
        for row in dataset
    ]


def test_the_trainer_trains_and_evaluates_from_images_and_masks(
    tiny_model, tiny_processor, dataset, arguments, tmp_path
):
    model = copy.deepcopy(tiny_model).requires_grad_(True)
    model.set_vocabulary(NAMES, tiny_processor).freeze_encoders()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    metrics = SegmentationMetrics(model.config.id2label)
    trainer = Trainer(
        model,
        arguments(remove_unused_columns=False, eval_strategy="steps", eval_steps=3),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=Dinov3SegDataCollator(tiny_processor, size={"height": 48, "width": 64}),
        compute_metrics=metrics,
        preprocess_logits_for_metrics=metrics.preprocess_logits,
        processing_class=tiny_processor,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    (scores,) = [line for line in trainer.state.log_history if "eval_mean_iou" in line]
    assert 0 <= scores["eval_mean_iou"] <= 1 and {f"eval_iou_{name}" for name in NAMES} <= set(scores)
    changed = {name.partition(".")[0] for name, weight in model.state_dict().items() if not weight.equal(before[name])}
    assert "decoder" in changed and not {"vision_model", "text_model", "logit_scale"} & changed
    trainer.save_model(str(tmp_path / "saved"))
    assert AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "saved").vocabulary.names == tuple(NAMES)


def test_the_way_of_the_example_script_trains(tiny_checkpoint, dataset, arguments, tmp_path):
    """Names through the configuration, an image processor, tensors, the default collator, its own metrics."""
    model, image_processor = load_as_the_examples_do(tiny_checkpoint, freeze_encoders=True)
    assert not image_processor.do_reduce_labels and model.config.num_labels == len(NAMES)
    rows = prepared(dataset, image_processor)
    metric = MeanIoU()

    def compute_metrics(eval_prediction):
        logits, labels = map(torch.from_numpy, eval_prediction)
        assert logits.shape[:2] == (6, 3)  # keys_to_ignore_at_inference: the logits alone arrive
        resized = torch.nn.functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        scores = metric.compute(
            predictions=resized.argmax(dim=1).numpy(),
            references=labels.numpy(),
            num_labels=len(ID2LABEL),
            ignore_index=255,
            reduce_labels=image_processor.do_reduce_labels,
        )
        for kind in ("iou", "accuracy"):
            values = scores.pop(f"per_category_{kind}").tolist()
            scores |= {f"{kind}_{ID2LABEL[label]}": value for label, value in enumerate(values)}
        return scores

    trainer = Trainer(
        model=model,
        args=arguments(),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=compute_metrics,
        processing_class=image_processor,
        data_collator=default_data_collator,
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    scores = trainer.evaluate()
    # our ready-made metrics give the same
    predicted = trainer.predict(rows)
    ours = SegmentationMetrics(model.config.id2label)(EvalPrediction(predicted.predictions, predicted.label_ids))
    assert {key: scores[f"eval_{key}"] for key in ours} == pytest.approx(ours, nan_ok=True)
    # no tokenizer was saved, and the names are there
    saved = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    assert saved.vocabulary.names == tuple(NAMES)


def test_the_loop_of_the_example_without_a_trainer_trains(tiny_checkpoint, dataset):
    model, image_processor = load_as_the_examples_do(tiny_checkpoint)
    loader = DataLoader(prepared(dataset, image_processor), batch_size=2, collate_fn=default_data_collator)
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = get_scheduler("polynomial", optimizer, num_warmup_steps=0, num_training_steps=3)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    model.train()
    before = model.decoder.classifier.weight.clone()
    for batch in loader:
        outputs = model(**batch)
        accelerator.backward(outputs.loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert outputs.loss.isfinite() and not torch.equal(before, model.decoder.classifier.weight)
    metric = MeanIoU()
    model.eval()
    for batch in loader:
        with torch.no_grad():
            outputs = model(**batch)
        resized = torch.nn.functional.interpolate(outputs.logits, size=batch["labels"].shape[-2:], mode="bilinear")
        predictions, references = accelerator.gather_for_metrics((resized.argmax(dim=1), batch["labels"]))
        metric.add_batch(predictions=predictions, references=references)
    scores = metric.compute(num_labels=len(ID2LABEL), ignore_index=255, reduce_labels=False)
    assert 0 <= scores["mean_iou"] <= 1 and scores["per_category_iou"].shape == (3,)


def test_label_smoothing_is_refused_in_a_sentence_and_does_not_spoil_the_loss(
    tiny_model, tiny_processor, dataset, arguments
):
    model = copy.deepcopy(tiny_model).set_vocabulary(NAMES, tiny_processor)
    with pytest.warns(UserWarning, match="Label smoothing is not compatible"):
        trainer = Trainer(model, arguments(label_smoothing_factor=0.1))
    batch = Dinov3SegDataCollator(tiny_processor)(list(dataset)[:2])
    with torch.no_grad():
        assert torch.equal(trainer.compute_loss(model, dict(batch)), model(**batch).loss)


def test_accumulated_batches_give_the_mean_of_their_losses(tiny_model, arguments):
    trainer = Trainer(copy.deepcopy(tiny_model), arguments(gradient_accumulation_steps=2))
    assert not trainer.model_accepts_loss_kwargs  # the trainer divides the loss itself


def test_frozen_encoders_stay_in_eval_mode_however_they_were_frozen(tiny_model, tiny_checkpoint):
    frozen = AutoModelForSemanticSegmentation.from_pretrained(tiny_checkpoint, freeze_encoders=True).train()
    assert not frozen.vision_model.training and not frozen.text_model.training and frozen.decoder.training
    assert not any(weight.requires_grad for encoder in frozen.encoders for weight in encoder.parameters())
    by_hand = copy.deepcopy(tiny_model).requires_grad_(True)
    by_hand.vision_model.requires_grad_(False)
    by_hand.train()
    assert not by_hand.vision_model.training and by_hand.text_model.training


def test_the_usual_ignore_label_is_ignored_unless_it_is_a_class():
    logits = torch.randn(1, 3, 4, 4)
    labels = torch.randint(0, 3, (1, 4, 4))
    labels[0, 0] = -1
    usual = torch.where(labels < 0, 255, labels)
    assert torch.equal(segmentation_loss(logits, usual, 255), segmentation_loss(logits, labels))
    with pytest.raises(ValueError, match="labels contains 255"):
        segmentation_loss(logits, usual)
    many, wanted = torch.randn(1, 300, 2, 2), torch.full((1, 2, 2), 255)
    assert torch.equal(segmentation_loss(many, wanted, 255), segmentation_loss(many, wanted))


# --- the collator -----------------------------------------------------------------------------------------------------


def test_a_batch_has_images_masks_and_one_vocabulary(tiny_model, tiny_processor, dataset):
    rows = list(dataset)[:2]
    batch = Dinov3SegDataCollator(tiny_processor, NAMES)(rows)
    assert batch["pixel_values"].shape[:2] == (2, 3) and batch["input_ids"].shape[0] == 3
    assert set(batch["labels"].unique().tolist()) <= {-1, 0, 1, 2}
    default = Dinov3SegDataCollator(tiny_processor)(rows)
    assert set(default) == {"pixel_values", "labels"} and default["labels"].max() == 255
    model = copy.deepcopy(tiny_model).set_vocabulary(NAMES, tiny_processor)
    assert torch.equal(model(**batch).loss, model(**default).loss)
    assert set(Dinov3SegDataCollator(tiny_processor)([{"image": rows[0]["image"]}])) == {"pixel_values"}


def test_labels_of_no_class_are_left_to_the_loss_which_refuses_them(tiny_processor, dataset):
    mask = np.array(dataset[0]["annotation"], np.int64)
    mask[:3] = np.array([[-2], [11], [7]])  # none of the classes, ignored, and a class that the vocabulary lacks
    row = {"image": dataset[0]["image"], "mask": mask}
    labels = Dinov3SegDataCollator(tiny_processor, NAMES, do_resize=False)([row])["labels"]
    assert (labels[0, 0] == -2).all() and (labels[0, 2] == 7).all()
    with pytest.raises(ValueError, match="labels contains 11; expected 0 to 2"):
        segmentation_loss(torch.randn(1, 3, 4, 4), labels, 255)
    vocabulary = Vocabulary(NAMES, raw_ids={7: 0, 0: 1, 1: 2, 2: 2}, ignore_label=11)
    labels = Dinov3SegDataCollator(tiny_processor, vocabulary, do_resize=False)([row])["labels"]
    assert labels[0, :4, 0].tolist() == [-1, -1, 0, -1]
    np.testing.assert_array_equal(labels[0, 4:].numpy(), np.array([1, 2, 2])[mask[4:]])


def test_rows_that_make_no_batch_are_refused_with_the_remedy(tiny_processor, dataset):
    row = dataset[0]
    for rows, message in (
        ([], "no rows"),
        ([{}], "remove_unused_columns=False"),
        ([{"picture_of_it": row["image"]}], "'picture_of_it'; expected an image"),
    ):
        with pytest.raises(ValueError, match=message):
            Dinov3SegDataCollator(tiny_processor)(rows)
    with pytest.raises(ValueError, match="a mask in 'mask'"):
        Dinov3SegDataCollator(tiny_processor, mask_column="mask")([row])
    with pytest.raises(ValueError, match="no tokenizer"):
        Dinov3SegDataCollator(tiny_processor.image_processor, NAMES)
    with pytest.raises(ValueError, match="expected a processor or an image processor"):
        Dinov3SegDataCollator({"size": 16})
    with pytest.raises(ValueError, match="Got 1 images for 2 rows; expected one image per row"):
        Dinov3SegDataCollator(tiny_processor)([{"image": row["image"]}, {"image": [[]]}])
    prepared = {"pixel_values": torch.rand(3, 16, 16), "labels": torch.zeros(8, 8, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"of shape \(8, 8\) and its pixel_values of \(3, 16, 16\)"):
        Dinov3SegDataCollator(tiny_processor)([prepared])


def test_reduced_labels_count_from_zero(tiny_processor, dataset):
    mask = np.array(dataset[0]["annotation"])
    batch = Dinov3SegDataCollator(tiny_processor, do_reduce_labels=True, do_resize=False)([dataset[0]])
    expected = np.where((mask == 0) | (mask == 255), 255, mask.astype(int) - 1)
    np.testing.assert_array_equal(batch["labels"][0].numpy(), expected)
    with pytest.raises(ValueError, match="expected at most 255"):
        tiny_processor.image_processor(dataset[0]["image"], np.full(mask.shape, 300), do_reduce_labels=True)


def test_reduced_labels_keep_negative_labels_which_have_a_meaning_of_their_own(tiny_processor, dataset):
    mask = np.array(dataset[0]["annotation"], np.int64)
    mask[:2] = np.array([[-1], [-2]])  # ignored, and none of the classes
    options = {"do_reduce_labels": True, "do_resize": False, "return_tensors": "pt"}
    labels = tiny_processor.image_processor(dataset[0]["image"], mask, **options)["labels"][0]
    assert (labels[0] == -1).all() and (labels[1] == -2).all()


def test_metrics_refuse_logits_that_the_trainer_padded():
    metrics = SegmentationMetrics(ID2LABEL)
    logits = np.zeros((1, 3, 4, 4), np.float32)
    logits[..., 3] = -100
    with pytest.raises(ValueError, match="preprocess_logits_for_metrics"):
        metrics(EvalPrediction(logits, np.zeros((1, 8, 8), int)))
    with pytest.raises(ValueError, match="without gaps"):
        SegmentationMetrics({1: "cat"})
    assert metrics(EvalPrediction(np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int)), compute_result=False) == {}
    scores = metrics(EvalPrediction(np.ones((1, 2, 2), int), np.zeros((1, 2, 2), int)))
    assert scores["overall_accuracy"] == 0.5 and math.isnan(scores["iou_middle"])
    assert (
        SegmentationMetrics(ID2LABEL, nan_to_num=0)(EvalPrediction(np.ones((1, 2, 2), int), np.ones((1, 2, 2), int)))[
            "iou_middle"
        ]
        == 0
    )


@settings(max_examples=20, deadline=None)
@given(
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
    place=st.integers(0, 2 * 3 * 4 * 5 - 1),
    everywhere=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_metrics_give_no_labels_to_logits_that_are_not_finite(bad, place, everywhere, dtype):
    metrics = SegmentationMetrics(ID2LABEL)
    logits, labels = torch.rand(2, 3, 4, 5, dtype=dtype), torch.zeros(2, 8, 9, dtype=torch.int64)
    scores = metrics(EvalPrediction(logits, labels))
    broken = logits.clone()
    broken.view(-1)[slice(None) if everywhere else place] = bad
    for given_logits in (broken, (broken, logits)):
        with pytest.raises(ValueError, match="NaN or infinity; expected finite"):
            metrics.preprocess_logits(given_logits, labels)
        with pytest.raises(ValueError, match="NaN or infinity; expected finite"):
            metrics(EvalPrediction(given_logits, labels))
    assert metrics(EvalPrediction(logits, labels)) == pytest.approx(scores, nan_ok=True)  # nothing was counted


def test_a_mask_that_only_some_rows_have_is_not_left_out(tiny_processor, dataset):
    collate = Dinov3SegDataCollator(tiny_processor)
    row = dataset[0]
    bare = {"image": row["image"]}
    for rows in ([row, bare], [bare, row]):
        with pytest.raises(ValueError, match="expected a mask"):
            collate(rows)
    ready = {"pixel_values": torch.zeros(3, 16, 16), "labels": torch.zeros(16, 16, dtype=torch.int64)}
    bare = {"pixel_values": ready["pixel_values"]}
    for rows in ([ready, bare], [bare, ready], [ready, {**ready, "labels": torch.full((16, 16), 0.7)}]):
        with pytest.raises(ValueError, match=r"expected integers .* in every row, or in none"):
            collate(rows)
    with pytest.raises(ValueError, match="labels of the rows have the shapes"):
        collate([ready, {**ready, "labels": ready["labels"][:8]}])
    with pytest.raises(ValueError, match="row of type str; expected a list"):
        collate([row, "image"])
    assert collate(iter([ready, ready]))["labels"].shape == (2, 16, 16)


@pytest.mark.parametrize("change", ["reversed", "other byte order", "tensor"])
def test_metrics_take_any_array_and_refuse_another_number_of_classes(change):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 4, 5)).astype(np.float32), rng.integers(0, 3, (2, 8, 9))
    metrics = SegmentationMetrics(ID2LABEL)
    expected = metrics(EvalPrediction(logits, labels))
    given = {
        "reversed": lambda array: array[:, ::-1].copy()[:, ::-1],
        "other byte order": lambda array: array.astype(array.dtype.newbyteorder(">")),
        "tensor": torch.from_numpy,
    }[change]
    assert metrics(EvalPrediction(given(logits), given(labels))) == expected
    with pytest.raises(ValueError, match="logits have 2 classes and id2label has 3; expected the same"):
        metrics(EvalPrediction(logits[:, :2], labels))
    padded = np.concatenate([logits, np.full_like(logits, -100)])
    with pytest.raises(ValueError, match="different sizes"):  # after images that were right, which are not counted
        metrics(EvalPrediction(padded, np.concatenate([labels, labels])))
    assert metrics(EvalPrediction(logits, labels)) == expected
    for id2label, message in (
        ({0: "cat", 1: "cat"}, "a different name for each"),
        (["cat"], "of type list"),
        (None, "None"),
    ):
        with pytest.raises(ValueError, match=message):
            SegmentationMetrics(id2label)
