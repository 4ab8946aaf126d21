# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What the rows of a data set store in place of images: encoded bytes, paths, addresses; and which of them may be read.

Decodes nothing: the readers of `model/image_input.py` get what is stored, and check it before they decode it.
"""

import os
import weakref
from pathlib import Path
from typing import Any, TypeVar

import datasets
from datasets.utils.file_utils import is_local_path, xopen
from huggingface_hub import constants

from ..model.checks import plain_reason
from ..model.image_input import MAX_DOWNLOAD_BYTES, ImageError
from .columns import Dataset

SomeDataset = TypeVar("SomeDataset", bound=Dataset)

# Where rows of a data set on the Hub may refer to, beside what was downloaded: the Hub and the web, and the kinds of
# archives that a stream reads there. Others, as s3, would be read with the rights of the user, and file is a path.
WEB = ("hf", "http", "https")
ARCHIVES = ("zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd")

# The data sets that `open_dataset` got from the Hub. A data set that a user has changed is the user's own.
_FROM_HUB: "weakref.WeakSet[Any]" = weakref.WeakSet()


def mark_as_of_hub(dataset: SomeDataset) -> SomeDataset:
    """Notes that the rows were written by others; readers refuse rows that refer to other files of the machine."""
    _FROM_HUB.add(dataset)
    return dataset


def is_of_hub(dataset: Dataset) -> bool:
    """Returns whether `open_dataset` got this very data set from the Hub; one that was made of it does not count."""
    return dataset in _FROM_HUB


def first_rows(dataset: SomeDataset, number: int) -> SomeDataset:
    """Returns the first rows of a data set; they are still of the Hub if the data set is."""
    rows: SomeDataset = dataset.take(number)
    return mark_as_of_hub(rows) if is_of_hub(dataset) else rows


def is_stored_image(value: Any) -> bool:
    """Returns whether a value of a row is an image that is not decoded."""
    return isinstance(value, dict) and set(value) == {"bytes", "path"}


def source_of(value: Any, what: str, of_hub: bool = False) -> Any:
    """Returns the bytes or the path of a stored image; any other value unchanged. Reads addresses, as `datasets` does.

    Args:
        value: The stored value.
        what: What it is, for errors: `"image"` or `"mask"`.
        of_hub: Whether the row comes from the Hub, so that it may refer only to what was downloaded, and to the web.

    Raises:
        ValueError: If there is no value, the row may not refer to the file, or the address cannot be read.
    """
    if value is None:
        raise ValueError(f"the {what} is None; expected an image or an array.")
    is_stored = is_stored_image(value)
    if is_stored and isinstance(value["bytes"], (bytes, bytearray)):
        return value["bytes"]
    path = value["path"] if is_stored else value
    if is_stored and not (path and isinstance(path, str)):
        raise ImageError(f"the {what} has neither bytes nor a path; expected one of them. Store the {what} in the row.")
    if of_hub and isinstance(path, str) and not is_harmless(path):
        raise ImageError(
            f"the {what} of a data set from the Hub is {path!r}, outside of what was downloaded; expected a file of "
            "the data set. It would be a file of yours, chosen by others. If it should be read, open the file in a "
            "function of your own (`dataset.map`)."
        )
    if not is_stored:
        return value
    return Path(path) if is_local_path(path) else _read_address(path, what)


def name_of(source: Any, what: str) -> str:
    """What errors call an image that `source_of` returned."""
    return f"the {what} {str(source)!r}" if isinstance(source, Path) else f"the {what}"


def is_harmless(path: str) -> bool:
    """Returns whether a path or an address of a row from the Hub is of the Hub, the web or the caches of both.

    In an address of an archive, `zip://a.png::hf://...`, each part is checked.
    """
    if path.startswith("data:image/"):
        return True
    *archives, last = path.split("::")
    schemes = [place.partition("://")[0] if "://" in place else None for place in archives]
    if not all(scheme in ARCHIVES for scheme in schemes):
        return False
    if not is_local_path(last):
        return "://" in last and last.partition("://")[0] in WEB
    config = datasets.config
    caches = (
        *(config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH),
        constants.HF_HUB_CACHE,
    )
    place = Path(os.path.realpath(last))  # links and `..` lead anywhere
    return any(place.is_relative_to(os.path.realpath(cache)) for cache in caches)


def _read_address(path: str, what: str) -> bytes:
    """Reads an address, also of a file in an archive, as `datasets.Image` does; not more than `MAX_DOWNLOAD_BYTES`."""
    content = bytearray()
    try:
        with xopen(path, "rb", download_config=datasets.DownloadConfig()) as file:
            # some files give less than was asked for
            while len(content) <= MAX_DOWNLOAD_BYTES and (part := file.read(MAX_DOWNLOAD_BYTES + 1 - len(content))):
                content += part
    except Exception as error:  # of the network, of archives, of files
        raise ImageError(
            f"the {what} {path!r} cannot be read ({plain_reason(error)}). Check the address and the connection."
        ) from error
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise ImageError(
            f"the {what} {path!r} exceeds the limit of {MAX_DOWNLOAD_BYTES // 2**20} MiB for downloads. Store it in a "
            "smaller file."
        )
    return bytes(content)
