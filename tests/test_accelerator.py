# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""On an accelerator, everything computes what it computes on the CPU. Skipped where there is none.

python -m pytest tests/test_accelerator.py                                # a GPU of NVIDIA
DINOV3SEG_TEST_DEVICE=mps python -m pytest tests/test_accelerator.py      # another one
"""

import copy
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dinov3seg_hf import TINY, Dinov3SegConfig, OpenVocabularySegmentationPipeline, Vocabulary
from dinov3seg_hf.cli import main
from dinov3seg_hf.conversion import convert_anyup
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.loading import load_model, load_processor
from dinov3seg_hf.model.early_refinement import Dinov3SegEarlyRefinement
from dinov3seg_hf.model.label_maps import label_and_score
from dinov3seg_hf.model.loss import NO_CLASS
from dinov3seg_hf.training.config import TrainingConfig
from dinov3seg_hf.training.trainer import Trainer

from places import FIXTURES

DEVICE = os.environ.get("DINOV3SEG_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.usefixtures("fresh_accelerate"),
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="no accelerator; see DINOV3SEG_TEST_DEVICE"
    ),
]
RECORDED = load_file(FIXTURES / "anyup_tiny.safetensors")
OUTPUTS = sorted(key for key in RECORDED if key.startswith("out/"))
MODES = ("whole", "local-global", "slide")


@pytest.fixture(scope="module", autouse=True)
def exact_float32():
    """Products of float32 keep all of its digits; by default, convolutions of new GPUs round to TF32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def models():
    """The embedded checkpoint on both devices."""
    return {device: load_model(TINY).eval().to(device) for device in ("cpu", DEVICE)}


@pytest.fixture(scope="module")
def pipes(models):
    processor = load_processor(TINY)
    return {
        device: OpenVocabularySegmentationPipeline(model=model, processor=processor, device=device)
        for device, model in models.items()
    }


@pytest.fixture(scope="module")
def text(models):
    """Embeddings `(192, 2, D)` of all drawn names."""
    return Vocabulary(list(NAMES)).encode(models["cpu"], load_processor(TINY), progress=False).tensor


@pytest.fixture(scope="module")
def pixels():
    """Normalized drawn scenes `(2, 3, 96, 128)`."""
    images = [draw_scene(seed, "unseen", (96, 128)).image for seed in range(2)]
    return load_processor(TINY)(images=images, size={"height": 96, "width": 128}, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("options", [{}, {"head": "dinotxt"}, {"head": "dinotxt", "refine_features": True}])
@pytest.mark.parametrize("num_classes", [1, 20, 192])
def test_logits_are_those_of_the_cpu(models, text, pixels, options, num_classes):
    with torch.no_grad():
        expected, found = (
            model(pixels.to(device), text_embeds=text[:num_classes].to(device), **options).logits.cpu()
            for device, model in models.items()
        )
    torch.testing.assert_close(found, expected, atol=1e-3 * expected.abs().max().item(), rtol=0)


def test_text_embeddings_are_those_of_the_cpu(models, text):
    found = Vocabulary(list(NAMES)).encode(models[DEVICE], load_processor(TINY), progress=False).tensor
    torch.testing.assert_close(found, text, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"refine": "pixels"}, {"head": "dinotxt", "background": "auto"}])
def test_label_maps_are_those_of_the_cpu(pipes, mode, options):
    images = [draw_scene(seed, "seen", size).image for seed, size in enumerate(((96, 96), (150, 200)))]
    found = {
        device: pipe(
            [Image.fromarray(image) for image in images],
            candidate_labels=list(NAMES),
            return_label_map=True,
            inference=mode,
            batch_size=2,
            **options,
        )
        for device, pipe in pipes.items()
    }
    for one, other in zip(found["cpu"], found[DEVICE]):
        assert (np.asarray(one["label_map"]) != np.asarray(other["label_map"])).mean() <= 2e-3


