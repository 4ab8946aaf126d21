# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The measured points of any number of images, in bounded memory.

Above a number of points, those of frequent labels are a random sample, and those of rare labels are all there: each
label keeps its K points with the smallest random numbers, and K falls as points come. A kept point stands for as many
as its label has seen for each that it keeps. Fewer points are kept as they are, so nothing changes for few images.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..model.calibration import Calibration
from ..model.inference_settings import InferenceSettings
from ..model.loss import IGNORED

# 22 bytes each, and for a moment half as many more. A photograph has hundreds of thousands.
MAX_POINTS = 2**21


@dataclass(frozen=True, eq=False)
class Measurement:
    """The points of an image, one value each.

    Attributes:
        labels: The best label, integers.
        best: Its confidence.
        runner_up: The confidence of the second label if the best did not exist.
        decisive: The confidence of the best label that is compared with a bound; see `Confidence.without_seams`.
        truth: The label in the mask, `NO_CLASS`, or `IGNORED`; `None` without a mask.
        settings: The settings of the segmentation, from `resolved_settings` of the pipeline.
    """

    labels: torch.Tensor
    best: torch.Tensor
    runner_up: torch.Tensor
    decisive: torch.Tensor
    truth: torch.Tensor | None
    settings: InferenceSettings


class Points:
    """Points of images that were measured with the same settings.

    Attributes:
        num_images: The number of images.
        num_images_of: The number of images in which each label is the best of a point that is not ignored.
        settings: The settings of the images; `None` before the first one.
        has_masks: Whether the images have masks.
    """

    def __init__(self, max_points: int | None = None) -> None:
        self.num_images = 0
        self.num_images_of: Counter[int] = Counter()
        self.settings: InferenceSettings | None = None
        self.has_masks = False
        self._max_points = MAX_POINTS if max_points is None else max_points
        self._parts: list[dict[str, torch.Tensor]] = []
        self._seen = torch.zeros(0, dtype=torch.int64)  # points of each group, also those that are no longer there
        self._most: int | None = None  # the K of the module; None: all

    @classmethod
    def of(cls, measurements: Iterable[Measurement]) -> "Points":
        """Returns the points of images, which are not kept.

        Raises:
            ValueError: If only some of the images have masks, or their settings differ.
        """
        points = cls()
        for measurement in measurements:
            points.add(measurement)
        return points

    def __len__(self) -> int:
        """The number of points in memory."""
        return sum(len(part["label"]) for part in self._parts)

    def add(self, image: Measurement) -> None:
        """Adds the points of an image.

        Raises:
            ValueError: If it has a mask and the others have none, or the other way round, or its settings differ.
        """
        if self.settings is None:
            self.settings, self.has_masks = image.settings, image.truth is not None
        if image.settings != self.settings or (image.truth is not None) != self.has_masks:
            raise ValueError(
                "Got images with and without masks, or of different settings; expected all alike. Measure them again."
            )
        labels, truth = image.labels.int(), image.truth
        random = torch.Generator().manual_seed(self.num_images)
        part = {
            "label": labels,
            "best": image.best.float(),
            "runner_up": image.runner_up.float(),
            "decisive": image.decisive.float(),
            "order": torch.randint(2**31 - 1, labels.shape, generator=random, dtype=torch.int32),
        }
        if truth is not None:
            part |= {"is_known": truth != IGNORED, "is_right": labels == truth}
            self.num_images_of.update(labels[part["is_known"]].unique().tolist())
        self.num_images += 1
        self._parts.append(part)
        self._seen = _summed(self._seen, self._groups_of(part).bincount())
        if len(self) > self._max_points + self._max_points // 2:
            self._thin_out()

    def columns(self) -> dict[str, Any]:
        """Returns the points, at most `MAX_POINTS`, in columns.

        Returns:
            `label`, `best`, `runner_up` and `decisive` as in `Measurement`; `weight`, float64: how many points of its
            label a point stands for. With masks also `is_known`: whether the mask does not ignore it, and `is_right`.
        """
        self._thin_out()
        (points,) = self._parts
        group = self._groups_of(points)
        share = self._seen.double() / group.bincount(minlength=len(self._seen)).clamp(min=1)
        return {**points, "weight": share[group]}

    def share_of_none(self, calibration: Calibration) -> float:
        """Returns the share of the points that show none of the labels with these bounds."""
        points = self.columns()
        none = points["decisive"] < calibration.bounds_of(points["label"])
        return float(points["weight"][none].sum() / points["weight"].sum())

    def _groups_of(self, points: dict[str, torch.Tensor]) -> torch.Tensor:
        """The group of each point, int64: its label; without masks, where all labels get the same bound, one group."""
        labels = points["label"].long()
        return labels if self.has_masks else torch.zeros_like(labels)

    def _thin_out(self) -> None:
        """Joins the parts, and keeps at most `max_points` points."""
        points = {name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}
        self._parts = [points]
        group = self._groups_of(points)
        counts = group.bincount(minlength=len(self._seen))
        most = _fair_share(counts, self._max_points)
        if most is not None:  # never more than before: what was left out then would be missing
            self._most = most if self._most is None else min(most, self._most)
        if self._most is None:
            return
        places = (group * 2**31 + points["order"]).argsort()
        rank = torch.arange(len(places)) - (counts.cumsum(0) - counts)[group[places]]
        kept = places[rank < self._most].sort().values
        self._parts = [{name: column[kept] for name, column in points.items()}]


def _summed(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The sum of two lists of counts of different lengths."""
    total = torch.zeros(max(len(one), len(other)), dtype=torch.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total


def _fair_share(counts: torch.Tensor, total: int) -> int | None:
    """Returns the largest number that each group can keep if all keep `total` together; `None`: all of their points."""
    left = total
    ordered = counts.sort().values.tolist()
    for place, count in enumerate(ordered):
        share = left // (len(ordered) - place)
        if count > share:
            return share
        left -= count
    return None


__all__ = ["MAX_POINTS", "Measurement", "Points"]
