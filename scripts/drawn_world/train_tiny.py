# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Trains the embedded checkpoint from scratch on the drawn world, on two CPU cores or one GPU.

    export OMP_NUM_THREADS=1     # the layers are small: two processes with one thread are faster than one with two
    # 1: aligns images and words
    torchrun --nproc-per-node 2 scripts/drawn_world/train_tiny.py align  --output runs/tiny-align
    # 2: trains the head
    torchrun --nproc-per-node 2 scripts/drawn_world/train_tiny.py refine --init runs/tiny-align --output runs/tiny

dino.txt is frozen in stage 2, which first trains AnyUp, by its own loss, and then the rest of the head. Training uses
only seen names: no held-out combination of words occurs, neither as an image nor as a text. A stage that was
interrupted goes on by the same command. On a GPU, add `--device cuda --num-workers 4`: the two processes share it.
"""

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from phrases import Phrases, sample_pool
from torch import distributed
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dinov3seg_hf.drawn_world.names import COLORS, KINDS, NAMES, PATTERNS, phrase_groups, true_phrase
from dinov3seg_hf.drawn_world.scenes import batch
from dinov3seg_hf.drawn_world.seeds import SEEDS_OF_A_RUN, TRAINING, VALIDATION
from dinov3seg_hf.drawn_world.tokenizer import make_tokenizer
from dinov3seg_hf.metrics.scoring import ConfusionMatrix
from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from dinov3seg_hf.model.loss import NO_CLASS, REJECTION_WEIGHT
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from dinov3seg_hf.model.processing_dinov3seg import Dinov3SegProcessor
from dinov3seg_hf.training.batches import normalize, sample_classes, seeds_of
from dinov3seg_hf.training.feature_noise import FeatureNoise
from dinov3seg_hf.training.optimization import parameter_groups

PATCH_SIZE = 8
TEMPLATES = ("A photo of a {} in the scene", "{}")
STEPS = {"align": 10000, "refine": 2000}
# without the last, the encoders do not know the view of a whole large image: docs/decisions.md
SIZES = ((96, 96), (96, 96), (80, 112), (112, 80), (128, 128), (192, 192))


def tiny_config(tokenizer) -> Dinov3SegConfig:
    width = 128
    return Dinov3SegConfig(
        vision_config={
            "patch_size": PATCH_SIZE,
            "image_size": 96,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_register_tokens": 2,
            "pos_embed_rescale": 1.5,
            "layerscale_value": 0.5,
        },
        text_config={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 2 * width,
            "hidden_act": "gelu",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        prior_config=None,
        known_words=[*COLORS, *PATTERNS, *KINDS],
        stem_channels=[32, 64],
        vision_head_num_layers=2,
        vision_head_intermediate_size=2 * width,
        early_hidden_size=32,
        early_num_attention_heads=2,
        early_refinement_scale=4,
        correlation_hidden_size=32,
        correlation_kernel_size=5,
        late_num_layers=2,
        late_window_size=6,
        late_num_attention_heads=2,
        late_mlp_ratio=2.0,
        guidance_hidden_size=32,
        decoder_hidden_sizes=[24, 8],
        decoder_prior_sizes=[16, 8],
    )


def rank_and_world() -> tuple[int, int]:
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Averages the gradients over the processes, in one message because there are many small tensors."""
    if distributed.is_initialized():
        gradients = torch.cat([parameter.grad.flatten() for parameter in parameters])
        distributed.all_reduce(gradients)
        gradients /= distributed.get_world_size()
        for parameter, gradient in zip(parameters, gradients.split([p.numel() for p in parameters])):
            parameter.grad.copy_(gradient.view_as(parameter))


