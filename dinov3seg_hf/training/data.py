# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Opens the data sets and vocabularies of a training run from its configuration.

`drawn-world` is the data set of scenes that the package draws, one scene per seed: `seen[:2000]` contains the scenes of
seeds 0 to 1999. The training vocabulary contains only the seen names, the evaluation vocabulary all names.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from ..data.augmentation import PairedTransform
from ..data.columns import Dataset
from ..data.drawn_world import open_drawn_world, seen_vocabulary
from ..data.looks import NUM_LOOKS, spread_rows, warn_of_a_single_class
from ..data.opening import find_vocabulary, open_dataset
from ..data.presets import drawn_world_vocabulary
from ..data.rows import RowError
from ..data.segmentation import SegmentationDataset
from ..data.stored_images import first_rows
from ..data.streamed import StreamedSegmentationDataset, segmentation_dataset
from ..drawn_world.names import DRAWN_WORLD
from ..model.vocabulary import Vocabulary, as_vocabulary
from .config import TrainingConfig

Rows = SegmentationDataset | StreamedSegmentationDataset

# The largest hue change at `color_jitter` 1, as a share of the color circle.
HUE_SHARE = 0.2


@dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Attributes:
        train: The training rows, augmented.
        vocabulary: The classes to train.
        evaluation: The evaluation rows, not augmented; `None`: no evaluation.
        evaluation_vocabulary: The classes to evaluate; `None`: the classes of `evaluation`.
    """

    train: Rows
    vocabulary: Vocabulary
    evaluation: Rows | None = None
    evaluation_vocabulary: Vocabulary | None = None


def open_training_data(config: TrainingConfig, is_main: bool = True) -> TrainingData:
    """Opens the data sets of a configuration and reads some rows of each, to find errors before training.

    Raises:
        ValueError: If a data set, split, column or vocabulary does not exist or does not fit, or a row cannot be read.
    """
    rows, vocabulary = _open(config, config.dataset, config.split, config.vocabulary, training=True)
    if vocabulary.background_from is not None:
        raise ValueError(
            "The vocabulary merges background classes (background_from), which only evaluation supports; expected a "
            "vocabulary without background_from. Train with the vocabulary of the individual classes."
        )
    options = {"mask_values": config.mask_values, "mask_coding": config.mask_coding}
    columns = {"image_column": config.image_column, "mask_column": config.mask_column}
    own = _own_options(config.dataset)
    train = segmentation_dataset(
        rows,
        vocabulary,
        **{**columns, **options, **own},
        transform=make_transform(config),
        skip_bad=config.skip_bad,
        seed=config.seed,
    )
    preflight(train, config.batch_size)
    if is_main:
        warn_of_a_single_class(train)
    if config.eval_split is None:
        return TrainingData(train, vocabulary)

    name = config.dataset if config.eval_dataset is None else config.eval_dataset
    same = name == config.dataset
    source = config.eval_vocabulary or (config.vocabulary if same else None)
    rows, eval_vocabulary = _open(config, name, config.eval_split, source, training=False)
    if config.eval_images is not None:
        rows = first_rows(rows, config.eval_images)
    evaluation = segmentation_dataset(
        rows,
        eval_vocabulary,
        **({**columns, **options} if same and name != DRAWN_WORLD else {}),
        skip_bad=config.skip_bad,
    )
    preflight(evaluation)
    if is_main:
        warn_of_a_single_class(evaluation)
    return TrainingData(train, vocabulary, evaluation, eval_vocabulary)


def set_shortest_edge(image_processor: Any, shortest_edge: int) -> None:
    """Sets the shorter side of resized images, in place; a limit of the longer side stays, if it is not shorter."""
    longest = dict(image_processor.size).get("longest_edge")
    limit = {} if longest is None else {"longest_edge": max(longest, shortest_edge)}
    image_processor.size = {"shortest_edge": shortest_edge, **limit}


def make_transform(config: TrainingConfig) -> PairedTransform:
    """The augmentation of a configuration, which transforms image and label map together."""
    jitter = config.color_jitter
    # the transform takes scales relative to the crop
    unit = (config.shortest_edge or config.crop_size) / config.crop_size
    least, most = (unit * scale for scale in config.scale_range)
    return PairedTransform(
        crop_size=config.crop_size,
        scale=(least, most),
        flip=config.flip_probability,
        brightness=jitter,
        contrast=jitter,
        saturation=jitter,
        hue=HUE_SHARE * jitter,
        color=0.8 if jitter else 0.0,
    )


def _open(
    config: TrainingConfig, name: str, split: str, source: str | None, training: bool
) -> tuple[Dataset, Vocabulary]:
    if name == DRAWN_WORLD:
        rows = open_drawn_world(split)
        if config.streaming:
            rows = rows.to_iterable_dataset()
        if source is not None:
            raise ValueError(
                f"vocabulary or eval_vocabulary is {source!r}; expected no value, because the drawn world has its own "
                "vocabulary. Remove both options."
            )
        vocabulary = seen_vocabulary() if training else drawn_world_vocabulary()
    else:
        config_name = config.dataset_config if name == config.dataset else None
        rows = open_dataset(name, split, config_name=config_name, streaming=config.streaming)
        vocabulary = find_vocabulary(rows, source, card=name)
    return rows, as_vocabulary(vocabulary, config.templates)


def preflight(data: Rows, least: int = 1) -> None:
    """Reads some rows to find errors before training.

    Args:
        data: The rows to check: `NUM_LOOKS` rows spread over a data set, or the first `NUM_LOOKS` rows of a stream.
        least: Minimum number of rows in a stream, whose length is unknown; checked up to `NUM_LOOKS` rows.

    Raises:
        ValueError: If a row cannot be read (with `skip_bad` in a stream: if all of them cannot be read), or the stream
            is too short.
    """
    if isinstance(data, SegmentationDataset):
        for row in spread_rows(data):
            data[row]
        return
    num_rows, num_good = 0, 0
    for _, item in itertools.islice(data.rows(), NUM_LOOKS):
        num_rows += 1
        if not isinstance(item, RowError):
            num_good += 1
        elif not data.skip_bad:
            raise item
    if num_rows < min(least, NUM_LOOKS):
        raise ValueError(f"The stream has {num_rows} rows; expected at least {least}. Choose another split.")
    if num_good == 0:
        raise ValueError(f"The first {num_rows} rows are unreadable. Check the columns and the vocabulary.")


def _own_options(name: str) -> dict[str, Any]:
    return {"mask_values": "raw_ids", "mask_coding": "integers"} if name == DRAWN_WORLD else {}
