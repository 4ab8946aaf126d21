# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The forms in which images and labels reach a pipeline, as the pipelines of transformers accept them.

Does not open images and does not encode labels.
"""

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .checks import check_option_names, quoted
from .inference_settings import InferenceSettings
from .text_embeddings import TextEmbeddings
from .vocabulary import Vocabulary

# Other names of the two arguments, in pipelines of transformers.
IMAGE_KEYWORDS = ("inputs", "image")
LABEL_KEYWORDS = ("labels", "text")
OPTIONS = (
    *(field.name for field in fields(InferenceSettings)),
    "candidate_labels",
    "templates",
    "return_label_map",
    "return_scores",
    "return_masks",
)
# Options of transformers' own pipelines, and of its base class in a call.
CALL_OPTIONS = ("batch_size", "num_workers")
# Words that other libraries use for what an option is here.
MEANT = {
    "images": ("img", "imgs", "input", "input_image", "input_images", "picture", "pictures", "pixel_values"),
    "candidate_labels": (
        *("categories", "class_names", "classes", "names", "prompt", "prompts", "queries"),
        *("text_prompt", "text_prompts", "text_queries", "texts", "vocabulary", "words"),
    ),
    "templates": ("hypothesis_template", "prompt_template", "template"),
}


@dataclass(frozen=True, eq=False)
class ImageWithLabels:
    """An image, in any stage of the pipeline, with labels of its own."""

    image: Any
    labels: Any


class Rows(Dataset[Any]):
    """Images that are read one by one, by their number."""

    def __init__(self, rows: Any):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


def take_keywords(images: Any, labels: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Returns images and labels, which may have come under other names; removes these names from the options.

    Raises:
        TypeError: If an argument was passed twice.
    """
    values = {"images": images, "candidate_labels": labels}
    for name, others in (("images", IMAGE_KEYWORDS), ("candidate_labels", LABEL_KEYWORDS)):
        for other in others:
            if other in options:
                value = options.pop(other)
                if value is not None and values[name] is not None:
                    raise TypeError(f"Got both {name} and {other}, which mean the same; expected one. Pass {name}.")
                values[name] = value if values[name] is None else values[name]
    return values["images"], values["candidate_labels"]


def check_options(names: Iterable[str]) -> None:
    """Checks that the names of options are known.

    Raises:
        TypeError: If one is not; the message has the one that is meant.
    """
    check_option_names(names, OPTIONS, "the pipeline", ("images",), MEANT)


def read_rows(images: Any) -> tuple[Any, bool]:
    """Returns one image, a list, a generator or a data set of torch; and whether its results are to be listed.

    Batches `(N, H, W, C)` or `(N, C, H, W)` and tuples become lists. Columns and data sets of the library `datasets`
    are read row by row; the results of a column are a list, those of a data set are computed while they are read.
    Several rows of a data set, as `dataset[:8]` gives them (a dictionary of columns), become a list.

    Raises:
        ValueError: If such columns have different lengths.
    """
    if isinstance(images, Mapping) and isinstance(images.get("image"), (list, tuple)):
        return _rows_of_columns({key: images[key] for key in ("image", "candidate_labels") if key in images}), False
    if isinstance(images, tuple) or (isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4):
        return list(images), False
    if hasattr(images, "column_names") and hasattr(images, "features"):  # of the library `datasets`
        return (Rows(images) if hasattr(images, "__len__") else (row for row in images)), False
    if isinstance(images, Sequence) and not isinstance(images, (str, bytes, bytearray, list)):
        return Rows(images), True
    return images, False


def _rows_of_columns(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns have the lengths {lengths}; expected one list of labels per image.")
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def images_of(images: Any) -> Iterable[Any]:
    """Returns one image in a list, and several as they are: a list, a batch in one array, a generator, a data set.

    Raises:
        ValueError: If the value is none of these.
    """
    images, _ = read_rows(images)
    if isinstance(images, Rows):
        return (images[index] for index in range(len(images)))
    if isinstance(images, (list, Iterator)):
        return images
    if isinstance(images, Iterable) and not isinstance(images, (str, bytes, bytearray, Mapping, np.ndarray)):
        # a tensor is an image, and an open file as well
        return [images] if isinstance(images, torch.Tensor) or hasattr(images, "read") else images
    return [images]


def are_per_image(labels: Any) -> bool:
    """Whether labels are a list with the labels of each image."""
    own = (list, tuple, Vocabulary, TextEmbeddings)
    return isinstance(labels, (list, tuple)) and bool(labels) and all(isinstance(item, own) for item in labels)


def with_own_labels(images: Any, labels: Sequence[Any]) -> Any:
    """Returns images with the labels of each.

    Raises:
        ValueError: If the numbers differ, or the number of images is unknown.
    """
    if isinstance(images, (types.GeneratorType, Dataset)):
        raise ValueError(
            f"Got {len(labels)} lists of labels for a {type(images).__name__}; expected one list for all of its "
            'images. Yield {"image": ..., "candidate_labels": [...]} to give each image its own.'
        )
    listed = images if isinstance(images, list) else [images]
    if len(listed) != len(labels):
        raise ValueError(
            f"Got {len(labels)} lists of labels for {len(listed)} images; expected one per image, or one list of names "
            "for all."
        )
    paired = [ImageWithLabels(image, of_image) for image, of_image in zip(listed, labels)]
    return paired if isinstance(images, list) else paired[0]


def may_bring_labels(images: Any) -> bool:
    """Whether images may have labels of their own; of generators and data sets, this shows while they are read."""
    if isinstance(images, list):
        return any(may_bring_labels(image) for image in images)
    return isinstance(images, (ImageWithLabels, Mapping, types.GeneratorType, Dataset, Iterator))


def split_row(row: Any) -> tuple[Any, Any]:
    """Returns the image of a row, and its labels or `None`.

    Args:
        row: An image, an `ImageWithLabels`, `{"image": ..., "candidate_labels": ...}`, whose second key is optional and
            whose other keys are left out, or `{"bytes": ..., "path": ...}` of the library `datasets`.

    Raises:
        ValueError: If a mapping has no image.
    """
    labels = None
    if isinstance(row, ImageWithLabels):
        row, labels = row.image, row.labels
    if isinstance(row, Mapping) and "image" in row:
        own = row.get("candidate_labels")
        row, labels = row["image"], labels if own is None else own
    if isinstance(row, Mapping):
        stored = row.get("bytes") or row.get("path")
        if stored is None or not set(row) <= {"bytes", "path"}:
            raise ValueError(
                f"An image is a {type(row).__name__} with the keys {quoted(list(row))}; expected 'image' and, for its "
                "own labels, 'candidate_labels'. Rename the column, or pass the column of the images."
            )
        row = stored
    return row, labels


__all__ = ["ImageWithLabels", "Rows", "split_row"]
