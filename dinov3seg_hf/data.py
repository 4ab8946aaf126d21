# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Data sets of images and masks, as Hugging Face `datasets` opens them, to pixels and labels of a vocabulary.

Knows columns, encodings of masks and what is wrong with a row; knows neither models nor processors. A row gives an
8-bit RGB image and a label map of its size in which every pixel is a label of the vocabulary or negative (ignored). A
row that cannot be read so is a `RowError` that names it, or, where asked for, a counted skip; never a wrong label.
"""

import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from datasets.features import Array2D, ClassLabel, LargeList, List, Value
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from tqdm.auto import tqdm

from . import synthetic
from .augmentation import IGNORED
from .files import write_whole
from .image_input import ImageError, open_image, read_label_map
from .vocabulary import Vocabulary

Dataset = datasets.Dataset | datasets.IterableDataset
Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
MaskValues = Literal["labels", "raw_ids"]
MaskCoding = Literal["integers", "ade20k-rgb"]

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
# Where prepared data sets (`benchmarks.py`) say what their label maps hold, as "ade20k-150/1": preset and version.
PROTOCOL_COLUMN = "protocol"
PREPARED_FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label_map": datasets.Image(),
        "name": Value("string"),
        PROTOCOL_COLUMN: Value("string"),
    }
)
DRAWN_WORLD = "drawn-world"

CARD_KEYS = ("class_names", "label_names", "id2label")
ID2LABEL_FILE = "id2label.json"


class RowError(ValueError):
    """A row that cannot be used: which one, what is wrong with it, and the remedy."""


# --- opening ----------------------------------------------------------------------------------------------------------


def open_dataset(
    name: str | os.PathLike,
    split: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    token: str | bool | None = None,
) -> Dataset:
    """Opens one split of whatever `datasets.load_dataset` opens, and of what `save_to_disk` saved.

    Args:
        name: A folder (parquet, `imagefolder`, `save_to_disk`), or the id of a data set on the Hub.
        split: Such as `"train"`, or a part of one, `"train[:100]"` (not while streaming).
        config_name: Which of several subsets.
        revision: Of a data set on the Hub.
        streaming: Reads rows as they are needed, without downloading or converting all of them first.
        token: For private data sets on the Hub; by default that of the last login.

    Raises:
        ValueError: It cannot be found or opened, or has no such split; says what there is.
    """
    name = os.fspath(name)
    folder = Path(name).expanduser()
    if not folder.exists() and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise ValueError(f"There is no data set {name!r} (now in {os.getcwd()!r}). Check the path, or give a Hub id.")
    try:
        if folder.is_dir() and any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.Dataset):
                saved = datasets.DatasetDict({str(saved.split or split): saved})
            dataset = _choose_split(saved, split, name)
            return dataset.to_iterable_dataset(max(1, len(dataset.cache_files))) if streaming else dataset
        return datasets.load_dataset(
            str(folder) if folder.is_dir() else name,
            config_name,
            split=split,
            revision=revision,
            streaming=streaming,
            token=token,
        )
    except Exception as error:  # the library has a dozen kinds for what is not there or not to be read
        reason = _reason(error)
        raise ValueError(
            f"The split {split!r} of the data set {name!r} cannot be opened: {reason} Expected a folder of parquet or "
            "images, one that save_to_disk wrote, or a Hub id, and one of its splits."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _choose_split(saved: datasets.DatasetDict, split: str, name: str) -> datasets.Dataset:
    base, bracket, part = split.partition("[")
    if base not in saved:
        raise ValueError(f"it has the splits {', '.join(saved)}.")
    dataset = saved[base]
    if not bracket:
        return dataset
    # the library's own reading of "[10%:20%]"
    instruction = datasets.ReadInstruction.from_spec(f"{base}{bracket}{part}")
    (absolute,) = instruction.to_absolute({base: len(dataset)})
    return dataset.select(range(absolute.from_ or 0, len(dataset) if absolute.to is None else absolute.to))


# --- class names ------------------------------------------------------------------------------------------------------


def find_vocabulary(
    dataset: Dataset | None,
    source: str | os.PathLike | Vocabulary | None = None,
    *,
    card: str | os.PathLike | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Vocabulary:
    """The class names of a data set.

    Args:
        dataset: Where its features may say them, by a `ClassLabel`, or its rows the preset they were prepared with.
        source: The name of a preset, or a vocabulary file; in place of what the data set says.
        card: A folder or Hub id: the data set's card may list the names (`class_names`, `label_names` or `id2label` in
            its header), or a file `id2label.json` beside it.
        revision, token: Of the card on the Hub.

    Raises:
        ValueError: There are none, or the source is none; says where was looked.
    """
    if isinstance(source, Vocabulary):
        return source
    if source is not None:
        source = os.fspath(source)
        if (preset := _preset(source)) is not None:
            return preset
        if Path(source).is_file():
            return Vocabulary.from_file(source)
        raise ValueError(
            f"There are no class names {source!r}: it is no file, and no preset of {', '.join(Vocabulary.presets())}, "
            f"{DRAWN_WORLD}. Check the path or the spelling."
        )
    if dataset is not None:
        if (prepared := _prepared_vocabulary(protocol_of(dataset))) is not None:
            return prepared
        if names := class_names_of(dataset):
            return Vocabulary(names, shared_synonyms=True)
    if card is not None and (names := _names_in_card(card, revision, token)):
        return Vocabulary(names, shared_synonyms=True)
    raise ValueError(
        "The data set does not say its class names: no ClassLabel, no names in its card. Name a preset "
        f"({', '.join(Vocabulary.presets())}), or write them into a file, one a line, and name that."
    )


def _preset(name: str) -> Vocabulary | None:
    if name == DRAWN_WORLD:
        return drawn_world_vocabulary()
    return Vocabulary.from_preset(name) if name in Vocabulary.presets() else None


def _prepared_vocabulary(protocol: str | None) -> Vocabulary | None:
    """The vocabulary of "ade20k-150/1"."""
    return None if protocol is None else _preset(protocol.rpartition("/")[0])


def class_names_of(dataset: Dataset) -> tuple[str, ...] | None:
    """The names of the data set's one `ClassLabel`, wherever it is in the features; `None` unless there is just one."""
    found = [names for _, feature in sorted((dataset.features or {}).items()) for names in _class_labels(feature)]
    return found[0] if len(set(found)) == 1 else None