def normalized(images: np.ndarray) -> torch.Tensor:
    """Converts uint8 `(B, H, W, 3)` to float `(B, 3, H, W)`, normalized like in the image processor."""
    return normalize(torch.from_numpy(images).permute(0, 3, 1, 2), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def choices_of_step(seed: int, step: int, purpose: int = 0) -> np.random.Generator:
    """The random choices of a step: the same in every process and after an interruption."""
    return np.random.default_rng((seed, step, purpose))


class Scenes(Dataset):
    """The scenes of each step of a run (`--seed`): no other step, process or run draws them.

    An item is the normalized images `(B, 3, H, W)` and the labels `(B, H, W)` of a step, or fewer (`equal_pixels`).

    Args:
        run: The run.
        batch_size: Scenes per step and process, B.
        sizes: Heights and widths, of which each step has one.
        equal_pixels: Whether a step of larger scenes has fewer of them, with about the pixels of B scenes of 96 x 96.
    """

    def __init__(self, run: int, batch_size: int, sizes: tuple[tuple[int, int], ...], equal_pixels: bool = False):
        self.run, self.batch_size, self.sizes, self.equal_pixels = run, batch_size, sizes, equal_pixels
        self.rank, self.world = rank_and_world()

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = self.sizes[choices_of_step(self.run, step, purpose=1).integers(len(self.sizes))]
        start = TRAINING + SEEDS_OF_A_RUN * self.run + (step * self.world + self.rank) * self.batch_size
        num_scenes = self.batch_size
        if self.equal_pixels:
            num_scenes = min(num_scenes, max(1, round(num_scenes * 96 * 96 / math.prod(size))))
        images, labels = batch(range(start, start + num_scenes), "seen", size)
        return normalized(images), torch.from_numpy(labels.astype(np.int64))


def patch_targets(labels: torch.Tensor) -> torch.Tensor:
    """Converts labels `(B, H, W)` to the share of each name in each patch, `(B, h * w, names)`."""
    cells = labels.unfold(1, PATCH_SIZE, PATCH_SIZE).unfold(2, PATCH_SIZE, PATCH_SIZE).flatten(3).flatten(1, 2)
    shares = torch.zeros(*cells.shape[:2], len(NAMES), device=labels.device)
    return shares.scatter_add_(2, cells, torch.full_like(cells, 1 / PATCH_SIZE**2, dtype=shares.dtype))


def tokenize(tokenizer, phrases: list[str], template: str) -> torch.Tensor:
    """Tokenizes each phrase in the template; returns `(C, 1, L)`: C phrases, L tokens."""
    prompts = [template.format(phrase) for phrase in phrases]
    return tokenizer(prompts, padding=True, return_tensors="pt")["input_ids"][:, None]


def cosine_schedule(step: int, num_steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup))) * 0.99 + 0.01


@torch.no_grad()
def validate(model, tokenizer, num_scenes: int, heads: tuple[str, ...]) -> dict[str, float | list[float]]:
    """Returns scores on new scenes in %.

    The scores are the mIoU with all names, seen and unseen, as the vocabulary, and the share of pixels that get the
    correct word of each factor ("words") or the correct words of each pair of factors ("pairs").
    """
    model.eval()
    vocabularies = [NAMES, *phrase_groups().values()]
    prompts = [tokenize(tokenizer, list(names), TEMPLATES[0]) for names in vocabularies]
    text_embeds = [model.get_text_features(input_ids.to(model.device)) for input_ids in prompts]
    truths = [np.arange(len(NAMES)), *map(true_phrase, vocabularies[1:])]
    scores = {}
    for split in ("unseen", "seen"):
        matrices = {head: ConfusionMatrix(len(NAMES)) for head in heads}
        right = {head: np.zeros(len(vocabularies)) for head in heads}
        for start in range(0, num_scenes, 10):
            seeds = range(VALIDATION + start, VALIDATION + min(start + 10, num_scenes))
            images, labels = batch(seeds, split, 96)
            features = model.get_image_features(normalized(images).to(model.device))
            for head, (index, embeds) in itertools.product(heads, enumerate(text_embeds)):
                name, _, refined = head.partition(" ")
                options = {"head": name, "refine_features": bool(refined)}
                logits = model(image_features=features, text_embeds=embeds, **options).logits
                logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
                predicted = logits.argmax(1).cpu().numpy()
                right[head][index] += (predicted == truths[index][labels]).mean() * len(seeds) / num_scenes
                if index == 0:
                    matrices[head].update(predicted, labels)
        for head in heads:
            scores[f"{split}/{head}"] = round(100 * matrices[head].mean_iou(), 2)
            scores[f"{split}/{head}/words"] = [round(100 * share, 1) for share in right[head][1:4]]
            scores[f"{split}/{head}/pairs"] = [round(100 * share, 1) for share in right[head][4:]]
    model.train()
    return scores


