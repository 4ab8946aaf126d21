# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Training in one process: what is trained, that it goes on exactly, that bad input is refused before the first step.

What takes several processes or a kill is in test_train_script.py.
"""

import contextlib
import copy
import dataclasses
import json
import math
import shutil
import signal
import warnings
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from dinov3seg_hf import TINY, Dinov3SegForSemanticSegmentation, Vocabulary
from dinov3seg_hf.data.drawn_world import open_drawn_world, seen_vocabulary
from dinov3seg_hf.data.parquet import write_parquet
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.data.streamed import StreamedSegmentationDataset
from dinov3seg_hf.drawn_world.names import NAMES as DRAWN_NAMES
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.evaluation.evaluator import evaluate
from dinov3seg_hf.loading import load_starting_point
from dinov3seg_hf.model.checks import MaskWarning
from dinov3seg_hf.model.loss import NO_CLASS, segmentation_loss
from dinov3seg_hf.model.processing_dinov3seg import Dinov3SegProcessor
from dinov3seg_hf.training import trainer as training
from dinov3seg_hf.training.accelerate_setup import refuse_unsupported
from dinov3seg_hf.training.batches import EpochSampler, normalize, pixels_per_class, relabel, sample_classes, seeds_of
from dinov3seg_hf.training.config import RUN_OPTIONS, SWITCHES, TrainingConfig, config_from_flags, make_parser
from dinov3seg_hf.training.data import TrainingData, make_transform, open_training_data, set_shortest_edge
from dinov3seg_hf.training.feature_noise import FeatureNoise, add_noise
from dinov3seg_hf.training.optimization import (
    MovingAverage,
    choose_trainable,
    enable_activation_checkpointing,
    merge_lora,
    parameter_groups,
    set_training_mode,
)
from dinov3seg_hf.training.progress import NonFiniteLossError
from dinov3seg_hf.training.run_folder import RunFolder
from dinov3seg_hf.training.text import prepare_text
from dinov3seg_hf.training.trainer import Trainer

from places import REPO

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

NAMES = ["red", "green", "blue", "gray"]


@pytest.fixture(scope="module")
def rows():
    """12 images of 32 px, two colors each; ignored pixels are more in some than in others."""
    rng = np.random.default_rng(0)
    colors = np.array([[220, 30, 30], [30, 200, 30], [30, 30, 220], [120, 120, 120]], np.uint8)
    images, masks = [], []
    for index in range(12):
        labels = np.full((32, 32), index % 4, np.uint8)
        labels[8:24, 4 : 10 + index] = (index + 1) % 4
        image = colors[labels] + rng.integers(0, 30, (32, 32, 3), dtype=np.uint8)
        labels[: index * 2] = 255
        images.append(Image.fromarray(image))
        masks.append(Image.fromarray(labels))
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    return datasets.Dataset.from_dict({"image": images, "mask": masks}, features=features)


@pytest.fixture
def data(rows):
    vocabulary = Vocabulary(NAMES)
    transform = make_transform(small_config(init="-", output="-"))
    return TrainingData(
        SegmentationDataset(rows, vocabulary, transform=transform),
        vocabulary,
        SegmentationDataset(rows.select(range(3)), vocabulary),
        vocabulary,
    )


@pytest.fixture
def streamed_data(rows, data):
    """The same rows from a stream in three shards."""
    stream, first = rows.to_iterable_dataset(num_shards=3), rows.take(3).to_iterable_dataset()
    return dataclasses.replace(
        data,
        train=StreamedSegmentationDataset(stream, data.vocabulary, transform=data.train.transform),
        evaluation=StreamedSegmentationDataset(first, data.vocabulary),
    )


def small_config(**changes) -> TrainingConfig:
    values = {
        "dataset": "in-memory",
        "num_workers": 0,
        "crop_size": 24,
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 1,
        "checkpoint_every": 2,
        "log_every": 1,
        "num_overlays": 0,
        "trackers": ["none"],
    }
    return TrainingConfig(**{**values, **changes})


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, different


def curve(folder) -> list[tuple[int, float, float]]:
    lines = RunFolder(folder).read_log()
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in lines if "loss" in line]


# --- what is trained -------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny_model):
    return copy.deepcopy(tiny_model).requires_grad_(True)


def test_the_encoders_stay_as_they_were_and_everything_after_them_learns(tiny_checkpoint, tmp_path, data):
    before = weights(Dinov3SegForSemanticSegmentation.from_pretrained(tiny_checkpoint))
    Trainer(small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run")), data=data).train()
    after = weights(Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "run" / "model"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"early_refinement", "semantic_prior", "correlation_embedding", "late_refinement", "decoder"}


def test_a_few_steps_on_few_images_lower_the_loss(tmp_path, data):
    """A new head on encoders that can see: it gets far below what the class shares alone give, log 4 = 1.39."""
    config = small_config(
        init=str(TINY), output=str(tmp_path), head="fresh", steps=100, learning_rate=3e-3, left_out_classes=0
    )
    Trainer(config, data=data).train()
    losses = [loss for _, loss, _ in curve(tmp_path)]
    # means over many steps, because the softmax loss of a batch of four small crops depends on the batch
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:10])
    assert np.mean(losses[-20:]) < 0.9


def test_a_fresh_head_of_another_size_trains_and_is_saved(tiny_checkpoint, tmp_path, data):
    overrides = ["early_refinement_scale=2", "late_num_layers=1"]
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path), head="fresh", config_overrides=overrides)
    Trainer(config, data=data).train()
    trained = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "model")
    assert (trained.config.early_refinement_scale, len(trained.late_refinement.class_layers)) == (2, 1)


def test_what_is_trained_is_known(tiny_checkpoint, tmp_path, data):
    model, processor = load_starting_point(str(tiny_checkpoint))
    model.config.known_words = ["red", "sky"]
    prepare_text(model, processor, Vocabulary(["red fence", "lamp"]), torch.device("cpu"), False)
    assert model.config.known_words == ["red", "sky", "fence", "lamp"]
    model.config.known_words = None
    prepare_text(model, processor, Vocabulary(["red fence"]), torch.device("cpu"), False)
    assert model.config.known_words is None


def test_the_license_of_the_weights_goes_with_what_is_trained_from_them(tiny_checkpoint, tmp_path, data):
    init = shutil.copytree(tiny_checkpoint, tmp_path / "init")
    (init / "LICENSE.md").write_text("Terms.\n")
    Trainer(small_config(init=str(init), output=str(tmp_path / "run"), steps=2), data=data).train()
    assert (tmp_path / "run" / "model" / "LICENSE.md").read_text() == "Terms.\n"


@pytest.mark.parametrize("encoders", [("vision",), ("text",), ("vision", "text")])
def test_queries_and_values_of_the_named_encoders_train_and_nothing_else_of_them(model, encoders):
    choose_trainable(model, encoders)
    towers = {"vision": "vision_model", "text": "text_model"}
    free = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith(tuple(towers.values()))}
    assert free and all(name.split(".")[-2] in ("q_proj", "v_proj") for name in free)
    assert {name.split(".")[0] for name in free} == {towers[encoder] for encoder in encoders}
    assert not model.logit_scale.requires_grad
    assert all(p.requires_grad for p in model.decoder.parameters())


def test_encoders_stay_in_eval_mode_even_where_they_train(model):
    choose_trainable(model, ("vision",))
    set_training_mode(model)
    assert model.decoder.training
    assert not any(module.training for encoder in model.encoders for module in encoder.modules())
    enable_activation_checkpointing(model)
    set_training_mode(model)
    training = {type(module).__name__ for module in model.vision_model.modules() if module.training}
    assert training == {"DINOv3ViTLayer"}  # the flag alone, without which nothing would be checkpointed
    assert not any(module.training for module in model.text_model.modules())


def test_gradient_checkpointing_asks_for_nothing_that_is_deprecated(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # in whose name it may be told: the library warns in its own
        enable_activation_checkpointing(model)


def test_gradient_checkpointing_changes_no_gradient(model):
    choose_trainable(model, ("vision",))
    pixels, labels = torch.randn(1, 3, 32, 32), torch.randint(0, 3, (1, 32, 32))
    text = nn.functional.normalize(torch.randn(3, 2, 32), dim=-1)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            enable_activation_checkpointing(model)
        set_training_mode(model)
        model.zero_grad()
        model(pixels, text_embeds=text, labels=labels).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("switches", [(), *((switch,) for switch in SWITCHES), SWITCHES])
@pytest.mark.parametrize("encoders", [(), ("vision", "text")])
def test_every_trainable_parameter_has_a_part_in_the_loss(tiny_config, switches, encoders):
    """Data parallelism waits for the gradient of each."""
    config = copy.deepcopy(tiny_config)
    for switch in switches:
        setattr(config, switch, False)
    model = choose_trainable(Dinov3SegForSemanticSegmentation(config), encoders)
    labels = torch.randint(0, 2, (1, 16, 16))
    model(torch.randn(1, 3, 32, 32), input_ids=torch.tensor([[1, 2], [3, 4]]), labels=labels).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("parts", [("vision",), ("all",)])
def test_every_trainable_parameter_is_in_one_group_and_norms_biases_and_tables_do_not_decay(model, parts):
    choose_trainable(model, parts)
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1, encoder_multiplier=0.01)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = {id(p): name for name, p in model.named_parameters()}
    owners = {id(p): module for module in model.modules() for p in module.parameters(recurse=False) if p.requires_grad}
    for group in groups:
        for p in group["params"]:
            name = names[id(p)]
            slow = name.startswith(("vision_model", "text_model")) or name == "decoder.correlation_weight"
            assert group["lr"] == (0.01 if slow else 1.0)
            is_matrix = isinstance(owners[id(p)], (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and p.ndim > 1
            assert group["weight_decay"] == (0.1 if is_matrix else 0.0), name


@pytest.mark.parametrize("parts, lora_rank", [(("all",), 0), (("vision", "text"), 0), (("vision", "text"), 2)])
def test_layer_decay_slows_the_first_layers_of_an_encoder_most(model, parts, lora_rank):
    if lora_rank:
        pytest.importorskip("peft")
    choose_trainable(model, parts, lora_rank)
    groups = parameter_groups(model, 1.0, 0.1, encoder_multiplier=0.01, encoder_layer_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert groups[0]["lr"] == 1.0 and len(rates) == sum(p.requires_grad for p in model.parameters())

    def powers(module: nn.Module) -> set[float]:
        return {round(math.log2(0.01 / rates[id(p)]), 6) for p in module.parameters() if p.requires_grad}

    vision, text = model.vision_model, model.text_model.text_model
    layers = [*vision.backbone.model.layer, *vision.head.layer]  # the layers of the vision head come after
    for number, layer in enumerate(reversed(layers)):
        assert powers(layer) == {number}
    for number, layer in enumerate(reversed(text.encoder.layers)):
        assert powers(layer) == {number}
    if parts == ("all",):
        assert powers(vision.backbone.embeddings) == {len(layers)}
        assert powers(vision.backbone.norm) == {len(vision.head.layer)}
        assert powers(text.embeddings) == {len(text.encoder.layers)}
        assert powers(vision.head.norm) | powers(text.final_layer_norm) == {0}
    assert {rates[id(p)] for p in model.late_refinement.parameters()} == {1.0}


def test_layer_decay_starts_at_the_last_layer_that_is_trained(tiny_config):
    config = copy.deepcopy(tiny_config)
    config.patch_source = "backbone"
    model = choose_trainable(Dinov3SegForSemanticSegmentation(config), ("all",))
    groups = parameter_groups(model, 1.0, 0.1, 0.01, encoder_layer_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    last = model.vision_model.backbone.model.layer[-1]  # the vision head is not used
    assert {rates[id(p)] for p in last.parameters()} == {0.01}


def test_layer_decay_without_trained_encoders_is_refused():
    with pytest.raises(ValueError, match=r"encoder_layer_decay is 0\.8, but trainable_encoders is empty"):
        small_config(init="-", output="-", encoder_layer_decay=0.8)


@pytest.mark.parametrize("encoders", [("vision",), ("vision", "text")])
def test_adapters_start_as_nothing_train_alone_and_are_merged_without_a_trace(model, encoders):
    pytest.importorskip("peft")
    pixels, ids = torch.randn(1, 3, 32, 32), torch.tensor([[1, 2, 3], [4, 5, 6]])
    names = set(model.state_dict())
    with torch.no_grad():
        plain = model(pixels, input_ids=ids).logits
    choose_trainable(model, encoders, lora_rank=2)
    free = [name for name, p in model.named_parameters() if p.requires_grad and "_model." in name]
    assert free and all("lora_" in name for name in free)
    assert {name.split(".")[0] for name in free} == {f"{encoder}_model" for encoder in encoders}
    assert all(p.requires_grad for p in model.late_refinement.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(pixels, input_ids=ids).logits, plain)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
        adapted = model(pixels, input_ids=ids).logits
        assert not torch.allclose(adapted, plain)
        merge_lora(model)
        torch.testing.assert_close(model(pixels, input_ids=ids).logits, adapted, rtol=1e-4, atol=1e-4)
    assert set(model.state_dict()) == names


def test_the_moving_average_lies_between_the_weights_and_leaves_them_alone():
    module = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(module.weight)
    average = MovingAverage(module, decay=0.9)
    with torch.no_grad():
        module.weight.fill_(1.0)
    for _ in range(3):
        average.update()
    with average.in_place_of_weights():
        assert (module.weight > 0).all() and (module.weight < 1).all()
    assert (module.weight == 1).all()
    restored = MovingAverage(module, decay=0.9)
    restored.load_state_dict(copy.deepcopy(average.state_dict()))
    for each in (average, restored):
        each.update()
        each.copy_to_model()
        value = module.weight.clone()
        with torch.no_grad():
            module.weight.fill_(1.0)
    assert torch.equal(restored.state_dict()["average"]["weight"], value)


# --- batches ---------------------------------------------------------------------------------------------------------


@given(num_rows=st.integers(1, 40), batch_size=st.integers(1, 8), epoch=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_an_epoch_is_a_part_of_a_permutation_in_whole_steps(num_rows, batch_size, epoch):
    if num_rows < batch_size:
        with pytest.raises(ValueError, match="batch_size"):
            EpochSampler(num_rows, batch_size, seed=0)
        return
    sampler = EpochSampler(num_rows, batch_size, seed=0)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert order == list(sampler)
    assert len(order) == len(sampler) == num_rows - num_rows % batch_size
    assert len(set(order)) == len(order) and set(order) <= set(range(num_rows))


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed, epoch):
        sampler = EpochSampler(50, 1, seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    step=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_the_classes_of_a_step_are_those_shown_and_then_others(counts, sizes, step):
    counts = torch.tensor(counts)
    classes = sample_classes(counts, sizes, seed=1, step=step)
    assert torch.equal(classes, sample_classes(counts, sizes, seed=1, step=step))
    assert len(classes) in {min(size, len(counts)) for size in sizes}
    assert torch.equal(classes, classes.unique())
    shown = counts[classes] > 0
    assert shown.all() or (shown.sum() == (counts > 0).sum())


@given(counts=st.lists(st.integers(0, 5), min_size=2, max_size=30), step=st.integers(0, 5), share=st.floats(0.01, 1))
@settings(max_examples=100, deadline=None)
def test_classes_that_are_left_out_are_no_negatives_and_one_stays(counts, step, share):
    counts = torch.tensor(counts)
    chosen = sample_classes(counts, [len(counts)], 1, step, left_out=share)
    shown = counts[chosen] > 0
    assert torch.equal(chosen[~shown], (counts == 0).nonzero()[:, 0])  # all that the images do not show
    assert shown.any() or not (counts > 0).any()


def test_the_given_share_of_the_classes_shown_is_left_out():
    counts = torch.ones(100, dtype=torch.long)
    kept = [len(sample_classes(counts, [100], 1, step, left_out=0.3)) for step in range(50)]
    assert 65 < sum(kept) / 50 < 75


def test_near_negatives_are_the_names_most_like_those_shown():
    angles = torch.arange(40) * 2 * torch.pi / 40  # names on a circle: neighbors are the most similar
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    counts = torch.zeros(40, dtype=torch.long)
    counts[10] = 5
    near = {8, 9, 11, 12}
    similarities = (vectors @ vectors.T).numpy()
    found = [set(sample_classes(counts, [9], 1, step, similarities).tolist()) for step in range(50)]
    assert all(10 in classes and len(classes) == 9 for classes in found)
    # 4 of the 8 negatives are near, with some noise; the others are drawn from all
    assert sum(len(near & classes) for classes in found) / 50 > 2.5
    assert set.union(*found) == set(range(40))
    at_random = [set(sample_classes(counts, [9], 1, step).tolist()) for step in range(50)]
    assert sum(len(near & classes) for classes in at_random) / 50 < 1.5


def test_the_nearest_names_are_those_of_the_embeddings(tiny_checkpoint, tmp_path, data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path), sampled_classes=[3])
    trainer = Trainer(config, data=data)
    embeddings = trainer.text.inputs["text_embeds"]
    expected = (embeddings[:, 0] @ embeddings[:, 0].T + embeddings[:, 1] @ embeddings[:, 1].T) / 2
    np.testing.assert_allclose(trainer.text.similarities, expected.numpy(), atol=1e-6)
    trainer.folder.release()


def test_the_whole_of_dino_txt_can_be_trained(tiny_checkpoint, tmp_path, data):
    config = small_config(
        init=str(tiny_checkpoint),
        output=str(tmp_path),
        trainable_encoders=["all"],
        encoder_learning_rate_multiplier=1.0,
        steps=2,
    )
    before = weights(Dinov3SegForSemanticSegmentation.from_pretrained(tiny_checkpoint))
    trainer = Trainer(config, data=dataclasses.replace(data, evaluation=None))
    trainer.train()
    after = trainer.model.state_dict()
    encoders = [name for name in before if name.startswith(("vision_model.", "text_model."))]
    unchanged = {name for name in encoders if torch.equal(before[name], after[name])}
    buffers = {name for name, _ in trainer.model.named_buffers()}
    # a shift of all keys changes no attention, and only the pre-training uses the mask token
    assert {name for name in unchanged - buffers if "k_proj.bias" not in name} == {
        "vision_model.backbone.embeddings.mask_token"
    }


def test_the_shortest_edge_sets_the_scale_of_training_and_of_the_trained_processor(tiny_checkpoint, tmp_path, data):
    config = small_config(
        init=str(tiny_checkpoint), output=str(tmp_path), shortest_edge=48, scale_range=[0.5, 1], steps=2
    )
    assert make_transform(config).scale == (1.0, 2.0)  # crops of 24 px
    Trainer(config, data=dataclasses.replace(data, evaluation=None)).train()
    processor = Dinov3SegProcessor.from_pretrained(tmp_path / "model")
    assert dict(processor.image_processor.size) == {"shortest_edge": 48}


def test_the_limit_of_the_longer_side_stays(tiny_processor):
    processor = copy.deepcopy(tiny_processor.image_processor)
    for before, after in (
        ({"shortest_edge": 64, "longest_edge": 96}, {"shortest_edge": 80, "longest_edge": 96}),
        ({"shortest_edge": 64, "longest_edge": 70}, {"shortest_edge": 80, "longest_edge": 80}),
        ({"height": 64, "width": 64}, {"shortest_edge": 80}),
    ):
        processor.size = before
        set_shortest_edge(processor, 80)
        assert dict(processor.size) == after


@pytest.mark.parametrize("source", ["head", "backbone"])
@pytest.mark.parametrize("encoders", [(), ("vision",), ("all",)])
def test_no_trainable_parameter_is_without_gradient_whatever_the_patch_source(tiny_config, source, encoders):
    config = copy.deepcopy(tiny_config)
    config.patch_source = source
    model = choose_trainable(Dinov3SegForSemanticSegmentation(config), encoders)
    labels = torch.randint(0, 2, (1, 16, 16))
    model(torch.randn(1, 3, 32, 32), input_ids=torch.tensor([[1, 2], [3, 4]]), labels=labels).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_evaluation_in_training_has_the_inference_mode_of_the_checkpoint(tiny_checkpoint, tmp_path, data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path), eval_split="test", steps=2)
    trainer = Trainer(config, data=data)
    trainer.processor.image_processor.do_windows = True
    trainer.train()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["protocol"]["inference"]["inference"] == "local-global"


def test_relabelling_keeps_what_a_pixel_is_called():
    labels = torch.tensor([[0, 2, -1], [3, 1, 3]])
    classes = torch.tensor([1, 3])
    found = relabel(labels, classes, num_classes=4)
    assert found.tolist() == [[NO_CLASS, NO_CLASS, -1], [1, 0, 1]]
    assert pixels_per_class([labels], 4).tolist() == [1, 1, 1, 2]


def test_pixels_are_normalized_as_the_image_processor_does(tiny_processor):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = tiny_processor(images=Image.fromarray(image))["pixel_values"][0]
    processor = tiny_processor.image_processor
    found = normalize(torch.from_numpy(image).permute(2, 0, 1)[None], processor.image_mean, processor.image_std)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_noise_belongs_to_an_image_and_not_to_its_batch():
    features = torch.randn(3, 16, 5, 6)
    together = add_noise(features, 0.5, [7, 8, 9])
    alone = torch.cat([add_noise(features[i : i + 1], 0.5, [seed]) for i, seed in enumerate((7, 8, 9))])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together[0] - features[0], together[1] - features[1])
    assert torch.equal(add_noise(features, 0.0, [7, 8, 9]), features)
    relative = (together - features).norm(dim=1) / features.norm(dim=1)
    assert 0 < relative.mean() < 1.0


def test_noise_reaches_the_head_only_while_it_trains(tiny_model):
    model = copy.deepcopy(tiny_model)
    noise = FeatureNoise(model.vision_model, strength=1.0)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        clean = model.get_image_features(pixels)
        with noise.using([1, 2]):
            noisy = model.get_image_features(pixels)
        after = model.get_image_features(pixels)
    assert not torch.allclose(clean.refined_features, noisy.refined_features)
    assert torch.equal(clean.cls_embeds, noisy.cls_embeds)
    assert torch.equal(clean.refined_features, after.refined_features)
    assert model.state_dict().keys() == tiny_model.state_dict().keys()


def test_seeds_differ_between_steps_and_places():
    seeds = [seed for step in range(5) for seed in seeds_of(0, step, range(5))]
    assert len(set(seeds)) == 25 and seeds == [seed for step in range(5) for seed in seeds_of(0, step, range(5))]


# --- a step ----------------------------------------------------------------------------------------------------------


def gradients_of(trainer, batches):
    """The gradients of a step, before the optimizer takes it."""
    found = {}

    def record():
        found.update({name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None})

    trainer.optimizer.step, step = lambda: record() if trainer.accelerator.sync_gradients else None, None
    trainer._take_step(batches, False)
    return found, step


@pytest.mark.parametrize("sampled", [[], [2, 3]])
def test_accumulated_batches_give_the_gradient_of_the_whole_one(tiny_checkpoint, tmp_path, data, sampled):
    """Also where one part has more ignored pixels than the other."""
    gradients = []
    for accumulation in (1, 4):
        config = small_config(
            init=str(tiny_checkpoint),
            output=str(tmp_path / str(accumulation)),
            gradient_accumulation=accumulation,
            max_grad_norm=0.0,
            sampled_classes=sampled,
            feature_noise=0.5,
        )
        trainer = Trainer(config, data=data)
        batches = trainer._batches()
        set_training_mode(trainer.model)
        gradients.append(gradients_of(trainer, [next(batches) for _ in range(accumulation)])[0])
        trainer.folder.release()
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_logged_loss_is_that_of_the_whole_step(tiny_checkpoint, tmp_path, data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path), gradient_accumulation=2, left_out_classes=0)
    trainer = Trainer(config, data=data)
    batches = trainer._batches()
    parts = [next(batches) for _ in range(2)]
    whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    processor = trainer.processor.image_processor
    set_training_mode(trainer.model)
    pixels = normalize(whole["images"], processor.image_mean, processor.image_std)
    with torch.no_grad():
        expected = segmentation_loss(trainer.model(pixels, **trainer.text.inputs).logits, whole["labels"])
    loss, _, _ = trainer._take_step(parts, False)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    trainer.folder.release()


def test_text_is_encoded_once_when_it_is_frozen_and_every_step_when_it_trains(
    tiny_checkpoint, tmp_path, data, monkeypatch
):
    calls = []
    encode = Dinov3SegForSemanticSegmentation.get_text_features
    monkeypatch.setattr(
        Dinov3SegForSemanticSegmentation,
        "get_text_features",
        lambda self, *arguments: calls.append(1) or encode(self, *arguments),
    )
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "frozen"))
    Trainer(config, data=dataclasses.replace(data, evaluation=None)).train()
    assert len(calls) == 1
    calls.clear()
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "trained"), trainable_encoders=["text"])
    before = weights(Dinov3SegForSemanticSegmentation.from_pretrained(tiny_checkpoint).text_model)
    trainer = Trainer(config, data=dataclasses.replace(data, evaluation=None))
    trainer.train()
    assert len(calls) == config.steps
    after = trainer.model.text_model.state_dict()
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "v_proj"}


def test_mixed_precision_keeps_weights_in_fp32_and_scores_those_of_the_saved_model(tiny_checkpoint, tmp_path, data):
    config = small_config(
        init=str(tiny_checkpoint), output=str(tmp_path), steps=2, mixed_precision="bf16", eval_split="test"
    )
    trainer = Trainer(config, data=data)
    result = trainer.train()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    saved = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    later = evaluate(saved, trainer.processor, data.evaluation, data.vocabulary, progress=False, num_resamples=0)
    assert later.scores["mean_iou"] == result.scores["mean_iou"]


def batches_of(trainer, epoch: int, epoch_start: int, steps: range) -> list[dict[str, torch.Tensor]]:
    """Those of a run that stands before the first of the steps, in an epoch that began after step `epoch_start`."""
    trainer.progress.epoch, trainer.progress.epoch_start = epoch, epoch_start
    batches, found = trainer._batches(), []
    for trainer._step in steps:
        found.append(next(batches))
    return found


@pytest.mark.parametrize("streamed", [False, True])
def test_workers_read_the_same_batches_over_the_ends_of_epochs_and_after_a_skip(
    tiny_checkpoint, tmp_path, data, streamed_data, streamed
):
    batches = []
    for num_workers in (0, 2):
        config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / str(num_workers)))
        config = dataclasses.replace(config, num_workers=num_workers, shuffle_buffer=5)
        trainer = Trainer(config, data=streamed_data if streamed else data)
        batches.append(batches_of(trainer, 0, 0, range(7)))  # three an epoch
        batches[-1] += batches_of(trainer, 1, 3, range(4, 7))
        trainer.folder.release()
    for one, other in zip(*batches):
        assert_equal(one, other)
    for one, other in zip(batches[0][4:7], batches[0][7:]):
        assert_equal(one, other)
    orders = [torch.cat([batch["index"] for batch in batches[0][start : start + 3]]) for start in (0, 3)]
    assert orders[0].sort().values.tolist() == list(range(12)) == orders[1].sort().values.tolist()
    assert not torch.equal(*orders)


# --- going on --------------------------------------------------------------------------------------------------------


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.9, "gradient_accumulation": 2, "log_every": 3, "feature_noise": 0.5, "sampled_classes": [2, 3]},
        {"trainable_encoders": ["vision", "text"], "gradient_checkpointing": True},
        {"trainable_encoders": ["vision"], "lora_rank": 2},
        {"streaming": True, "shuffle_buffer": 5, "gradient_accumulation": 2},
    ],
    ids=["plain", "average-noise-sampling", "encoders", "lora", "streaming"],
)
@pytest.mark.parametrize("stopped_at", [3, 5])
def test_a_run_that_goes_on_repeats_the_uninterrupted_one_exactly(
    tiny_checkpoint, tmp_path, data, streamed_data, monkeypatch, options, stopped_at
):
    if options.get("lora_rank"):
        pytest.importorskip("peft")
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "whole"), **options)
    data = dataclasses.replace(streamed_data if options.get("streaming") else data, evaluation=None)
    Trainer(config, data=data).train()

    parts = dataclasses.replace(config, output=str(tmp_path / "parts"))
    save, step_before = Trainer._log_step, stopped_at - 1

    def interrupt(self, *arguments):
        save(self, *arguments)
        if self._step == stopped_at:
            raise InterruptionError

    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        patch.setattr(Trainer, "_log_step", interrupt)
        Trainer(parts, data=data).train()
    torch.manual_seed(99)  # another process has other random numbers
    trainer = Trainer(parts, resume=True, data=data)
    assert trainer.start_step == step_before // 2 * 2
    trainer.train()

    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    models = [
        weights(Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / name / "model"))
        for name in ("parts", "whole")
    ]
    assert_equal(*models)


def test_an_evaluation_that_fails_costs_no_step_and_is_made_up_for(tiny_checkpoint, tmp_path, data, monkeypatch):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"), eval_split="test", eval_every=4)

    def fail(*_, **__):
        raise InterruptionError

    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        patch.setattr(training, "evaluate", fail)
        Trainer(config, data=data).train()
    folder = RunFolder(tmp_path / "run")
    assert folder.checkpoint_steps() == [2, 4]
    with monkeypatch.context() as patch, pytest.raises(InterruptionError):
        patch.setattr(training, "evaluate", fail)
        patch.setattr(Trainer, "_lacks_evaluation", lambda self: False)
        Trainer(config, resume=True, data=data).train()
    Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "run" / "model")
    shutil.rmtree(folder.checkpoint(6))
    Trainer(config, resume=True, data=data).train()
    lines = folder.read_log()
    assert [line["step"] for line in lines if "eval/mean_iou" in line] == [4, 6]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    whole = dataclasses.replace(config, output=str(tmp_path / "whole"))
    Trainer(whole, data=data).train()
    assert curve(tmp_path / "whole") == curve(tmp_path / "run")
    shutil.rmtree(folder.checkpoint(6))
    Trainer(config, resume=True, data=data).train()  # from step 4, whose scores are known
    assert [line["step"] for line in folder.read_log() if "eval/mean_iou" in line] == [4, 6]


def test_told_to_stop_a_run_saves_its_step_and_does_not_evaluate_first(tiny_checkpoint, tmp_path, data, monkeypatch):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"), eval_split="test", eval_every=3)
    log_step = Trainer._log_step

    def stop(self, *arguments):
        log_step(self, *arguments)
        if self._step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log_step", stop)
        result = Trainer(config, data=data).train()
    assert (result.step, result.finished, result.scores) == (3, False, None)
    folder = RunFolder(tmp_path / "run")
    assert folder.checkpoint_steps() == [2, 3] and not folder.is_evaluated(3)
    Trainer(config, resume=True, data=data).train()
    assert [line["step"] for line in folder.read_log() if "eval/mean_iou" in line] == [3, 6]


@pytest.mark.parametrize("changes", [(1, 2), (2, 1), (1, 4)], ids=str)
def test_accumulation_may_change_where_a_run_goes_on(tiny_checkpoint, tmp_path, data, changes):
    """Also after an odd number of steps, where an epoch (of three) ends."""
    data = dataclasses.replace(data, evaluation=None)
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "whole"), checkpoint_every=3)
    Trainer(config, data=data).train()
    before, after = (dataclasses.replace(config, gradient_accumulation=count) for count in changes)
    parts = str(tmp_path / "parts")
    Trainer(dataclasses.replace(before, output=parts), data=data).train()
    shutil.rmtree(RunFolder(parts).checkpoint(6))
    trainer = Trainer(dataclasses.replace(after, output=parts), resume=True, data=data)
    assert trainer.start_step == 3
    trainer.train()
    for one, other in zip(curve(parts), curve(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_the_newest_checkpoints_are_kept_and_half_written_ones_are_not_taken_for_whole(tiny_checkpoint, tmp_path, data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path), keep_checkpoints=2)
    Trainer(config, data=data).train()
    folder = RunFolder(tmp_path)
    assert folder.checkpoint_steps() == [4, 6]
    # as if killed while step 8 was written, and while step 4 was removed
    shutil.copytree(folder.checkpoint(6), folder.unfinished_checkpoint(8))
    (folder.unfinished_checkpoint(8) / "optimizer.bin").write_bytes(b"half")
    (tmp_path / "checkpoints" / ".abc.tmp").mkdir()
    trainer = Trainer(config, resume=True, data=data)
    assert trainer.start_step == 6
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    trainer.folder.release()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tiny_checkpoint, tmp_path, data, monkeypatch):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path))
    trainer = Trainer(config, data=data)
    save = trainer.accelerator.save_state

    def full(folder):
        save(folder)
        if trainer._step == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.accelerator, "save_state", full)
    with pytest.raises(ValueError, match=r"step 4 cannot be written: .*No space left.* step 2 is intact"):
        trainer.train()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_finished_run_gives_its_model_again_and_another_run_starts_from_it(tiny_checkpoint, tmp_path, data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "one"), ema_decay=0.5)
    Trainer(config, data=data).train()
    first = weights(Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "one" / "model"))
    result = Trainer(config, resume=True, data=data).train()
    assert result.finished and result.step == 6 and result.seconds_per_step is None
    assert_equal(first, weights(Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "one" / "model")))

    trainer = Trainer(small_config(init=str(tmp_path / "one"), output=str(tmp_path / "two")), data=data)
    assert_equal(first, weights(trainer.model))
    trainer.folder.release()


def test_a_loss_that_is_not_finite_stops_before_the_weights_change_and_the_batch_is_kept(
    tiny_checkpoint, tmp_path, data, monkeypatch
):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path))
    trainer = Trainer(config, data=data)
    before = {}

    def poison(images, mean, std):
        if trainer._step == 3:
            before.update(weights(trainer.model))
            return normalize(images, mean, std) * float("nan")
        return normalize(images, mean, std)

    monkeypatch.setattr(training, "normalize", poison)
    with pytest.raises(NonFiniteLossError, match=r"Step 4: the loss is nan.*last checkpoint is from step 2"):
        trainer.train()
    assert_equal(before, weights(trainer.model))
    batch = load_file(tmp_path / "bad-batch-step-00000004-process-0.safetensors")
    assert batch["images"].shape == (4, 3, 24, 24) and batch["labels"].shape == (4, 24, 24)
    assert set(batch["index"].tolist()) <= set(range(12))
    # the run is not lost: without the poison it goes on
    monkeypatch.undo()
    assert Trainer(config, resume=True, data=data).train().finished


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_streamed_data_are_trained_on_evaluated_and_drawn(tiny_checkpoint, tmp_path, rows):
    """From a folder of parquet, by its name in the configuration."""
    write_parquet(rows, tmp_path / "data", "train")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    config = small_config(
        init=str(tiny_checkpoint),
        output=str(tmp_path / "streamed"),
        dataset=str(tmp_path / "data"),
        vocabulary=str(tmp_path / "classes.txt"),
        streaming=True,
        eval_split="train",
        eval_images=3,
        num_overlays=2,
    )
    result = Trainer(config).train()
    assert result.finished
    run = json.loads((tmp_path / "streamed" / "run.json").read_text())
    assert run["data"] is None and run["evaluation_data"] is None
    saved = json.loads((tmp_path / "streamed" / "results.json").read_text())
    assert saved["num_images"] == 3
    plain = SegmentationDataset(rows.take(3), Vocabulary(NAMES))
    trained = Dinov3SegForSemanticSegmentation.from_pretrained(tmp_path / "streamed" / "model").eval()
    later = evaluate(trained, load_starting_point(tiny_checkpoint)[1], plain, progress=False, num_resamples=0)
    assert later.scores["mean_iou"] == saved["scores"]["mean_iou"]
    pictures = sorted((tmp_path / "streamed" / "overlays" / "step-00000006").iterdir())
    assert [path.name for path in pictures] == ["row-000000.png", "row-000001.png"]


def test_rows_without_a_vocabulary_of_their_own_are_evaluated_and_drawn_with_that_they_are_read_with(
    tiny_checkpoint, tmp_path, data
):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path), eval_split="test", num_overlays=1)
    result = Trainer(config, data=dataclasses.replace(data, evaluation_vocabulary=None)).train()
    assert result.finished and "mean_iou" in result.scores
    assert "seen_mean_iou" not in result.scores  # the classes of training
    assert len(list((tmp_path / "overlays" / "step-00000006").iterdir())) == 1


def test_configuration_provenance_scores_and_overlays_lie_beside_the_weights(tiny_checkpoint, tmp_path, data):
    config = small_config(
        init=str(tiny_checkpoint),
        output=str(tmp_path),
        eval_split="test",
        eval_every=4,
        num_overlays=2,
        trackers=["tensorboard"],
    )
    result = Trainer(config, data=data).train()
    run = json.loads((tmp_path / "run.json").read_text())
    assert TrainingConfig.from_dict(run["config"]) == config
    assert run == json.loads((tmp_path / "model" / "run.json").read_text())
    assert run["data"] == data.train.fingerprint and run["vocabulary"] == data.vocabulary.fingerprint
    assert {"dinov3seg_hf", "torch", "transformers", "accelerate", "datasets"} <= set(run["versions"])
    assert run["git"] is None or len(run["git"]["commit"]) == 40
    assert Vocabulary.from_file(tmp_path / "model" / "training_vocabulary.json").names == tuple(NAMES)

    scores = json.loads((tmp_path / "results.json").read_text())["scores"]
    assert result.scores["mean_iou"] == scores["mean_iou"]
    assert result.view == "whole 64" and f"evaluation ({result.view})\nmean_iou " in result.summary()
    lines = [line for line in RunFolder(tmp_path).read_log() if "eval/mean_iou" in line]
    assert [line["step"] for line in lines] == [4, 6] and lines[-1]["eval/mean_iou"] == scores["mean_iou"]
    for step in (4, 6):
        pictures = sorted((tmp_path / "overlays" / f"step-{step:08d}").iterdir())
        assert [path.name for path in pictures] == ["row-000000.png", "row-000001.png"]
        assert Image.open(pictures[0]).size[0] > 64

    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = events.EventAccumulator(str(tmp_path / "tensorboard" / "dinov3seg"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert "overlay/row-000000" in reader.Tags()["images"]


# --- bad input -------------------------------------------------------------------------------------------------------


def test_another_run_in_the_output_folder_is_not_written_over(tiny_checkpoint, tmp_path, data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"))
    Trainer(config, data=data).train()
    with pytest.raises(ValueError, match=r"already contains a run, with checkpoints up to step 6. Pass --resume"):
        Trainer(config, data=data)
    other = dataclasses.replace(config, learning_rate=1e-4)
    with pytest.raises(ValueError, match=r"Cannot resume .* learning_rate is 0.0001; expected 0.01"):
        Trainer(other, resume=True, data=data)
    description = json.loads((tmp_path / "run" / "run.json").read_text())
    earlier = {key: value for key, value in description["config"].items() if key != "left_out_classes"}
    (tmp_path / "run" / "run.json").write_text(json.dumps({**description, "config": earlier}))
    with pytest.raises(ValueError, match=r"version 0\.1\.0 started it, with another loss"):
        Trainer(config, resume=True, data=data)
    (tmp_path / "run" / "run.json").write_text(json.dumps(description))
    trainer = Trainer(dataclasses.replace(config, checkpoint_every=1), resume=True, data=data)
    with pytest.raises(ValueError, match="Another process is training"):
        Trainer(config, resume=True, data=data)
    trainer.folder.release()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"contains other files \(cat.jpg\)"):
        Trainer(dataclasses.replace(config, output=str(tmp_path / "photos")), data=data)


def test_a_run_does_not_go_on_with_other_data_or_other_weights(tiny_checkpoint, tmp_path, data, rows):
    start = tmp_path / "start"
    shutil.copytree(tiny_checkpoint, start)
    config = small_config(init=str(start), output=str(tmp_path / "run"), steps=2)
    Trainer(config, data=data).train()
    fewer = SegmentationDataset(rows.select(range(8)), data.vocabulary, transform=data.train.transform)
    with pytest.raises(ValueError, match="the training data changed"):
        Trainer(config, resume=True, data=dataclasses.replace(data, train=fewer))
    model = Dinov3SegForSemanticSegmentation.from_pretrained(start)
    model.vision_model.head.norm.bias.data += 1
    model.save_pretrained(start)
    with pytest.raises(ValueError, match="the weights of init changed"):
        Trainer(config, resume=True, data=data)


def test_a_run_does_not_go_on_with_another_stream(tiny_checkpoint, tmp_path, streamed_data, rows):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"), steps=2)
    data = dataclasses.replace(streamed_data, evaluation=None)
    Trainer(config, data=data).train()
    stream = rows.select(range(11, -1, -1)).to_iterable_dataset(num_shards=3)
    other = StreamedSegmentationDataset(stream, data.vocabulary, transform=data.train.transform)
    with pytest.raises(ValueError, match="the training data changed"):
        Trainer(config, resume=True, data=dataclasses.replace(data, train=other))
    Trainer(config, resume=True, data=data).train()
    file = tmp_path / "run" / "run.json"
    run = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in run.items() if key != "start_of_stream"}))
    Trainer(config, resume=True, data=data).train()  # a run of an earlier version goes on


def test_the_log_is_plain_json_after_an_overflow(tmp_path):
    folder = RunFolder(tmp_path)
    # as an earlier version wrote it
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0, "gradient_norm": Infinity}\n')
    folder.append_log({"step": 2, "loss": 1.0, "gradient_norm": math.nan})
    folder.rewind_log(2)
    folder.append_log({"step": 3, "loss": 0.5, "gradient_norm": math.inf})
    lines = [
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
        for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert (
        lines
        == folder.read_log()
        == [{"step": step, "loss": loss, "gradient_norm": None} for step, loss in ((1, 2.0), (2, 1.0), (3, 0.5))]
    )


@pytest.mark.parametrize("version, is_refused", [(1, True), (2, False)])
def test_adapters_need_weights_that_they_can_be_merged_into(version, is_refused):
    state = SimpleNamespace(deepspeed_plugin=None, fsdp_plugin=SimpleNamespace(fsdp_version=version))
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP, state=state)
    config = small_config(init="-", output="-", ema_decay=0, lora_rank=2, trainable_encoders=["vision"])
    refused = pytest.raises(ValueError, match="lora_rank is 2 and the version of FSDP is 1")
    with refused if is_refused else contextlib.nullcontext():
        refuse_unsupported(config, accelerator)
    refuse_unsupported(dataclasses.replace(config, lora_rank=0), accelerator)


def test_a_run_does_not_go_on_with_masks_that_mean_something_else(tiny_checkpoint, tmp_path, data, rows):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"), steps=2)
    Trainer(config, data=dataclasses.replace(data, evaluation=None)).train()
    raw_ids = {value: value for value in range(4)}
    for other in (
        Vocabulary(NAMES, ignore_label=9, raw_ids=raw_ids),
        Vocabulary(NAMES, raw_ids={**raw_ids, 0: 1, 1: 0}),
    ):
        train = SegmentationDataset(rows, other, transform=data.train.transform)
        with pytest.raises(ValueError, match="the meaning of the values in the masks changed"):
            Trainer(config, resume=True, data=dataclasses.replace(data, train=train, vocabulary=other))
    # a run that an earlier version started did not note it
    description = json.loads((tmp_path / "run" / "run.json").read_text())
    del description["masks"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(description))
    Trainer(config, resume=True, data=data).folder.release()


def test_a_disk_without_room_is_noticed_before_the_first_step(tiny_checkpoint, tmp_path, data, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(ValueError, match=r"will write about \d+ MiB .* only 1 MiB are free"):
        Trainer(small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"), keep_checkpoints=9), data=data)
    assert not (tmp_path / "run").exists()


def test_checkpoints_of_the_run_are_part_of_the_room_that_it_needs(tiny_checkpoint, tmp_path, data, monkeypatch):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"))
    needed = []
    monkeypatch.setattr(RunFolder, "check_space", lambda self, num_bytes: needed.append(num_bytes))
    Trainer(config, data=data).train()
    monkeypatch.undo()
    taken = sum(file.stat().st_size for file in (tmp_path / "run" / "checkpoints").rglob("*") if file.is_file())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed[0] - taken))
    Trainer(config, resume=True, data=data).folder.release()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed[0] - taken - 1))
    with pytest.raises(ValueError, match="MiB are free"):
        Trainer(config, resume=True, data=data)


def test_a_checkpoint_that_was_renamed_in_its_place_is_left_alone(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (2, 4):
        folder.checkpoint(step).mkdir(parents=True)
    folder.checkpoint(4).rename(tmp_path / "checkpoints" / "step-00000004.damaged")
    assert folder.checkpoint_steps() == [2]
    folder.unfinished_checkpoint(6).mkdir()
    folder.finish_checkpoint(6, keep=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000004.damaged",
        "step-00000006",
    ]


def test_a_checkpoint_of_another_architecture_is_refused(tiny_config, tmp_path, data):
    tiny_config.vision_config.save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="architecture is 'dinov3_vit'; expected 'dinov3seg'"):
        load_starting_point(str(tmp_path / "vit"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"config.json was not found in the folder"):
        load_starting_point(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"Checkpoint folder .* was not found"):
        load_starting_point(str(tmp_path / "missing"))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="not finished"):
        load_starting_point(str(tmp_path / "unfinished"))


def test_a_checkpoint_without_its_tensors_or_its_tokenizer_is_refused(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    file = tmp_path / "damaged" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint .* cannot be loaded"):
        load_starting_point(str(tmp_path / "damaged"))
    shutil.copytree(tiny_checkpoint, tmp_path / "silent", ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(ValueError, match=r"processor|tokenizer"):
        load_starting_point(str(tmp_path / "silent"))


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_fresh_head_leaves_out_what_is_asked_and_keeps_the_encoders(tiny_checkpoint, tiny_model, switch):
    model, _ = load_starting_point(str(tiny_checkpoint), "fresh", [switch], seed=3)
    again, _ = load_starting_point(str(tiny_checkpoint), "fresh", [switch], seed=3)
    other, _ = load_starting_point(str(tiny_checkpoint), "fresh", [switch], seed=4)
    assert not getattr(model.config, switch) and model.config.head == "full"
    for name, value in tiny_model.state_dict().items():
        if name.startswith(("vision_model.", "text_model.", "logit_scale")):
            assert torch.equal(model.state_dict()[name], value)
    assert_equal(weights(model), weights(again))
    assert not torch.equal(
        model.correlation_embedding.convolution.weight, other.correlation_embedding.convolution.weight
    )


@pytest.mark.parametrize("switches", [[switch] for switch in SWITCHES] + [list(SWITCHES)], ids="+".join)
def test_a_head_that_is_kept_loses_what_is_left_out_and_keeps_the_rest(tiny_checkpoint, tiny_model, switches):
    model, _ = load_starting_point(str(tiny_checkpoint), "keep", switches)
    assert not any(getattr(model.config, switch) for switch in switches)
    whole, rest = tiny_model.state_dict(), model.state_dict()
    assert rest.keys() <= whole.keys() and (rest.keys() < whole.keys() or switches == ["use_global_text"])
    for name, value in rest.items():
        if value.shape == whole[name].shape:
            assert torch.equal(value, whole[name]), name
        else:  # the local half
            assert "use_global_text" in switches and value.numel() * 2 == whole[name].numel()
    # what is left of the correlations is what it was
    pixels, text = torch.randn(1, 3, 32, 32), nn.functional.normalize(torch.randn(3, 2, 32), dim=-1)
    if switches == ["use_global_text"]:
        reduced = copy.deepcopy(tiny_model)
        with torch.no_grad():
            reduced.correlation_embedding.convolution.weight[:, 0] = 0
            reduced.decoder.correlation_weight[0] = 0
            expected = reduced(pixels, text_embeds=text).logits
            torch.testing.assert_close(model.eval()(pixels, text_embeds=text).logits, expected)


def test_columns_masks_and_vocabularies_that_do_not_fit_are_refused(tiny_checkpoint, tmp_path, rows):
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "data")
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(NAMES))

    def opened(**changes):
        config = small_config(init=str(tiny_checkpoint), output="-", vocabulary=str(classes))
        return open_training_data(dataclasses.replace(config, **{"dataset": str(tmp_path / "data"), **changes}))

    assert len(opened().train) == 12
    with pytest.raises(ValueError, match="image_column is 'picture'"):
        opened(image_column="picture")
    with pytest.raises(ValueError, match="mask_column is 'labels'"):
        opened(mask_column="labels")
    with pytest.raises(ValueError, match="class names"):
        opened(vocabulary=None)
    with pytest.raises(ValueError, match="Unknown class names 'ade20k'"):
        opened(vocabulary="ade20k")
    few = tmp_path / "few.txt"
    few.write_text("red")
    with pytest.raises(ValueError, match=r"Row 0: the mask contains 1; expected labels from 0 to 0"):
        opened(vocabulary=str(few))
    few.write_text("red\ngreen\nblue")
    with pytest.raises(ValueError, match=r"Row 2: the mask contains 3"):  # the first rows are good
        opened(vocabulary=str(few))
    with pytest.raises(ValueError, match="split 'test'"):
        opened(split="test")
    with pytest.raises(ValueError, match=r"Data set .* was not found"):
        opened(dataset=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="background"):
        opened(vocabulary="pascal-voc-20b")

    for streaming in (False, True):
        few.write_text("red")
        with pytest.raises(ValueError, match=r"Row 0: the mask contains 1"):
            opened(vocabulary=str(few), streaming=streaming)
    with pytest.raises(ValueError, match="stream has 12 rows; expected at least 13"):
        opened(streaming=True, batch_size=13)
    with pytest.raises(ValueError, match="The first 12 rows are unreadable"):
        opened(streaming=True, skip_bad=True, vocabulary=str(few), mask_values="labels", split="train[:]")

    rows.remove_columns("mask").save_to_disk(tmp_path / "no-masks")
    with pytest.raises(ValueError, match="mask"):
        opened(dataset=str(tmp_path / "no-masks"))


@pytest.mark.parametrize("streaming", [False, True])
def test_black_and_white_masks_are_warned_of_and_can_be_read(tmp_path, streaming):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16] = 255
    for index in range(4):
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    (tmp_path / "classes.txt").write_text("ground\ncrack\n")
    config = small_config(init="-", output="-", dataset=str(tmp_path), streaming=streaming)
    with pytest.warns(MaskWarning, match=r"In 4 rows .* no class but 'ground', and ignored pixels \(value 255\)"):
        open_training_data(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MaskWarning)
        open_training_data(config, is_main=False)  # once, not once per process
    (tmp_path / "classes.tsv").write_text("raw_id\tnames\n0\tground\n255\tcrack\n")  # what the warning proposes
    with warnings.catch_warnings():
        warnings.simplefilter("error", MaskWarning)
        data = open_training_data(config)
    (_, item), *_ = data.train.rows() if streaming else [(0, data.train.read(0))]
    np.testing.assert_array_equal(item["labels"], mask // 255)


def test_black_and_white_masks_of_the_evaluation_are_warned_of_too(tmp_path):
    """Those of the training show both classes, for example because only they were converted."""
    for split, values in (("train", [0, 1]), ("val", [0, 255])):
        for name, picture in (("images", np.zeros((2, 2, 3), np.uint8)), ("masks", np.array([values] * 2, np.uint8))):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                Image.fromarray(picture).resize((32, 32), 0).save(tmp_path / split / name / f"{index}.png")
    (tmp_path / "classes.txt").write_text("ground\ncrack\n")
    config = small_config(init="-", output="-", dataset=str(tmp_path), eval_split="val")
    with pytest.warns(MaskWarning, match=r"In 4 rows .* no class but 'ground'"):
        open_training_data(config)


def test_fewer_images_than_a_step_takes_are_refused(tiny_checkpoint, tmp_path, data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"), batch_size=13)
    with pytest.raises(ValueError, match="12 images, but one step needs 13"):
        Trainer(config, data=data)


def test_a_stream_shorter_than_a_step_is_refused(tiny_checkpoint, tmp_path, streamed_data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"), batch_size=13)
    with pytest.raises(ValueError, match="fewer images than one step needs, 13"):
        Trainer(config, data=streamed_data).train()


def test_trackers_that_are_not_there_are_refused(tiny_checkpoint, tmp_path, data):
    config = small_config(init=str(tiny_checkpoint), output=str(tmp_path / "run"), trackers=["clearml2"])
    with pytest.raises(ValueError, match="tracker 'clearml2'"):
        Trainer(config, data=data)


# --- the drawn world -------------------------------------------------------------------------------------------------


def test_training_on_the_drawn_world_reads_seen_names_only():
    config = small_config(
        init="-", output="-", dataset="drawn-world", split="seen[:3]", eval_split="unseen[5:7]", crop_size=96
    )
    opened = open_training_data(config)
    assert opened.vocabulary == seen_vocabulary() and len(opened.vocabulary) == 140
    labels = opened.train.read(1)["labels"]
    assert (labels >= 0).all()
    rows = open_drawn_world("seen[:3]")
    raw = draw_scene(1, "seen").labels
    assert [opened.vocabulary.names[label] for label in np.unique(labels)] == [
        DRAWN_NAMES[label] for label in np.unique(raw)
    ]
    assert len(rows) == 3 and len(opened.evaluation) == 2 and len(opened.evaluation_vocabulary) == 192
    for split in ("seen", "seen[3:3]", "blue[:3]", "seen[:]"):
        with pytest.raises(ValueError, match="split of the drawn world"):
            open_drawn_world(split)


# --- configuration ---------------------------------------------------------------------------------------------------

GIVEN = ["--init", "a", "--dataset", "b", "--output", "c"]


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("init: a\ndataset: b\nsteps: 700\nlearning_rate: 3e-4\nscale_range: [1, 2]\n")
    config, resume = config_from_flags(["--config", str(path), "--output", "c", "--steps", "900"])
    assert (config.steps, config.learning_rate, config.scale_range, config.batch_size) == (900, 3e-4, [1.0, 2.0], 16)
    path.write_text(path.read_text() + "eval_split: test\n")
    assert config_from_flags(["--config", str(path), "--output", "c", "--eval-split", "none"])[0].eval_split is None
    assert not resume and config_from_flags([*GIVEN, "--resume"])[1]
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_field_is_a_flag_with_a_help_text():
    actions = {action.dest: action for action in make_parser(prog="train")._actions}
    for field in dataclasses.fields(TrainingConfig):
        assert actions[field.name].help
    make_parser(prog="train").format_help()  # a stray % would break it
    assert {field.name for field in dataclasses.fields(TrainingConfig)} >= RUN_OPTIONS


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "does not set init, dataset, output"),
        ([*GIVEN, "--stepz", "3"], "stepz"),
        ([*GIVEN, "--steps", "many"], "invalid int value"),
        ([*GIVEN, "--steps", "0"], "steps is 0; expected at least 1"),
        ([*GIVEN, "--mixed-precision", "fp8"], "fp8"),
        ([*GIVEN, "--scale-range", "2"], "scale_range"),
        ([*GIVEN, "--scale-range", "2", "1"], "scale_range"),
        ([*GIVEN, "--ablate", "use_everything"], "use_everything"),
        ([*GIVEN, "--config-overrides", "late_num_layers=1"], "expected head fresh"),
        ([*GIVEN, "--lora-rank", "4"], "trainable_encoders"),
        ([*GIVEN, "--trainable-encoders", "all", "text"], "all alone"),
        ([*GIVEN, "--trainable-encoders", "all", "--lora-rank", "4"], "no adapters"),
        ([*GIVEN, "--shortest-edge", "0"], "shortest_edge"),
        ([*GIVEN, "--eval-every", "4"], "eval_split"),
        ([*GIVEN, "--eval-dataset", "drawn-world"], "eval_split is not set, so nothing would be evaluated"),
        ([*GIVEN, "--batch-size", "9", "--gradient-accumulation", "2"], "a multiple of gradient_accumulation, 2"),
        ([*GIVEN, "--steps", "10", "--warmup-steps", "10"], "shorter warmup"),
        ([*GIVEN, "--ema-decay", "1"], "ema_decay"),
        ([*GIVEN, "--color-jitter", "1"], "color_jitter is 1.0; expected between 0 and 0.999999"),
    ],
)
def test_bad_flags_say_what_is_wrong(flags, message):
    with pytest.raises(ValueError, match=message):
        config_from_flags(flags)


@pytest.mark.parametrize(
    "content, message",
    [
        ("init: a\nlearningrate: 1\n", "unknown option 'learningrate'. Did you mean 'learning_rate'"),
        ("- 1\n", "contains list"),
        ("steps: [", "is not valid YAML"),
        ("init: a\ndataset: b\noutput: c\nsteps: many\n", "steps is 'many'"),
        ("init: a\ndataset: b\noutput: c\nskip_bad: 3\n", "skip_bad is 3"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_yaml(path)
    with pytest.raises(ValueError, match="cannot be read"):
        TrainingConfig.from_yaml(tmp_path / "missing.yaml")


def test_recipes_of_the_package_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"init": "a", "dataset": "b", "output": "c"}
    recipe = TrainingConfig.from_yaml(REPO / "recipes" / "own_masks.yaml", **given)
    for name in ("own_masks", "own_masks.yaml", "recipes/own_masks.yaml"):
        assert TrainingConfig.from_yaml(name, **given) == recipe
    (tmp_path / "own_masks.yaml").write_text("steps: 777")
    assert TrainingConfig.from_yaml("own_masks.yaml", **given).steps == 777  # a file comes first
    for name in ("other", "folder/own_masks.yaml", "own_masks.yml"):
        with pytest.raises(ValueError, match="cannot be read"):
            TrainingConfig.from_yaml(name, **given)


def test_the_recipes_are_valid():
    recipes = sorted((REPO / "recipes").glob("*.yaml"))
    assert {path.stem for path in recipes} >= {"drawn_world", "coco_stuff"}
    for path in recipes:
        TrainingConfig.from_yaml(path, init="a", dataset="b", output="c")