def _class_labels(feature: Any) -> list[tuple[str, ...]]:
    if isinstance(feature, ClassLabel):
        return [tuple(feature.names)]
    if isinstance(feature, (List, LargeList)):
        return _class_labels(feature.feature)
    if isinstance(feature, dict):
        return [names for _, part in sorted(feature.items()) for names in _class_labels(part)]
    return []


def protocol_of(dataset: Dataset) -> str | None:
    """What a prepared data set says that its label maps hold, such as "ade20k-150/1"; `None` for any other."""
    if PROTOCOL_COLUMN not in (dataset.column_names or ()):
        return None
    row = next(iter(dataset.select_columns([PROTOCOL_COLUMN]).take(1)), None)
    value = None if row is None else row[PROTOCOL_COLUMN]
    return value if isinstance(value, str) else None


def _names_in_card(card: str | os.PathLike, revision: str | None, token: str | bool | None) -> list[str] | None:
    folder, name = Path(card).expanduser(), os.fspath(card)
    try:
        if folder.is_dir():
            readme, id2label = folder / "README.md", folder / ID2LABEL_FILE
            content = DatasetCard.load(readme).data.to_dict() if readme.is_file() else {}
            file = id2label if id2label.is_file() else None
        else:
            options = {"repo_type": "dataset", "revision": revision, "token": token}
            content, file = {}, None
            try:
                content = DatasetCard(Path(hf_hub_download(name, "README.md", **options)).read_text()).data.to_dict()
            except EntryNotFoundError:
                pass
            try:
                file = Path(hf_hub_download(name, ID2LABEL_FILE, **options))
            except EntryNotFoundError:
                pass
        listed = next((content[key] for key in CARD_KEYS if content.get(key)), None)
        if listed is None and file is not None:
            listed = json.loads(file.read_text(encoding="utf-8"))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError):
        return None
    except ValueError as error:
        raise ValueError(f"The card of the data set {name!r} cannot be read: {error}") from error
    if isinstance(listed, dict):
        try:
            by_label = {int(label): str(value) for label, value in listed.items()}
        except ValueError as error:
            raise ValueError(
                f"The card of {name!r} maps {list(listed)[:3]} to names; expected labels 0, 1, ..."
            ) from error
        if sorted(by_label) != list(range(len(by_label))):
            raise ValueError(
                f"The card of {name!r} names the labels {sorted(by_label)[:5]} ...; expected 0 to {len(by_label) - 1}. "
                "Write the names into a file and name that."
            )
        return [by_label[label] for label in range(len(by_label))]
    return listed


