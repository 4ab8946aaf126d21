# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads rows of a data set as images and labels of a vocabulary, or raises an error that names the row.

A row gives an 8-bit RGB image and a label map of the same size. Every pixel of the label map is a label of the
vocabulary or negative (ignored); unknown mask values never become a class. Handles the encodings of masks and bad rows;
does not depend on models or processors.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import datasets
import numpy as np
import torch
from PIL import Image

from ..model.checks import checked_choice, checked_flag, checked_integer, quoted
from ..model.fingerprints import sha256_of
from ..model.image_input import ImageError, decode_image, pil_labels, read_pixels, strip_rows, strips_of
from ..model.loss import IGNORED
from ..model.vocabulary import Vocabulary, word_key
from .columns import Dataset, class_labels, class_names_of, find_columns
from .presets import prepared_vocabulary, protocol_of
from .stored_images import is_of_hub, is_stored_image, name_of, source_of

MaskValues = Literal["labels", "raw_ids"]

MaskCoding = Literal["integers", "ade20k-rgb"]
Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


# A PNG begins with its signature and its first chunk, in which one byte is the number of bits of a channel.
_PNG, _BITS_OF_PNG = b"\x89PNG\r\n\x1a\n", 24

# A mask of one bit has the values 0 and 1; most tools show and write them as 0 and 255.
WHITE = 255


class RowError(ValueError):
    """Raised if a row cannot be used; the message names the row, the problem and the remedy."""


