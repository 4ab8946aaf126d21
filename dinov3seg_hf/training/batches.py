# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Chooses the images and classes of a step; the choice depends only on the seed, the epoch and the step.

A resumed run therefore gets the same batches as an uninterrupted run, and the number of processes or accumulated
batches does not change the content of a step.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from ..model.loss import NO_CLASS


class EpochSampler(Sampler[int]):
    """A new random order of the rows for each epoch; rows that do not fill a last step are skipped in that epoch.

    Args:
        num_rows: Number of rows in the data set.
        batch_size: Number of images per step, over all processes.
        seed: Seed of the order; the order depends on the seed and the epoch.

    Raises:
        ValueError: If the data set has fewer rows than one step needs.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int):
        if num_rows < batch_size:
            raise ValueError(
                f"The training split has {num_rows} images, but one step needs {batch_size} (batch_size). Lower "
                "batch_size."
            )
        self.num_rows, self.batch_size, self.seed, self.epoch = num_rows, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
        return iter(order[: len(self)].tolist())


def collate(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stacks items of one size: `images` uint8 `(B, 3, H, W)`, `labels` int64 `(B, H, W)`, `index` int64 `(B,)`."""
    return {
        "images": torch.stack([torch.from_numpy(np.asarray(item["image"])) for item in items]).permute(0, 3, 1, 2),
        "labels": torch.stack([torch.from_numpy(np.asarray(item["labels"])) for item in items]),
        "index": torch.tensor([int(item["index"]) for item in items]),
    }


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Rescales and normalizes uint8 `(B, 3, H, W)` to float32, like the image processor."""
    offset, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images.float() / 255 - offset) / scale


def seeds_of(seed: int, step: int, positions: Sequence[int]) -> list[int]:
    """The seeds of images in a step, one for each of the given positions in the whole step."""
    return [int(np.random.SeedSequence([seed, step, place]).generate_state(1)[0]) for place in positions]


def pixels_per_class(labels: Sequence[torch.Tensor], num_classes: int) -> torch.Tensor:
    """Counts the pixels of each class in the label maps, int64 `(C,)`; ignored (negative) pixels are not counted."""
    counts = torch.zeros(num_classes, dtype=torch.long, device=labels[0].device)
    for maps in labels:
        counts += torch.bincount(maps[maps >= 0], minlength=num_classes)
    return counts


# Standard deviation of the noise on similarities: names that are about equally near take turns.
NEAR_JITTER = 0.05


def sample_classes(
    counts: torch.Tensor,
    sizes: Sequence[int],
    seed: int,
    step: int,
    similarities: np.ndarray | None = None,
    left_out: float = 0.0,
) -> torch.Tensor:
    """Chooses the classes of a step: first the classes in its images, then other classes (sampled negatives).

    Some classes in the images can be left out. Their pixels show none of the chosen classes; without such pixels, the
    model could not learn which logits mean "none".

    Random negatives are mostly unrelated to the images, so telling them apart needs little. With similarities, half of
    the negatives are the names that are the most similar to a name in the images.

    Args:
        counts: `(C,)`, number of pixels of each class in the step.
        sizes: Number of classes to choose; if several numbers are given, one of them is drawn. If the images contain
            more classes, a random subset of these classes is chosen.
        seed: Seed of the run; the choice depends on the seed and the step.
        step: Number of the step.
        similarities: `(C, C)`, similarities of the names in text space. Default: all negatives are random.
        left_out: Probability that a class in the images is left out; at least one class is kept.

    Returns:
        The class indices in ascending order, int64 `(c,)`.
    """
    rng = np.random.default_rng([seed, step])
    size = min(int(rng.choice(np.asarray(sizes))), len(counts))
    shown = counts.cpu().numpy() > 0
    order = rng.permutation(len(counts))
    present, others = order[shown[order]], order[~shown[order]]
    if left_out and len(present):
        kept = rng.random(len(present)) >= left_out
        kept[0] |= not kept.any()
        present = present[kept]
    if similarities is not None and len(present):
        nearness = similarities[np.ix_(others, present)].max(axis=1) + NEAR_JITTER * rng.standard_normal(len(others))
        near = others[np.argsort(-nearness, kind="stable")][: -(-max(0, size - len(present)) // 2)]
        others = np.concatenate([near, others[~np.isin(others, near)]])
    chosen = np.concatenate([present, others])[:size]
    return torch.from_numpy(np.sort(chosen))


def relabel(labels: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Converts labels among all classes to labels among `classes`; pixels of other classes get `NO_CLASS`."""
    table = torch.full((num_classes,), NO_CLASS, dtype=torch.long, device=labels.device)
    table[classes] = torch.arange(len(classes), device=labels.device)
    return torch.where(labels >= 0, table[labels.clamp(min=0)], -1)
