# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Somebody who has the package and works by name: OUTCOMES CHECKPOINT MODEL DATASET IMAGE LABELS."""

import contextlib
import errno
import importlib
import io
import json
import os
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub.file_download
import numpy as np
import torch
from huggingface_hub import HfApi
from PIL import Image
from steps import Steps
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    AutoProcessor,
    pipeline,
)

import dinov3seg_hf
from dinov3seg_hf import Vocabulary, cli

_, _, CHECKPOINT, NAME, DATASET, IMAGE, LABELS = sys.argv
SEGMENT = ["segment", IMAGE, "--labels", LABELS, "--model", NAME, "--device", "cpu"]
CLASSES = ["dark", "bright", "middle"]
step = Steps()


@step
def pushes_model_and_processor():
    dinov3seg_hf.Dinov3SegForSemanticSegmentation.from_pretrained(CHECKPOINT).push_to_hub(NAME, max_shard_size="100KB")
    dinov3seg_hf.Dinov3SegProcessor.from_pretrained(CHECKPOINT).push_to_hub(NAME)
    return {entry.path: entry.size for entry in HfApi().list_repo_tree(NAME)}


@step
def saves_and_pushes_at_once():
    processor = dinov3seg_hf.Dinov3SegProcessor.from_pretrained(CHECKPOINT)
    processor.save_pretrained("processor", push_to_hub=True, repo_id="org/processor")
    return HfApi().list_repo_files("org/processor")


@step
def cold_model():
    start = time.perf_counter()
    AutoModel.from_pretrained(NAME)
    return time.perf_counter() - start


@step
def loads_by_name():
    loaded = {
        auto_class.__name__: auto_class.from_pretrained(NAME)
        for auto_class in (AutoConfig, AutoModel, AutoModelForSemanticSegmentation, AutoImageProcessor, AutoProcessor)
    }
    loaded["pil"] = AutoImageProcessor.from_pretrained(NAME, backend="pil")
    loaded["pipeline"] = pipeline("open-vocabulary-segmentation", NAME)
    return {name: f"{type(value).__module__}.{type(value).__name__}" for name, value in loaded.items()}


@step
def loads_in_the_torchvision_backend():
    try:
        importlib.import_module("torchvision")
    except Exception:
        return "no torchvision"
    return type(AutoImageProcessor.from_pretrained(NAME, backend="torchvision")).__name__


@step
def pipeline_by_name():
    pipe = pipeline("open-vocabulary-segmentation", NAME, device="cpu")
    return pipe(IMAGE, LABELS, return_label_map=True, inference="whole")["label_map"].tolist()


@step
def command_by_name():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.main([*SEGMENT, "--json", "out.json"])
    return {"code": code, "table": out.getvalue(), "labels": json.loads(Path("out.json").read_text())["labels"]}


@step
def full_disk_in_the_cache():
    """The library's files cannot be written to; afterwards there is room again."""
    download = huggingface_hub.file_download.http_get

    def write_to_a_full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    huggingface_hub.file_download.http_get = write_to_a_full_disk
    huggingface_hub.constants.HF_HUB_CACHE, cache = os.path.abspath("full"), huggingface_hub.constants.HF_HUB_CACHE
    message = "nothing was said"
    try:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = cli.main(SEGMENT)
        message = err.getvalue()
    finally:
        huggingface_hub.file_download.http_get = download
    with contextlib.redirect_stdout(io.StringIO()):
        again = cli.main(SEGMENT)
    huggingface_hub.constants.HF_HUB_CACHE = cache
    return {"code": code, "message": message, "again": again}


# --- data sets --------------------------------------------------------------------------------------------------------


@step
def pushes_a_data_set():
    rng = np.random.default_rng(0)
    rows = {"image": [], "mask": []}
    for _ in range(4):
        values = np.kron(rng.integers(0, 3, (3, 4)), np.ones((24, 24), int)).astype(np.uint8)
        rows["image"].append(Image.fromarray(np.stack([values * 100] * 3, axis=-1)))
        rows["mask"].append(Image.fromarray(values))
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).push_to_hub(DATASET, split="train")
    return HfApi().list_repo_files(DATASET, repo_type="dataset")


@step
def evaluates_by_name():
    from dinov3seg_hf.data.opening import open_dataset
    from dinov3seg_hf.data.segmentation import SegmentationDataset
    from dinov3seg_hf.evaluation.evaluator import evaluate

    data = SegmentationDataset(open_dataset(DATASET, "train"), Vocabulary.from_list(CLASSES))
    model, processor = AutoModel.from_pretrained(NAME).eval(), AutoProcessor.from_pretrained(NAME)
    result = evaluate(model, processor, data, progress=False, num_resamples=10)
    return {"num_images": result.num_images, "mean_iou": result.scores["mean_iou"]}


@step
def trains_by_name():
    from dinov3seg_hf.training.config import TrainingConfig
    from dinov3seg_hf.training.trainer import Trainer

    Path("classes.txt").write_text("\n".join(CLASSES))
    config = TrainingConfig(
        init=NAME,
        dataset=DATASET,
        output="run",
        vocabulary="classes.txt",
        crop_size=48,
        steps=2,
        batch_size=2,
        warmup_steps=0,
        num_workers=0,
        eval_split="train",
        eval_images=1,
        num_overlays=0,
        trackers=[],
    )
    result = Trainer(config).train()
    (weights,) = Path("run").rglob("model.safetensors")
    trained, before = AutoModel.from_pretrained(weights.parent), AutoModel.from_pretrained(NAME)
    moved = [not torch.equal(a, b) for a, b in zip(trained.decoder.parameters(), before.decoder.parameters())]
    return {"step": result.step, "finished": result.finished, "moved": any(moved)}


step.write()