class RowReader:
    """A reader that converts rows of a data set to images and labels.

    The arguments and errors are described in `SegmentationRows`; `of_hub` in `source_of`.
    """

    def __init__(
        self,
        dataset: Dataset,
        vocabulary: Vocabulary,
        image_column: str | None,
        mask_column: str | None,
        mask_values: MaskValues | None,
        mask_coding: MaskCoding,
        of_hub: bool = False,
    ):
        if mask_values is not None:
            checked_choice(mask_values, "mask_values", get_args(MaskValues))
        checked_choice(mask_coding, "mask_coding", get_args(MaskCoding))
        self.image_column, self.mask_column = find_columns(dataset, image_column, mask_column)
        self.vocabulary, self.mask_coding, self.of_hub = vocabulary, mask_coding, of_hub
        self.num_labels = len(vocabulary.scored_names)

        self.protocol = protocol_of(dataset)
        if mask_values is None:
            mask_values = "raw_ids" if self.protocol is None and vocabulary.raw_ids is not None else "labels"
        if mask_values == "raw_ids" and vocabulary.raw_ids is None:
            raise ValueError(
                'mask_values is "raw_ids", but the vocabulary does not have raw ids. Pass a vocabulary with a `raw_id` '
                'column, or set mask_values to "labels".'
            )
        self.mask_values = mask_values
        if mask_values == "labels":
            self._check_names(dataset)

    def _check_names(self, dataset: Dataset) -> None:
        """Raises an error if the data set specifies other labels: another number or order; does not read any mask."""
        names, told = None, ""
        if (prepared := prepared_vocabulary(self.protocol)) is not None:
            names, told = prepared.scored_names, f"the labels of a data set prepared as {self.protocol}"
        elif class_labels(feature := dataset.features[self.mask_column]):
            names, told = class_labels(feature)[0], f"the labels of the column {self.mask_column!r}"
        if names is not None and len(names) != self.num_labels:
            raise ValueError(
                f"The vocabulary has {self.num_labels} labels ({self.vocabulary.names[0]!r}, ...); expected "
                f"{len(names)} ({names[0]!r}, ...), {told}. Pass the vocabulary that the masks were made with."
            )
        if names is None:  # other lists, as of objects, may name other classes than the masks have
            listed = class_names_of(dataset) or ()
            names, told = listed if len(listed) == self.num_labels else (), "the class names in its features"
        moved = moved_names(names, self.vocabulary)
        if len(moved) > 1:  # a single name may have been given to another class on purpose
            name, label, place = moved[0]
            raise ValueError(
                f"The vocabulary has another order than the data set: {len(moved)} names have another label, such as "
                f"{name!r}, which has {place}; expected {label}, as in {told}. Pass the names in the order of the "
                "labels."
            )

    def prepare(self, dataset: Dataset) -> Dataset:
        """Selects the two columns and leaves images undecoded, so that `read` can name the row of a damaged image."""
        dataset = dataset.select_columns([self.image_column, self.mask_column]).with_format(None)
        for column in (self.image_column, self.mask_column):
            if isinstance(dataset.features[column], datasets.Image):
                dataset = dataset.cast_column(column, datasets.Image(decode=False))
        return dataset

    def read(self, row: dict[str, Any], name: int | str) -> tuple[np.ndarray, np.ndarray]:
        """Reads a row as an image, uint8 `(H, W, 3)`, and labels, int64 `(H, W)`; ignored pixels are -1.

        Args:
            row: The stored row.
            name: Number of the row, or another name for error messages.

        Raises:
            RowError: If the row cannot be read, or image and mask differ in size.
        """
        try:
            # (3, H, W); the end of an error names the file
            pixels = read_pixels(source_of(row[self.image_column], "image", self.of_hub), name="the image")
            image = pixels.permute(1, 2, 0).contiguous().numpy()
            labels = self.read_mask(row[self.mask_column])
        except ValueError as error:
            raise RowError(f"Row {name}: {error}{_place_of(row[self.image_column], str(error))}") from error
        if labels.shape != image.shape[:2]:
            raise RowError(
                f"Row {name}: the mask is {labels.shape[0]} x {labels.shape[1]} and the image is {image.shape[0]} x "
                f"{image.shape[1]} (height x width); expected the same size. Resize the mask by nearest neighbor, or "
                f"check whether the image is rotated.{_place_of(row[self.image_column])}"
            )
        return image, labels

    def read_mask(self, value: Any) -> np.ndarray:
        """Reads a stored mask as labels, int64 `(H, W)`; ignored pixels are -1.

        Raises:
            ValueError: If the mask cannot be read, or contains other values.
        """
        mask = source_of(value, "mask", self.of_hub)
        if is_stored_image(value) or isinstance(mask, Image.Image):
            raw = decode_image(
                mask, lambda image, name: self._values_of(image, name, mask), is_mask=True, name=name_of(mask, "mask")
            )
        else:
            try:
                raw = np.asarray(mask)
            except ValueError as error:  # rows of different lengths
                raise ValueError(f"the mask is not rectangular ({error}); expected rows of equal length.") from error
            if raw.ndim != 2 or not np.issubdtype(raw.dtype, np.integer):
                raise ValueError(
                    f"the mask has dtype {raw.dtype} and shape {raw.shape}; expected integers of shape (height, width)."
                )
            raw = raw.astype(np.int64)
        if self.mask_values == "raw_ids":
            for rows in strip_rows(*raw.shape):  # in place: a mask of a small file can have many pixels
                raw[rows] = self.vocabulary.labels_from_raw(raw[rows])
        return self._checked_labels(raw)

    def _values_of(self, mask: Image.Image, name: str, source: Any) -> np.ndarray:
        if mask.mode in ("RGB", "RGBA"):
            return self._decode_colors(mask, name, source)
        values = pil_labels(mask, name).numpy()
        raw_ids = self.vocabulary.raw_ids or {}
        if mask.mode == "1" and self.mask_values == "raw_ids" and WHITE in raw_ids and 1 not in raw_ids:
            values *= WHITE
        return values

    def _checked_labels(self, labels: np.ndarray) -> np.ndarray:
        """Writes `IGNORED` into ignored pixels of labels, int64 `(H, W)`; makes no other map of numbers, for speed."""
        outside = labels.view(np.uint64) >= self.num_labels  # negative labels, too
        if outside.any():
            strange = outside & (labels != self.vocabulary.ignore_label)
            if strange.any():
                parts = [np.unique(labels[rows][strange[rows]]) for rows in strip_rows(*labels.shape)]
                values = np.unique(np.concatenate(parts))
                shown = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
                raise ValueError(
                    f"the mask contains {shown}; expected labels from 0 to {self.num_labels - 1}, and "
                    f"{self.vocabulary.ignore_label} for ignored pixels. Pass the vocabulary of the masks, a "
                    "vocabulary with a `raw_id` column, or the ignore_label of the masks."
                )
            labels[outside] = IGNORED
        return labels

    def _decode_colors(self, mask: Image.Image, name: str, source: Any) -> np.ndarray:
        if _bits_of_png(source) == 16:
            raise ImageError(
                f"{name} is a PNG with several channels of 16 bits, of which only 8 can be read; expected one "
                "integer per pixel. Save it with one channel (gray, 8 or 16 bits)."
            )
        values = np.empty((mask.height, mask.width), np.int64)
        for rows, strip in strips_of(mask):
            pixels = np.asarray(strip.convert("RGB"))
            if self.mask_coding == "ade20k-rgb":
                values[rows] = ade20k_raw_ids(pixels)
            elif (pixels == pixels[..., :1]).all():
                values[rows] = pixels[..., 0]  # a gray image, stored as three equal channels
            else:
                raise ImageError(
                    f"{name} is a color image; expected one integer per pixel. Convert the colors to labels first, or "
                    'set mask_coding to "ade20k-rgb" for the colors of the full ADE20K annotation.'
                )
        return values


def moved_names(names: Sequence[str], vocabulary: Vocabulary) -> list[tuple[str, int, int]]:
    """The names of a data set that a vocabulary gives to another class: name, its label, and that in the vocabulary."""
    label_of = {word_key(name): label for label, name in enumerate(vocabulary.scored_names)}
    moved = []
    for label, name in enumerate(names):
        place = label_of.get(word_key(name), label)
        if place != label and word_key(name) not in map(word_key, vocabulary.synonyms[label]):
            moved.append((name, label, place))
    return moved