# --- columns ----------------------------------------------------------------------------------------------------------


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


# --- rows -------------------------------------------------------------------------------------------------------------


class RowReader:
    """Turns a row of a data set into pixels and labels, or refuses it. What both kinds of data set share.

    Args and errors: those of `SegmentationDataset`.
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
        if mask_values not in (None, "labels", "raw_ids"):
            raise ValueError(f'mask_values is {mask_values!r}; choose "labels" or "raw_ids".')
        if mask_coding not in ("integers", "ade20k-rgb"):
            raise ValueError(f'mask_coding is {mask_coding!r}; choose "integers" or "ade20k-rgb".')
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
        if (prepared := _prepared_vocabulary(self.protocol)) is not None:
            names, told = prepared.scored_names, f"it was prepared as {self.protocol}"
        elif _class_labels(feature := dataset.features[self.mask_column]):
            names, told = _class_labels(feature)[0], f"its column {self.mask_column!r} says"
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
            image = np.asarray(open_image(_decoded(row[self.image_column], "image")))
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


# --- data sets --------------------------------------------------------------------------------------------------------


class SegmentationDataset(torch.utils.data.Dataset):
    """Rows as `{"image": uint8 (H, W, 3), "labels": int64 (H, W), "index": int}`; ignored pixels are -1.

    What augmentation does to a row depends on seed, epoch and row alone, whatever process or worker reads it.

    Args:
        dataset: A `datasets.Dataset`.
        vocabulary: Which labels there are. Where it has `raw_ids`, masks hold those unless told otherwise.
        image_column, mask_column: Names of columns; found unless given.
        transform: Called as `transform(image, labels, rng)`; for example a `PairedTransform`.
        skip_bad: Takes the next good row in the place of one that cannot be read, and counts it (`num_skipped`).
        seed: Of the augmentation.
        mask_values: `"labels"` or `"raw_ids"`. By default raw ids if the vocabulary has them, but labels in data sets
            that `scripts/prepare_benchmark.py` wrote.
        mask_coding: `"ade20k-rgb"` for the colors of ADE20K's full annotation.

    Raises:
        ValueError: The columns are not found, or the data set is known to have another number of classes.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
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
        if not isinstance(dataset, datasets.Dataset):
            raise ValueError(
                f"{type(dataset).__name__} came; expected a datasets.Dataset of one split. Open it with open_dataset; "
                "streamed ones are for StreamedSegmentationDataset."
            )
        if len(dataset) == 0:
            raise ValueError("The data set has no rows. Choose another split.")
        self._reader = RowReader(dataset, vocabulary, image_column, mask_column, mask_values, mask_coding)
        self._rows = self._reader.prepare(dataset)
        self.transform, self.skip_bad, self.seed = transform, skip_bad, seed
        # shared with the processes of a data loader, persistent ones too
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._bad = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        self._fingerprint: str | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        return self._reader.vocabulary

    @property
    def columns(self) -> tuple[str, str]:
        """The names of the image column and the mask column."""
        return self._reader.image_column, self._reader.mask_column

    @property
    def protocol(self) -> str | None:
        """What a prepared data set was prepared as, such as "ade20k-150/1"."""
        return self._reader.protocol

    def __len__(self) -> int:
        return len(self._rows)

    def set_epoch(self, epoch: int) -> None:
        """Makes augmentation draw anew, in running workers too."""
        self._epoch.fill_(epoch)

    @property
    def num_skipped(self) -> int:
        """How many rows were found bad so far, by all workers of this process."""
        return int(self._bad.sum())

    def read(self, index: int) -> dict[str, Any]:
        """A row as it is, without augmentation or skips.

        Raises:
            RowError: It cannot be read; also counted in `num_skipped`.
        """
        try:
            image, labels = self._reader.read(self._rows[index], index)
        except RowError:
            self._bad[index] = True
            raise
        return {"image": image, "labels": labels, "index": index}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Row {index} of {len(self)}.")
        index = int(index) % len(self)
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                item = self.read(candidate)
                break
            except RowError:
                if not self.skip_bad:
                    raise
        else:
            raise RowError(f"None of the {len(self)} rows can be read. Check the columns and the vocabulary.")
        return _transformed(item, self.transform, (self.seed, int(self._epoch), index))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the stored images and masks, row by row: the same data, wherever it lies.

        Reads everything once (about a second a gigabyte, and what the disk takes): call it in one process.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            slow = len(self) > 5000
            for row in tqdm(self._rows, desc="Hashing the data", unit="row", disable=not slow):
                for value in row.values():
                    digest.update(_digest(value))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