def alignment_loss(model, phrases: Phrases, images, labels, input_ids) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    vision = model.vision_model(images)
    text_embeds = model.get_text_features(input_ids).float()  # (phrases, 2, D)
    scale = model.logit_scale.exp().clamp(max=50.0)

    targets_of_names = patch_targets(labels)  # (B, h w, names)
    targets = targets_of_names @ phrases.truth  # (B, h w, phrases)
    patches = F.normalize(vision.patch_tokens.float().flatten(2).transpose(1, 2), dim=-1)
    patch_logits = scale * patches @ text_embeds[:, 1].T  # (B, h w, phrases)
    # objects get a higher weight, because they cover few patches and their names are hard to recognize
    weights = 1 + 5 * (1 - (targets[..., phrases.groups[0]] * phrases.background).sum(-1))
    weights = weights / weights.mean()
    # The model must not learn that some combinations never occur, because exactly the held-out combinations would be
    # excluded. So a phrase competes only with phrases that would make a seen name in its place.
    choices = (targets_of_names > 0).float() @ phrases.choices > 0
    patch_logits = patch_logits.masked_fill(~choices, -1e4)

    group0 = phrases.groups[0]
    present = (targets.amax(dim=1) >= 0.5).float()  # (B, phrases)
    cls_logits = scale * F.normalize(vision.cls_token.float(), dim=-1) @ text_embeds[:, 0].T  # (B, phrases)

    losses = {}
    for index, group in enumerate(phrases.groups):
        log_probabilities = patch_logits[..., group].log_softmax(-1)
        losses[f"patch{index}"] = -((targets[..., group] * log_probabilities).sum(-1) * weights).mean()
    share = present[:, group0] / present[:, group0].sum(-1, keepdim=True).clamp(min=1)
    losses["cls"] = -(share * cls_logits[:, group0].log_softmax(-1)).sum(-1).mean()
    # a phrase gets the direction of the sum of its words, which generalizes to phrases that are not in the training
    sums = F.normalize(torch.einsum("nw,wkd->nkd", phrases.words, text_embeds), dim=-1)
    losses["additive"] = (1 - (text_embeds[: len(sums)] * sums).sum(-1)).mean()
    # Words of different factors are orthogonal, so that all sums have the same length. Otherwise a phrase of words that
    # resemble each other scores lower than its words do, and "black checkered" loses to "black dotted".
    words = text_embeds[len(sums) :]
    losses["independent"] = (torch.einsum("wkd,vkd->kwv", words, words)[:, phrases.independent] ** 2).mean()

    # with 10 for "additive", backgrounds of held-out pairs of color and pattern lost to seen pairs
    weights = {"patch0": 1.0, "additive": 100.0, "independent": 10.0, "cls": 0.1}
    total = sum(loss * weights.get(key, 0.5) for key, loss in losses.items())
    return total, losses


def align(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    model = Dinov3SegForSemanticSegmentation(tiny_config(tokenizer))
    if args.init is not None:
        model.load_state_dict(Dinov3SegForSemanticSegmentation.from_pretrained(args.init).state_dict())
    model.train().to(args.device)
    phrases = Phrases().to(args.device)
    inputs = [tokenize(tokenizer, phrases.phrases, template).to(args.device) for template in TEMPLATES]

    model.vision_model.backbone.embeddings.mask_token.requires_grad_(False)  # used only in the pre-training of DINOv3
    for name, parameter in model.named_parameters():  # the head is trained in stage 2
        if not name.startswith(("vision_model.", "text_model.", "logit_scale")):
            parameter.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = parameter_groups(model, args.learning_rate, 0.05, encoder_multiplier=1.0)
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_schedule(step, args.steps, 200))
    run = Run(args, model, optimizer, schedule, "align")

    for step, images, labels in run.steps(Scenes(args.seed, args.batch_size, SIZES, equal_pixels=True)):
        images, labels = images.to(args.device), labels.to(args.device)
        input_ids = inputs[choices_of_step(args.seed, step).integers(len(inputs))]
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
            loss, parts = alignment_loss(model, phrases, images, labels, input_ids)
        run.take_step(loss, parameters)
        run.add(loss=loss, scale=model.logit_scale.exp(), **parts)
        if run.validates(step):
            run.write(step, **validate(model, tokenizer, args.validation_scenes, ("dinotxt",)))
            save(model, tokenizer, args.output)


