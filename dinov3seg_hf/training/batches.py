# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Which images and which classes make a step, as pure functions of the seed and the step.

Nothing here remembers anything, so a run that goes on from a checkpoint meets the same batches, and the number of
processes or of accumulated batches does not change what a step sees.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """A random order of the rows for each epoch; what does not fill a last step is left for another epoch.

    Args:
        num_rows: Of the data set.
        batch_size: Images a step, over all processes.
        seed: With the epoch, decides the order.

    Raises:
        ValueError: Fewer rows than a step takes.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int):
        if num_rows < batch_size:
            raise ValueError(
                f"The training split has {num_rows} images, fewer than the {batch_size} of one step (batch_size); "
                "lower it."
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
    """Items of one size -> `images` uint8 `(B, 3, H, W)`, `labels` int64 `(B, H, W)`, `index` int64 `(B,)`."""
    return {
        "images": torch.stack([torch.from_numpy(np.asarray(item["image"])) for item in items]).permute(0, 3, 1, 2),
        "labels": torch.stack([torch.from_numpy(np.asarray(item["labels"])) for item in items]),
        "index": torch.tensor([int(item["index"]) for item in items]),
    }


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 `(B, 3, H, W)` -> float32, as the image processor rescales and normalizes."""
    offset, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images.float() / 255 - offset) / scale


def seeds_of(seed: int, step: int, positions: Sequence[int]) -> list[int]:
    """A seed for every image of a step, by its place in the whole step."""
    return [int(np.random.SeedSequence([seed, step, place]).generate_state(1)[0]) for place in positions]


def pixels_per_class(labels: Sequence[torch.Tensor], num_classes: int) -> torch.Tensor:
    """How many of the label maps' pixels each class has, `(C,)`; ignored pixels count for none."""
    counts = torch.zeros(num_classes, dtype=torch.long, device=labels[0].device)
    for maps in labels:
        counts += torch.bincount(maps[maps >= 0], minlength=num_classes)
    return counts


def sample_classes(counts: torch.Tensor, sizes: Sequence[int], seed: int, step: int) -> torch.Tensor:
    """The classes of a step, in order: those that its images show, then random others (sampled negatives).

    Args:
        counts: `(C,)`, pixels of each class in the step.
        sizes: How many classes; of several numbers one is drawn. Where more are shown, some of these are drawn.
        seed: Of the run; with the step, decides what is drawn.
        step: Its number.

    Returns:
        int64 `(c,)`.
    """
    rng = np.random.default_rng([seed, step])
    size = min(int(rng.choice(np.asarray(sizes))), len(counts))
    shown = counts.cpu().numpy() > 0
    order = rng.permutation(len(counts))
    chosen = np.concatenate([order[shown[order]], order[~shown[order]]])[:size]
    return torch.from_numpy(np.sort(chosen))


def relabel(labels: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Labels among all classes -> labels among `classes`; pixels of the others are ignored (-1)."""
    table = torch.full((num_classes,), -1, dtype=torch.long, device=labels.device)
    table[classes] = torch.arange(len(classes), device=labels.device)
    return torch.where(labels >= 0, table[labels.clamp(min=0)], -1)