def ade20k_raw_ids(pixels: np.ndarray) -> np.ndarray:
    """Converts the RGB pixels `(H, W, 3)` of the full ADE20K annotation to raw ids: int(R / 10) * 256 + G."""
    pixels = pixels.astype(np.int64)
    return pixels[..., 0] // 10 * 256 + pixels[..., 1]


def _bits_of_png(source: Any) -> int | None:
    """The bits of a channel of a stored PNG; `None` for anything else. PIL opens 16 bits as 8, without a word."""
    content = source if isinstance(source, (bytes, bytearray)) else b""
    if isinstance(source, Path) and source.is_file():
        with source.open("rb") as file:
            content = file.read(_BITS_OF_PNG + 1)
    return content[_BITS_OF_PNG] if content.startswith(_PNG) and len(content) > _BITS_OF_PNG else None


def _place_of(image: Any, message: str = "") -> str:
    """Names the file of a stored image for the end of an error, if it is a file: a folder has no numbers of rows."""
    is_file = isinstance(image, dict) and image.get("bytes") is None and image.get("path")
    return f" The image is {image['path']!r}." if is_file and repr(image["path"]) not in message else ""


class SegmentationRows:
    """The base class of `SegmentationDataset` and `StreamedSegmentationDataset`.

    An item is `{"image": uint8 (H, W, 3), "labels": int64 (H, W), "index": int}`; ignored pixels are -1. The
    augmentation of a row depends only on the seed, the epoch and the row, not on the process or worker that reads it.

    Args:
        dataset: One split, as returned by `open_dataset`.
        vocabulary: The classes of the labels. If it has `raw_ids`, the masks contain raw ids by default; see
            `mask_values`.
        image_column, mask_column: Names of the columns. Default: found as described in `find_columns`.
        transform: Function called as `transform(image, labels, rng)`, for example a `PairedTransform`.
        skip_bad: Whether to skip rows that cannot be read; `num_skipped` counts such rows.
        seed: Seed of the augmentation.
        mask_values: `"labels"` or `"raw_ids"`. Default: raw ids if the vocabulary has raw ids, but labels for data sets
            written by `dinov3seg prepare`.
        mask_coding: `"integers"`, or `"ade20k-rgb"` for the colors of the full ADE20K annotation.

    Raises:
        ValueError: If an argument is not valid, the columns are not found, or the data set specifies another number of
            classes.
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
        checked = self._checked(dataset)
        self._reader = RowReader(
            checked, vocabulary, image_column, mask_column, mask_values, mask_coding, of_hub=is_of_hub(dataset)
        )
        self._rows = self._reader.prepare(checked)
        if transform is not None and not callable(transform):
            raise ValueError(f"transform is {quoted(transform)}; expected a function, such as a PairedTransform.")
        self.transform = transform
        self.skip_bad, self.seed = checked_flag(skip_bad, "skip_bad"), checked_integer(seed, "seed", least=0)
        # shared with the worker processes of a data loader, including persistent workers
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _checked(self, dataset: Any) -> Dataset:
        """Returns the data set, or raises a `ValueError` if its type is wrong."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that defines the labels of the masks."""
        return self._reader.vocabulary

    @property
    def columns(self) -> tuple[str, str]:
        """The names of the image column and the mask column."""
        return self._reader.image_column, self._reader.mask_column

    @property
    def protocol(self) -> str | None:
        """The protocol of a prepared data set, such as "ade20k-150/1"; `None` for other data sets."""
        return self._reader.protocol

    @property
    def mask_meaning(self) -> dict[str, Any]:
        """What makes labels of the values in the masks, as JSON values: the same files may give other labels."""
        reader, raw_ids = self._reader, None
        if reader.mask_values == "raw_ids":
            raw_ids = sha256_of(sorted((reader.vocabulary.raw_ids or {}).items()))
        return {
            "values": reader.mask_values,
            "coding": reader.mask_coding,
            "ignore_label": reader.vocabulary.ignore_label,
            "raw_ids": raw_ids,
        }

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from 0, which changes the random numbers of the augmentation, also in running workers."""
        if checked_integer(epoch, "epoch", least=0) > torch.iinfo(self._epoch.dtype).max:
            raise ValueError(f"epoch is {epoch}; expected an integer of {self._epoch.dtype}.")
        self._epoch.fill_(int(epoch))

    def augmented(self, item: dict[str, Any], index: int) -> dict[str, Any]:
        """Transforms an item with the random numbers of row `index` in the current epoch."""
        if self.transform is None:
            return item
        rng = np.random.default_rng((self.seed, int(self._epoch), index))
        image, labels = self.transform(item["image"], item["labels"], rng)
        return {**item, "image": image, "labels": labels}
