# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes data sets of images and label maps as parquet files. All writes are atomic."""

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
    """Writes a split atomically as `folder/data/<split>-00000-of-00001.parquet`; `open_dataset` opens the folder.

    Raises:
        ValueError: If the folder cannot be written.
    """
    path = Path(folder) / "data" / f"{split}-00000-of-00001.parquet"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Folder {str(path.parent)!r} cannot be created: {error.strerror}. Choose another folder."
        ) from error
    write_atomically(path, to_parquet(dataset))
    return path


def to_parquet(dataset: datasets.Dataset, batch_size: int | None = None) -> bytes:
    """Converts a data set to the content of a parquet file, without the progress bar of `datasets`.

    Args:
        dataset: The data set.
        batch_size: The rows of a row group. Default: that of `datasets`.
    """
    content, had_bars = io.BytesIO(), not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        dataset.to_parquet(content, batch_size=batch_size)
    finally:
        if had_bars:
            datasets.enable_progress_bars()
    return content.getvalue()


def encode_png(array: np.ndarray) -> bytes:
    """Encodes an image, uint8 RGB `(H, W, 3)`, or a label map, uint8 or uint16 `(H, W)`, as PNG."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()
