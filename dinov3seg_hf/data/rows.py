# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Rows of a data set to pixels and labels of a vocabulary, or to an error that names the row; never a wrong label.

Knows encodings of masks and what is wrong with a row; knows neither models nor processors. A row gives an 8-bit RGB
image and a label map of its size in which every pixel is a label of the vocabulary or negative (ignored).
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import datasets
import numpy as np
import torch
from PIL import Image

from ..model.checks import checked_choice
from ..model.image_input import ImageError, read_label_map, read_pixels
from ..model.vocabulary import Vocabulary
from .augmentation import IGNORED
from .columns import Dataset, class_labels, find_columns
from .presets import prepared_vocabulary, protocol_of

MaskValues = Literal["labels", "raw_ids"]

MaskCoding = Literal["integers", "ade20k-rgb"]
Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class RowError(ValueError):
    """A row that cannot be used: which one, what is wrong with it, and the remedy."""


class RowReader:
    """Turns a row of a data set into pixels and labels, or refuses it.

    Args and errors: those of `SegmentationRows`.
    """

    def __init__(
        self,
        dataset: Dataset,
        vocabulary: Vocabulary,
        image_column: str | None,
        mask_column: str | None,
        mask_values: MaskValues | None,
        mask_coding: MaskCoding,
    ):
        if mask_values is not None:
            checked_choice(mask_values, "mask_values", get_args(MaskValues))
        checked_choice(mask_coding, "mask_coding", get_args(MaskCoding))
        self.image_column, self.mask_column = find_columns(dataset, image_column, mask_column)
        self.vocabulary, self.mask_coding = vocabulary, mask_coding
        self.num_labels = len(vocabulary.scored_names)

        self.protocol = protocol_of(dataset)
        if mask_values is None:
            mask_values = "raw_ids" if self.protocol is None and vocabulary.raw_ids is not None else "labels"
        if mask_values == "raw_ids" and vocabulary.raw_ids is None:
            raise ValueError(
                "The masks are said to hold raw ids, but the vocabulary has none: give one with a `raw_id` column, or "
                'mask_values="labels".'
            )
        self.mask_values = mask_values
        self._check_size(dataset)

    def _check_size(self, dataset: Dataset) -> None:
        """Refuses a vocabulary of which it is known, before any row is read, that the labels are others."""
        names, told = None, ""
        if (prepared := prepared_vocabulary(self.protocol)) is not None:
            names, told = prepared.scored_names, f"it was prepared as {self.protocol}"
        elif class_labels(feature := dataset.features[self.mask_column]):
            names, told = class_labels(feature)[0], f"its column {self.mask_column!r} says"
        if names is not None and self.mask_values == "labels" and len(names) != self.num_labels:
            raise ValueError(
                f"The vocabulary has {self.num_labels} labels ({self.vocabulary.names[0]!r}, ...), the data set "
                f"{len(names)} ({names[0]!r}, ...): {told}. Give the vocabulary that its masks were made with."
            )

    def prepare(self, dataset: Dataset) -> Dataset:
        """The two columns alone, images as the bytes that are stored: a damaged one is found by us, with its row."""
        dataset = dataset.select_columns([self.image_column, self.mask_column]).with_format(None)
        for column in (self.image_column, self.mask_column):
            if isinstance(dataset.features[column], datasets.Image):
                dataset = dataset.cast_column(column, datasets.Image(decode=False))
        return dataset

    def read(self, row: dict[str, Any], name: int | str) -> tuple[np.ndarray, np.ndarray]:
        """A row -> uint8 `(H, W, 3)` and int64 `(H, W)`, ignored pixels -1.

        Args:
            row: As it is stored.
            name: Its number, or what else errors are to call it.

        Raises:
            RowError: It cannot be read.
        """
        try:
            pixels = read_pixels(_decoded(row[self.image_column], "image"))  # (3, H, W)
            image = pixels.permute(1, 2, 0).contiguous().numpy()
            labels = self._labels(row[self.mask_column])
        except ValueError as error:
            raise RowError(f"Row {name}: {error}") from error
        if labels.shape != image.shape[:2]:
            raise RowError(
                f"Row {name}: the mask is {labels.shape[0]} x {labels.shape[1]}, its image {image.shape[0]} x "
                f"{image.shape[1]} (height x width). Resize the mask by nearest neighbor, or look for a turned image."
            )
        return image, labels

    def _labels(self, value: Any) -> np.ndarray:
        mask = _decoded(value, "mask")
        if isinstance(mask, Image.Image):
            raw = self._decode_colors(mask) if mask.mode in ("RGB", "RGBA") else read_label_map(mask).numpy()
        else:
            try:
                raw = np.asarray(mask)
            except ValueError as error:  # rows of different lengths
                raise ValueError(f"the mask is no rectangle ({error}).") from error
            if raw.ndim != 2 or not np.issubdtype(raw.dtype, np.integer):
                raise ValueError(f"the mask is {raw.dtype} of shape {raw.shape}; expected integers, one a pixel.")
            raw = raw.astype(np.int64)
        if self.mask_values == "raw_ids":
            labels = self.vocabulary.labels_from_raw(raw).astype(np.int64)
        else:
            labels = raw
            strange = (labels != self.vocabulary.ignore_label) & ((labels < 0) | (labels >= self.num_labels))
            if strange.any():
                values = np.unique(labels[strange])
                shown = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
                raise ValueError(
                    f"the mask holds {shown}, and the vocabulary has the labels 0 to {self.num_labels - 1}, and "
                    f"{self.vocabulary.ignore_label} for pixels of none. Give the right vocabulary, or one with a "
                    "`raw_id` column, or its ignore_label."
                )
        return np.where(labels == self.vocabulary.ignore_label, IGNORED, labels)

    def _decode_colors(self, mask: Image.Image) -> np.ndarray:
        pixels = np.asarray(mask.convert("RGB")).astype(np.int64)
        if self.mask_coding == "ade20k-rgb":
            return ade20k_raw_ids(pixels)
        if (pixels == pixels[..., :1]).all():
            return pixels[..., 0]  # gray, saved in three equal channels
        raise ValueError(
            "the mask is colored, and numbers are expected. Decode its colors to labels first; the colors of "
            'ADE20K\'s full annotation are mask_coding="ade20k-rgb".'
        )


