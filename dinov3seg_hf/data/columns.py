# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The columns of a data set: which hold images and masks, and what class names its features say. Reads no row."""

from typing import Any, TypeAlias

import datasets
import numpy as np
from datasets.features import Array2D, ClassLabel, LargeList, List, Value

Dataset: TypeAlias = datasets.Dataset | datasets.IterableDataset

# What people call the two columns; the first that is there is taken.
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
    """The names of the data set's one `ClassLabel`, wherever it is in the features; `None` unless there is just one."""
    found = [names for _, feature in sorted((dataset.features or {}).items()) for names in class_labels(feature)]
    return found[0] if len(set(found)) == 1 else None


def class_labels(feature: Any) -> list[tuple[str, ...]]:
    if isinstance(feature, ClassLabel):
        return [tuple(feature.names)]
    if isinstance(feature, (List, LargeList)):
        return class_labels(feature.feature)
    if isinstance(feature, dict):
        return [names for _, part in sorted(feature.items()) for names in class_labels(part)]
    return []


def find_columns(dataset: Dataset, image_column: str | None = None, mask_column: str | None = None) -> tuple[str, str]:
    """The columns of images and masks: those named, or found by kind and by what people call them.

    Raises:
        ValueError: No such column, or none or several that might be meant; says what columns there are.
    """
    if (features := dataset.features) is None:
        raise ValueError(
            "The data set does not say what its columns hold. Open it without streaming, or cast its columns "
            "(`dataset.cast(features)`)."
        )
    shown = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    for option, column in (("image", image_column), ("mask", mask_column)):
        if column is not None and column not in features:
            raise ValueError(f"There is no column {column!r} for the {option}s; the data set has {shown}.")
    if image_column is not None and image_column == mask_column:
        raise ValueError(f"{image_column!r} cannot be both image and mask; the data set has {shown}.")

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    maps = images + [name for name, feature in features.items() if _is_int_array(feature)]
    if mask_column is None:
        candidates = [name for name in maps if name != image_column]
        named = [name for name in MASK_COLUMNS if name in candidates]
        rest = [name for name in candidates if name not in IMAGE_COLUMNS]
        mask_column = named[0] if named else rest[0] if len(rest) == 1 else None
        if mask_column is None:
            problem = "It is unclear which column is" if rest else "None of the columns is"
            raise ValueError(
                f"{problem} the mask (an image or integers); the data set has {shown}. Name it (mask_column)."
            )
    if image_column is None:
        candidates = [name for name in images if name != mask_column]
        named = [name for name in IMAGE_COLUMNS if name in candidates]
        image_column = named[0] if named else candidates[0] if len(candidates) == 1 else None
        if image_column is None:
            problem = "It is unclear which column is" if candidates else "None of the columns is"
            raise ValueError(f"{problem} the image; the data set has {shown}. Name it (image_column).")
    return image_column, mask_column


def _is_int_array(feature: Any) -> bool:
    """Whether a feature is a map of integers: `Array2D`, or lists of lists."""
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