@pytest.mark.parametrize("function", ["sigmoid", "softmax"])
def test_labels_of_large_maps_are_those_of_the_cpu(function):
    logits = torch.randn(150, 40, 40, generator=torch.Generator().manual_seed(0))
    expected, found = (label_and_score(logits.to(device), (300, 401), function, 1.0) for device in ("cpu", DEVICE))
    assert (expected[0] != found[0].cpu()).float().mean() <= 1e-4
    torch.testing.assert_close(found[1].cpu(), expected[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", OUTPUTS)
def test_anyup_equals_the_published_code(name):
    module = Dinov3SegEarlyRefinement(Dinov3SegConfig(early_hidden_size=32, early_num_attention_heads=4)).eval()
    module.load_state_dict(
        convert_anyup({key.removeprefix("anyup/"): tensor for key, tensor in RECORDED.items() if "anyup/" in key})
    )
    size, expected = name.removeprefix("out/").split("_")[0], RECORDED[name]
    inputs = [RECORDED[f"in/{kind}_{size}"].to(DEVICE) for kind in ("features", "image")]
    with torch.no_grad():
        refined = module.to(DEVICE)(*inputs, expected.shape[-2:]).cpu()
    # an H200 adds in another order: up to 1.5e-5; the bound of 1e-5 holds on the CPU, where the outputs were recorded
    torch.testing.assert_close(refined, expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("soft", [False, True])
def test_loss_and_gradients_are_those_of_the_cpu(models, text, pixels, soft):
    labels = torch.from_numpy(
        np.stack([draw_scene(seed, "unseen", (96, 128)).labels.astype(np.int64) for seed in range(2)])
    )
    chosen = labels.unique()
    places = torch.full((192,), NO_CLASS).scatter(0, chosen, torch.arange(len(chosen)))
    labels = torch.where(places[labels] == 0, NO_CLASS, places[labels])
    if soft:
        labels = torch.stack([(labels == index).float() for index in range(len(chosen))], dim=1)
    losses, gradients = [], []
    for device, model in models.items():
        model = copy.deepcopy(model)  # in eval mode: DINOv3 augments its coordinates by chance
        loss = model(pixels.to(device), text_embeds=text[chosen].to(device), labels=labels.to(device)).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    scale = max(gradient.abs().max().item() for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=2e-3 * scale, rtol=2e-2, msg=name)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_takes_its_steps_there_and_saves_what_it_learned(tmp_path, precision):
    config = TrainingConfig(
        init="embedded",
        head="fresh",
        dataset="drawn-world",
        split="seen[:16]",
        eval_split="unseen[500000:500002]",
        eval_every=4,
        output=str(tmp_path / "run"),
        crop_size=96,
        steps=4,
        batch_size=4,
        warmup_steps=1,
        num_workers=0,
        sampled_classes=[8],
        mixed_precision=precision,
        trackers=["none"],
        num_overlays=0,
        checkpoint_every=2,
    )
    trainer = Trainer(config)
    assert trainer.accelerator.device.type == torch.device(DEVICE).type
    result = trainer.train()
    assert result.finished and np.isfinite(result.loss)
    before, after = (load_model(name).state_dict() for name in (TINY, str(tmp_path / "run" / "model")))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"correlation_embedding", "late_refinement", "decoder"} <= changed
    assert not changed & {"vision_model", "text_model"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_changes_few_labels(pipes, dtype):
    images = [Image.fromarray(draw_scene(seed).image) for seed in range(4)]
    model = copy.deepcopy(pipes[DEVICE].model).to(getattr(torch, dtype))
    half = OpenVocabularySegmentationPipeline(model=model, processor=load_processor(TINY), device=DEVICE)
    options = {"candidate_labels": list(NAMES), "return_label_map": True, "inference": "whole"}
    for image in images:
        expected, found = (np.asarray(pipe(image, **options)["label_map"]) for pipe in (pipes["cpu"], half))
        assert (expected != found).mean() <= 0.02


def test_the_command_segments(tmp_path):
    Image.fromarray(draw_scene(0).image).save(tmp_path / "scene.png")
    words = ["--labels", "red circle, green background", "--device", DEVICE]
    assert main(["segment", str(tmp_path / "scene.png"), *words, "--output", str(tmp_path / "out.png")]) == 0
    assert Image.open(tmp_path / "out.png").size[1] > 0