def ade20k_raw_ids(pixels: np.ndarray) -> np.ndarray:
    """The raw ids of ADE20K's full annotation from its RGB `(H, W, 3)`: int(R / 10) * 256 + G."""
    pixels = pixels.astype(np.int64)
    return pixels[..., 0] // 10 * 256 + pixels[..., 1]


def _decoded(value: Any, what: str) -> Any:
    """What a column holds -> a PIL image, or the array it is."""
    if value is None:
        raise ValueError(f"there is no {what}.")
    if not (isinstance(value, dict) and set(value) == {"bytes", "path"}):
        return value
    try:
        return datasets.Image().decode_example(value)
    except Exception as error:  # damaged files come as OSError, SyntaxError, ValueError, struct.error and more
        raise ImageError(f"the {what} cannot be decoded ({error}): it may be truncated or damaged.") from error


class SegmentationRows:
    """What stored and streamed data sets share: `SegmentationDataset` and `StreamedSegmentationDataset`.

    An item is `{"image": uint8 (H, W, 3), "labels": int64 (H, W), "index": int}`; ignored pixels are -1. What
    augmentation does to a row depends on seed, epoch and row alone, whatever process or worker reads it.

    Args:
        dataset: One split, as `open_dataset` gives it.
        vocabulary: Which labels there are. Where it has `raw_ids`, masks hold those unless told otherwise.
        image_column, mask_column: Names of columns; found unless given.
        transform: Called as `transform(image, labels, rng)`; for example a `PairedTransform`.
        skip_bad: Leaves out rows that cannot be read, and counts them (`num_skipped`).
        seed: Of the augmentation.
        mask_values: `"labels"` or `"raw_ids"`. By default raw ids if the vocabulary has them, but labels in data sets
            that `dinov3seg prepare` wrote.
        mask_coding: `"ade20k-rgb"` for the colors of ADE20K's full annotation.

    Raises:
        ValueError: The columns are not found, or the data set is known to have another number of classes.
    """

    def __init__(
        self,
        dataset: Dataset,
        vocabulary: Vocabulary,
        *,
        image_column: str | None = None,
        mask_column: str | None = None,
        transform: Transform | None = None,
        skip_bad: bool = False,
        seed: int = 0,
        mask_values: MaskValues | None = None,
        mask_coding: MaskCoding = "integers",
    ):
        dataset = self._checked(dataset)
        self._reader = RowReader(dataset, vocabulary, image_column, mask_column, mask_values, mask_coding)
        self._rows = self._reader.prepare(dataset)
        self.transform, self.skip_bad, self.seed = transform, skip_bad, seed
        # shared with the processes of a data loader, persistent ones too
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _checked(self, dataset: Any) -> Dataset:
        """The data set, if it is of the right kind."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that masks are read with."""
        return self._reader.vocabulary

    @property
    def columns(self) -> tuple[str, str]:
        """The names of the image column and the mask column."""
        return self._reader.image_column, self._reader.mask_column

    @property
    def protocol(self) -> str | None:
        """What a prepared data set was prepared as, such as "ade20k-150/1"."""
        return self._reader.protocol

    def set_epoch(self, epoch: int) -> None:
        """Makes augmentation draw anew, in running workers too."""
        self._epoch.fill_(epoch)

    def augmented(self, item: dict[str, Any], index: int) -> dict[str, Any]:
        """An item, transformed as that of row `index` is in this epoch."""
        if self.transform is None:
            return item
        rng = np.random.default_rng((self.seed, int(self._epoch), index))
        image, labels = self.transform(item["image"], item["labels"], rng)
        return {**item, "image": image, "labels": labels}