@dataclass(frozen=True)
class StoredRow:
    """A row of a stream, not decoded.

    Attributes:
        index: Its number in the stream; of a stream in shards read one by one, its number in the shard times their
            number, plus that of the shard.
        name: What errors call it.
        values: What is stored.
    """

    index: int
    name: int | str
    values: dict[str, Any]


class StreamedSegmentationDataset(torch.utils.data.IterableDataset):
    """The same from a streamed data set: items in its order, the arguments and items of `SegmentationDataset`.

    `index` counts the rows of the stream (in training those of its shards, see `StoredRow`). Workers share the rows
    out between them; each reads the whole stream and decodes its part, so that a row has its number, and with it its
    augmentation, however many there are. Take few workers. There is no fingerprint: nobody has seen all of the data.
    """

    fingerprint = None

    def __init__(
        self,
        dataset: datasets.IterableDataset,
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
        if not isinstance(dataset, datasets.IterableDataset):
            raise ValueError(
                f"{type(dataset).__name__} came; expected a datasets.IterableDataset of one split. Open it with "
                "open_dataset(streaming=True), or use SegmentationDataset."
            )
        if dataset.features is None:
            try:
                dataset = dataset._resolve_features()  # reads the first rows; the library has no public name for it
            except Exception as error:
                raise ValueError(
                    f"The first rows of the stream cannot be read: {_reason(error)}. Look at its files, or say what "
                    "its columns hold (`dataset.cast(features)`)."
                ) from error
        self._reader = RowReader(dataset, vocabulary, image_column, mask_column, mask_values, mask_coding)
        self._rows = self._reader.prepare(dataset)
        self.transform, self.skip_bad, self.seed = transform, skip_bad, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._num_skipped = torch.zeros((), dtype=torch.int64).share_memory_()

    vocabulary = SegmentationDataset.vocabulary
    columns = SegmentationDataset.columns
    protocol = SegmentationDataset.protocol
    set_epoch = SegmentationDataset.set_epoch

    @property
    def num_skipped(self) -> int:
        """How often a row was skipped so far, by all workers of this process."""
        return int(self._num_skipped)

    def rows(
        self, first: int = 0, step: int = 1, without: Container[int] = ()
    ) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
        """Every `step`-th row from `first` on, without augmentation: its number, and its item or what is wrong with it.

        Args:
            first, step: Which rows.
            without: Numbers of rows that are left out, undecoded.
        """
        for row in self.stored_rows():
            if row.index % step != first or row.index in without:
                continue
            try:
                yield row.index, self._read(row)
            except RowError as error:
                yield row.index, error

    @property
    def num_shards(self) -> int:
        """How many files, as a rule, the stream is made of."""
        return self._rows.num_shards

    def stored_rows(self, shard: int | None = None) -> Iterator[StoredRow]:
        """All rows in the stream's order, or those of a shard; nothing is decoded."""
        num_shards, rows = self.num_shards, self._rows
        if shard is not None:
            rows = rows.shard(num_shards=num_shards, index=shard)
        # not iter(): in a worker of a data loader the library would share out shards, and numbers would be lost
        batches = rows.iter(batch_size=1)
        for number in itertools.count():
            try:
                batch = next(batches, None)
            except Exception as error:  # of files, of the network, of whatever was mapped over the stream
                where = number if shard is None else self.name_of(number * num_shards + shard)
                raise ValueError(
                    f"The stream cannot be read from row {where} on: {_reason(error)}. Look at its files and at the "
                    "connection; what was interrupted can be gone on with."
                ) from error
            if batch is None:
                return
            values = {key: column[0] for key, column in batch.items()}
            if shard is None:
                yield StoredRow(number, number, values)
            else:
                index = number * num_shards + shard
                yield StoredRow(index, self.name_of(index), values)

    def name_of(self, index: int) -> int | str:
        """What errors call the row of an item that was read shard by shard."""
        number, shard = divmod(index, self.num_shards)
        return index if self.num_shards == 1 else f"{number} of shard {shard}"

    def item(self, row: StoredRow) -> dict[str, Any]:
        """A row, augmented.

        Raises:
            RowError: It cannot be read; also counted in `num_skipped`.
        """
        try:
            item = self._read(row)
        except RowError:
            self._num_skipped += 1
            raise
        return _transformed(item, self.transform, (self.seed, int(self._epoch), row.index))

    def _read(self, row: StoredRow) -> dict[str, Any]:
        image, labels = self._reader.read(row.values, row.name)
        return {"image": image, "labels": labels, "index": row.index}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for row in self.stored_rows():
            if row.index % step != first:
                continue
            try:
                yield self.item(row)
            except RowError:
                if not self.skip_bad:
                    raise


def segmentation_dataset(
    dataset: Dataset, vocabulary: Vocabulary, **options: Any
) -> SegmentationDataset | StreamedSegmentationDataset:
    """The one of the two that the data set needs; arguments as for `SegmentationDataset`."""
    streamed = isinstance(dataset, datasets.IterableDataset)
    return (StreamedSegmentationDataset if streamed else SegmentationDataset)(dataset, vocabulary, **options)


def _transformed(item: dict[str, Any], transform: Transform | None, entropy: tuple[int, ...]) -> dict[str, Any]:
    if transform is None:
        return item
    image, labels = transform(item["image"], item["labels"], np.random.default_rng(entropy))
    return {**item, "image": image, "labels": labels}


def _digest(value: Any) -> bytes:
    if isinstance(value, dict):
        stored = value.get("bytes")
        if stored is None:
            stored = Path(value["path"]).read_bytes() if value.get("path") else b""
    elif value is None:
        stored = b""
    else:
        array = np.asarray(value)
        stored = str(array.shape).encode() + np.ascontiguousarray(array, np.int64).tobytes()
    return hashlib.sha256(stored).digest()


# --- the drawn world --------------------------------------------------------------------------------------------------


def drawn_world(
    num_scenes: int, split: str = "seen", first_seed: int = 0, size: int | tuple[int, int] = 96
) -> datasets.Dataset:
    """Scenes of the drawn world (`synthetic.py`) in the columns of a prepared benchmark, labels in `synthetic.NAMES`.

    Args:
        num_scenes: How many; the seeds are consecutive.
        split: `"seen"`, `"unseen"` or `"all"`: which names occur.
        first_seed: The seed of the first.
        size: Pixels, one number or (height, width).

    Raises:
        ValueError: No scenes, or what `synthetic.draw_scene` refuses.
    """
    if num_scenes < 1:
        raise ValueError(f"num_scenes is {num_scenes}; expected at least 1.")

    rows = {"image": [], "label_map": [], "name": [], PROTOCOL_COLUMN: [f"{DRAWN_WORLD}/1"] * num_scenes}
    for seed in range(first_seed, first_seed + num_scenes):
        scene = synthetic.draw_scene(seed, split, size)
        name = f"{split}-{seed}"
        rows["image"].append({"bytes": encode_png(scene.image), "path": f"{name}.png"})
        rows["label_map"].append({"bytes": encode_png(scene.labels.astype(np.uint8)), "path": f"{name}_labels.png"})
        rows["name"].append(name)
    return datasets.Dataset.from_dict(rows, features=PREPARED_FEATURES)


def drawn_world_vocabulary() -> Vocabulary:
    """The names of the drawn world in the order of its labels."""
    return Vocabulary(synthetic.NAMES)


def write_parquet(dataset: datasets.Dataset, folder: str | os.PathLike, split: str) -> Path:
    """Writes a split as `folder/data/<split>-00000-of-00001.parquet`, whole or not at all; `open_dataset` reads it.

    Raises:
        ValueError: The folder cannot be written.
    """
    path = Path(folder) / "data" / f"{split}-00000-of-00001.parquet"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{str(path.parent)!r} cannot be made: {error.strerror}. Choose another folder.") from error
    write_whole(path, to_parquet(dataset))
    return path


def to_parquet(dataset: datasets.Dataset) -> bytes:
    """The content of a parquet file, without the library's progress bar."""
    content, had_bars = io.BytesIO(), not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        dataset.to_parquet(content)
    finally:
        if had_bars:
            datasets.enable_progress_bars()
    return content.getvalue()


def encode_png(array: np.ndarray) -> bytes:
    """An image file of 8-bit RGB `(H, W, 3)`, or of labels, uint8 or uint16 `(H, W)`."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()