def upsampling_loss(model, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """AnyUp's loss: features of the small images, refined, against features of crops of the large images.

    No label and no text is involved. The distance is one minus the cosine, and the squared difference of the features
    scaled to the range of the target (arXiv 2510.12764).

    Args:
        model: The model, with frozen encoders.
        images: `(B, 3, 2S, 2S)`, normalized; S is a multiple of twice the patch size.
        rng: Chooses the crops.
    """
    side = images.shape[-1] // 2
    num_patches = side // PATCH_SIZE
    small = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    top, left = (int(start) for start in rng.integers(0, num_patches + 1, 2))  # in patches of the large images
    rows, columns = slice(top, top + num_patches), slice(left, left + num_patches)
    with torch.no_grad():
        features = model.vision_model(small).patch_tokens
        pixels = images[..., top * PATCH_SIZE :, left * PATCH_SIZE :][..., :side, :side]
        target = model.vision_model(pixels).patch_tokens.flatten(2)  # (B, D, h w)
    refined = model.early_refinement(features, small, (2 * num_patches, 2 * num_patches))
    refined = refined[:, :, rows, columns].flatten(2)
    low, high = target.amin(1, keepdim=True), target.amax(1, keepdim=True)
    difference = F.mse_loss((refined - low) / (high - low), (target - low) / (high - low))
    return (1 - F.cosine_similarity(refined, target, dim=1)).mean() + difference


def upsample(args: argparse.Namespace, model, tokenizer) -> None:
    """Trains AnyUp by its own loss and then freezes it, as published AnyUp is used; its share becomes 1.

    The zero-shot head then uses refined features, too.
    """
    refinement = model.early_refinement
    refinement.mixing_weight.data.fill_(1.0)
    parameters = [parameter for name, parameter in refinement.named_parameters() if name != "mixing_weight"]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_schedule(step, args.upsample_steps, 20))
    run = Run(args, refinement, optimizer, schedule, "upsample")
    for step, images, _ in run.steps(Scenes(args.seed, 8, ((192, 192),))):
        loss = upsampling_loss(model, images.to(args.device), choices_of_step(args.seed, step))
        run.take_step(loss, parameters)
        run.add(loss=loss)
        if run.validates(step):
            run.write(step, **validate(model, tokenizer, args.validation_scenes, ("dinotxt", "dinotxt refined")))
    refinement.requires_grad_(False)
    model.config.refine_features = True


