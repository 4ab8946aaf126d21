# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds the image and mask columns of a data set and the class names in its features. Does not read any rows."""

from typing import Any, TypeAlias

import datasets
import numpy as np
from datasets.features import Array2D, ClassLabel, LargeList, List, Value

from ..model.checks import quoted

Dataset: TypeAlias = datasets.Dataset | datasets.IterableDataset

# Common names of the two columns, in order of preference.
IMAGE_COLUMNS = ("image", "img", "pixel_values", "picture", "photo")

MASK_COLUMNS = (
    "label_map",
    "mask",
    "masks",
    "label",
    "labels",
    "annotation",
    "annotations",
    "segmentation",
    "segmentation_mask",
    "segmentation_map",
    "semantic_mask",
    "semantic_segmentation",
    "annotated",
    "gt",
)


def class_names_of(dataset: Dataset) -> tuple[str, ...] | None:
    """The class names of the `ClassLabel` features in lists: of masks, or of what an image shows.

    One `ClassLabel` per row, such as a kind of scene or a breed, does not name what pixels show.

    `None` if the features do not contain a `ClassLabel` in a list, or if several of them have different names.
    """
    found = [names for feature in _lists_in(dict(dataset.features or {})) for names in class_labels(feature)]
    return found[0] if len(set(found)) == 1 else None


def _lists_in(feature: Any) -> list[Any]:
    if isinstance(feature, dict):
        return [found for _, part in sorted(feature.items()) for found in _lists_in(part)]
    return [feature] if isinstance(feature, (List, LargeList)) else []


def class_labels(feature: Any) -> list[tuple[str, ...]]:
    if isinstance(feature, ClassLabel):
        return [tuple(feature.names)]
    if isinstance(feature, (List, LargeList)):
        return class_labels(feature.feature)
    if isinstance(feature, dict):
        return [names for _, part in sorted(feature.items()) for names in class_labels(part)]
    return []


def find_columns(dataset: Dataset, image_column: str | None = None, mask_column: str | None = None) -> tuple[str, str]:
    """The names of the image column and the mask column.

    A column that is not passed is found by its feature type and by common column names.

    Raises:
        ValueError: If the features are unknown, a passed column does not exist, both arguments are the same column, or
            no column or several columns could be meant; the message lists the known columns.
    """
    features, shown = _known_features(dataset)
    for option, column in (("image", image_column), ("mask", mask_column)):
        if column is not None and (not isinstance(column, str) or column not in features):
            raise ValueError(f"{option}_column is {quoted(column)}; expected a column of the data set: {shown}.")
    if image_column is not None and image_column == mask_column:
        raise ValueError(
            f"image_column and mask_column are both {image_column!r}; expected two different columns of the data set: "
            f"{shown}."
        )

    maps = images_in(features) + [name for name, feature in features.items() if _is_int_array(feature)]
    if mask_column is None:
        candidates = [name for name in maps if name != image_column]
        named = [name for name in MASK_COLUMNS if name in candidates]
        rest = [name for name in candidates if name not in IMAGE_COLUMNS]
        mask_column = named[0] if named else rest[0] if len(rest) == 1 else None
        if mask_column is None:
            problem = "is ambiguous" if rest else "was not found"
            raise ValueError(
                f"The mask column {problem}; expected one column of images or maps of integers. The data set has "
                f"{shown}. Pass the name of the mask column (mask_column)."
            )
    if image_column is None:
        image_column = find_image_column(dataset, without=mask_column)
    return image_column, mask_column


def find_image_column(dataset: Dataset, image_column: str | None = None, without: str | None = None) -> str:
    """The name of the image column; `without` is a column that it cannot be.

    Raises:
        ValueError: If the features are unknown, a passed column does not exist, or no column or several columns could
            be meant.
    """
    features, shown = _known_features(dataset)
    if image_column is not None:
        if not isinstance(image_column, str) or image_column not in features:
            raise ValueError(f"image_column is {quoted(image_column)}; expected a column of the data set: {shown}.")
        return image_column
    candidates = [name for name in images_in(features) if name != without]
    named = [name for name in IMAGE_COLUMNS if name in candidates]
    image_column = named[0] if named else candidates[0] if len(candidates) == 1 else None
    if image_column is None:
        problem = "is ambiguous" if candidates else "was not found"
        raise ValueError(
            f"The image column {problem}; expected one column of images. The data set has {shown}. Pass the name of "
            "the image column (image_column)."
        )
    return image_column


def images_in(features: datasets.Features) -> list[str]:
    """The names of the columns of images."""
    return [name for name, feature in features.items() if isinstance(feature, datasets.Image)]


def _known_features(dataset: Dataset) -> tuple[datasets.Features, str]:
    if (features := dataset.features) is None:
        raise ValueError(
            "The features of the data set are unknown. Open the data set without streaming, or set its features "
            "(`dataset.cast(features)`)."
        )
    return features, ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())


def _is_int_array(feature: Any) -> bool:
    """Returns whether a feature is a map of integers: an integer `Array2D`, or lists of lists of integers or labels."""
    if isinstance(feature, Array2D):
        return np.issubdtype(np.dtype(feature.dtype), np.integer)
    if not isinstance(feature, (List, LargeList)) or not isinstance(feature.feature, (List, LargeList)):
        return False
    inner = feature.feature.feature
    return isinstance(inner, ClassLabel) or (isinstance(inner, Value) and "int" in inner.dtype)


def _kind(feature: Any) -> str:
    if isinstance(feature, datasets.Image):
        return "image"
    return "map of integers" if _is_int_array(feature) else str(getattr(feature, "dtype", type(feature).__name__))
