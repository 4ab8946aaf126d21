# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Draws rows of a data set as pictures: the ground truth next to the prediction."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ..data.rows import RowError
from ..data.segmentation import SegmentationDataset
from ..data.streamed import StreamedSegmentationDataset
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.vocabulary import Vocabulary
from ..visualization.colors import color_palette
from ..visualization.files import save_image
from ..visualization.legend import with_legend
from ..visualization.pictures import overlay, regions_of

IMAGE_TRACKERS = ("tensorboard", "wandb")

GAP = 8  # pixels between ground truth and prediction


def draw_samples(
    model: torch.nn.Module,
    processor,
    data: SegmentationDataset | StreamedSegmentationDataset,
    vocabulary: Vocabulary,
    num_samples: int,
    inference: Literal["whole", "local-global", "slide"] | None = None,
) -> dict[int, Image.Image]:
    """Segments rows spread over the data set, or the first readable rows of a stream.

    Returns:
        A mapping from row to image: ground truth on the left, prediction on the right, each with its legend.
    """
    pipe = OpenVocabularySegmentationPipeline(model=model, processor=processor, device=model.device)
    text = pipe.encode_labels(vocabulary)
    pictures = {}
    for row, item in _samples(data, num_samples):
        image = Image.fromarray(np.asarray(item["image"]))
        result = pipe(image, text, inference=inference, return_label_map=True, return_masks=False)
        maps = np.asarray(item["labels"]), vocabulary.to_scored(result["label_map"])
        palette = colors_of(maps, len(vocabulary.scored_names))
        pictures[row] = side_by_side(*(draw(image, labels, vocabulary, palette) for labels in maps))
    return pictures


def save_samples(pictures: Mapping[int, Image.Image], folder: Path, trackers: Iterable[Any], step: int) -> None:
    """Writes the pictures of rows to a folder and to the trackers that show pictures."""
    for index, picture in pictures.items():
        save_image(folder / f"row-{index:06d}.png", picture)
        for tracker in trackers:
            if tracker.name in IMAGE_TRACKERS:
                tracker.log_images(
                    {f"overlay/row-{index:06d}": np.asarray(picture)[None]},
                    step=step,
                    **({"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}),
                )


def _samples(
    data: SegmentationDataset | StreamedSegmentationDataset, num_samples: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(data, SegmentationDataset):
        for row in sorted({index * len(data) // num_samples for index in range(num_samples)}):
            yield row, data[row]
    else:
        readable = ((row, item) for row, item in data.rows() if not isinstance(item, RowError))
        yield from itertools.islice(readable, num_samples)


def colors_of(label_maps: Sequence[np.ndarray], num_labels: int) -> np.ndarray:
    """Makes a palette `(num_labels, 3)` with distinct colors for the labels in these maps; other labels are black."""
    found = np.unique(np.concatenate([labels[labels >= 0] for labels in label_maps]))
    palette = np.zeros((num_labels, 3), np.uint8)
    palette[found] = color_palette(max(len(found), 1))[: len(found)]
    return palette


def draw(image: Image.Image, labels: np.ndarray, vocabulary: Vocabulary, palette: np.ndarray) -> Image.Image:
    """Draws a label map `(H, W)` over its image, with a legend. Pixels with negative labels have no label."""
    regions = regions_of(labels, vocabulary.scored_names)
    return with_legend(overlay(image, labels, palette=palette), regions, palette=palette)


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Joins two pictures side by side on a white background."""
    sheet = Image.new("RGB", (left.width + GAP + right.width, max(left.height, right.height)), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + GAP, 0))
    return sheet