def targets_of(labels: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Converts labels of names `(B, H, W)` to labels of phrases, or to targets per phrase if phrases overlap.

    Args:
        labels: Labels of names.
        truth: `(names, phrases)`, 1 where a phrase is true of a name.

    Returns:
        Labels `(B, H, W)`, if at most one phrase is true of each name; else targets `(B, phrases, H, W)`.
    """
    if truth.sum(dim=1).max() <= 1:
        return torch.where(truth.any(dim=1), truth.argmax(dim=1), NO_CLASS)[labels]
    return truth.T[:, labels].transpose(0, 1)


def refine(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    model = aligned = Dinov3SegForSemanticSegmentation.from_pretrained(args.init)
    if not args.keep_head:
        model = Dinov3SegForSemanticSegmentation(tiny_config(tokenizer))
        model.vision_model.load_state_dict(aligned.vision_model.state_dict())
        model.text_model.load_state_dict(aligned.text_model.state_dict())
        model.logit_scale.data.copy_(aligned.logit_scale)
    model.freeze_encoders().train().to(args.device)
    if args.keep_head:
        model.early_refinement.requires_grad_(False)
    elif args.upsample_steps:
        upsample(args, model, tokenizer)
    noise = FeatureNoise(model.vision_model, args.noise)
    phrases = Phrases()
    prompts = [tokenize(tokenizer, phrases.phrases, template).to(args.device) for template in TEMPLATES]
    with torch.no_grad():
        vocabularies = [model.get_text_features(input_ids) for input_ids in prompts]

    flat = vocabularies[0].flatten(1).cpu()  # [global, local], each of unit length
    similarities = (flat @ flat.T / 2).numpy()

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = parameter_groups(model, args.learning_rate, 0.01, encoder_multiplier=1.0)
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_schedule(step, args.steps, 100))
    run = Run(args, model, optimizer, schedule, "refine")

    rank = rank_and_world()[0]
    for step, images, labels in run.steps(Scenes(args.seed, 16, SIZES)):
        rng = choices_of_step(args.seed, step)
        # users type few words, benchmarks have many
        num_classes = int(rng.choice([1, 3, 8, 24, 64, 140], p=[0.3, 0.1, 0.15, 0.25, 0.1, 0.1]))
        pool = sample_pool(phrases, num_classes, rng)
        batch_size = min(16, max(1, round(args.maps_per_step / num_classes * 96 * 96 / labels[0].numel())))
        images, labels = images[:batch_size].to(args.device), labels[:batch_size]
        counts = labels.flatten().bincount(minlength=len(NAMES)).float() @ phrases.truth[:, pool]
        near = similarities[np.ix_(pool, pool)]
        # a vocabulary of one word costs little, so a step has many of them
        num_chosen = num_classes if num_classes > 1 else max(1, args.maps_per_step // batch_size)
        chosen = pool[sample_classes(counts, [num_chosen], args.seed, step, near, left_out=0.3).numpy()]
        text_embeds = vocabularies[rng.integers(len(vocabularies))]
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
            with noise.using(seeds_of(args.seed, step, range(rank * 16, rank * 16 + len(images)))):
                features = model.get_image_features(images)
            losses = []
            for vocabulary in chosen[:, None] if num_classes == 1 else chosen[None]:
                targets = targets_of(labels, phrases.truth[:, vocabulary]).to(args.device)
                loss = model(image_features=features, text_embeds=text_embeds[vocabulary], labels=targets).loss
                # phrases that overlap reject each other's pixels, as softly as "none" does
                losses.append(loss * len(vocabulary) * REJECTION_WEIGHT if targets.ndim == 4 else loss)
            loss = torch.stack(losses).mean()
        norm = run.take_step(loss, parameters)
        run.add(loss=loss, norm=norm)
        if run.validates(step):
            heads = ("dinotxt", "full") if step + 1 == args.steps else ("full",)
            run.write(step, **validate(model, tokenizer, args.validation_scenes, heads))
            save(model, tokenizer, args.output)


class Run:
    """The state of a stage in its output folder. The same command continues an interrupted stage where it was.

    `align.pt` (named like the stage) holds the weights and the optimizer's moments, at least every `SAVE_EVERY` steps;
    `log.jsonl` gets one line per validation: mean training losses since the last validation, scores, minutes.

    Raises:
        ValueError: If the folder holds a run with other options.
    """

    SAVE_EVERY = 100
    # options that change where and how fast a run goes, not what comes out
    NOT_OF_THE_RUN = frozenset({"output", "num_workers", "device"})

    def __init__(self, args: argparse.Namespace, model, optimizer, schedule, name: str):
        args.output.mkdir(parents=True, exist_ok=True)
        self.parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        self.args, self.name, self.path = args, name, args.output / f"{name}.pt"
        self.num_steps = args.upsample_steps if name == "upsample" else args.steps
        self.options = {key: str(value) for key, value in vars(args).items() if key not in self.NOT_OF_THE_RUN}
        self.options["processes"] = str(rank_and_world()[1])
        self.first_step, self.values, self.minutes_before, self.start = 0, {}, 0.0, time.time()
        if self.path.exists():
            state = torch.load(self.path, map_location=args.device, weights_only=True)
            if state["options"] != self.options:
                changed = {key: value for key, value in state["options"].items() if self.options.get(key) != value}
                raise ValueError(f"{args.output} holds a run with {changed}; use its options or another --output.")
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.first_step, self.values, self.minutes_before = state["step"], state["values"], state["minutes"]

    def steps(self, scenes: Scenes) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yields the steps that are left and their scenes, with a progress bar, and saves the state."""
        quiet = rank_and_world()[0] > 0
        left = range(self.first_step, self.num_steps)
        loader = DataLoader(scenes, batch_size=None, sampler=left, num_workers=self.args.num_workers)
        bar = {"initial": self.first_step, "total": self.num_steps, "mininterval": 10, "file": sys.stderr}
        for step, (images, labels) in tqdm(zip(left, loader), desc=self.name, disable=quiet, **bar):
            torch.manual_seed(self.args.seed * self.num_steps + step)  # DINOv3 augments the coordinates of RoPE
            yield step, images, labels
            if self.validates(step, every=self.SAVE_EVERY) or self.validates(step):
                self.save(step + 1)

    def take_step(self, loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        """Takes a step of the optimizer and the schedule; returns the norm of the gradient before it is clipped."""
        self.parts["optimizer"].zero_grad()
        loss.backward()
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.parts["optimizer"].step()
        self.parts["schedule"].step()
        return norm

    def minutes(self) -> float:
        return self.minutes_before + (time.time() - self.start) / 60

    def validates(self, step: int, every: int | None = None) -> bool:
        """Whether this process validates (by default), or saves, after the step."""
        due = (step + 1) % (every or self.args.validate_every) == 0 or step + 1 == self.num_steps
        return due and rank_and_world()[0] == 0

    def save(self, step: int) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": step, "values": self.values, "minutes": self.minutes(), "options": self.options}
        unfinished = self.path.with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, self.path)

    def add(self, **values: torch.Tensor) -> None:
        if rank_and_world()[0] > 0:  # only the first process writes them
            return
        for key, value in values.items():  # not as numbers yet: a GPU would have to finish the step first
            self.values.setdefault(key, []).append(value.detach())

    def write(self, step: int, **scores: float | list[float]) -> None:
        means = {key: round(torch.stack(values).mean().item(), 4) for key, values in self.values.items()}
        line = {"stage": self.name, "step": step + 1, "minutes": round(self.minutes(), 2), **scores, **means}
        self.values = {}
        with open(self.args.output / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def save(model, tokenizer, output: Path) -> None:
    """Writes the files that `from_pretrained` and the pipeline need."""
    image_processor = Dinov3SegImageProcessorPil(
        size={"shortest_edge": 96, "longest_edge": 384}, size_divisor=PATCH_SIZE, window_size=96, window_stride=48
    )
    model.save_pretrained(output)
    Dinov3SegProcessor(image_processor, tokenizer).save_pretrained(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["align", "refine"])
    parser.add_argument("--init", type=Path, help="folder of the align stage; align continues from its weights")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, help=f"default: align {STEPS['align']}, refine {STEPS['refine']}")
    parser.add_argument("--batch-size", type=int, default=16, help="align: scenes of 96 x 96 px per step and process")
    parser.add_argument(
        "--maps-per-step", type=int, default=192, help="refine: scenes times classes per step and process"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--noise", type=float, default=0.0, help="refine: noise on patch tokens; see training/feature_noise.py"
    )
    parser.add_argument("--upsample-steps", type=int, default=300, help="refine: steps of AnyUp's own loss before it")
    parser.add_argument("--keep-head", action="store_true", help="refine: go on with the head and the AnyUp of --init")
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--validation-scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--num-workers", type=int, default=0, help="processes that draw scenes ahead, per process (default: 0)"
    )
    args = parser.parse_args()
    args.steps = args.steps or STEPS[args.stage]
    if args.stage == "refine" and args.init is None:
        parser.error("--init is missing; refine expects the folder of the align stage")
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    {"align": align, "refine": refine}[args.stage](args)


if __name__ == "__main__":
    main()
