# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The form in which this package writes data sets: images and label maps as parquet, whole or not at all."""

import io
import os
from pathlib import Path

import datasets
import numpy as np
from datasets.features import Value
from PIL import Image

from ..model.files import write_atomically
from .presets import PROTOCOL_COLUMN

PREPARED_FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label_map": datasets.Image(),
        "name": Value("string"),
        PROTOCOL_COLUMN: Value("string"),
    }
)


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
    write_atomically(path, to_parquet(dataset))
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
