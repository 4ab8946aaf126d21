# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Segmentation as a stage of Ray Data: a class for `ray.data.Dataset.map_batches`. Needs the extra `ray`.

Ray starts one object per worker, restarts a worker that died, and repeats its batches. The module itself does not
import Ray.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .about import EMBEDDED
from .batches import IMAGE_ERRORS, segment_each
from .loading import load_pipeline
from .model.checks import quoted
from .model.image_stages import EncodedImage, PreparedImage
from .model.inference_settings import InferenceSettings, checked_settings
from .model.vocabulary import Vocabulary, as_vocabulary
from .visualization.files import mask_as_png


class Segmenter:
    """Adds to each row of a batch the label map of its image.

    Example:

    ```python
    >>> import ray
    >>> from dinov3seg_hf.ray import Segmenter

    >>> images = ray.data.read_images("photos")
    >>> labeled = images.map_batches(
    ...     Segmenter,
    ...     fn_constructor_kwargs={"labels": ["cat", "dog", "grass"]},
    ...     compute=ray.data.ActorPoolStrategy(size=2),
    ...     batch_size=8,
    ... )  # on GPUs also num_gpus=1
    >>> labeled.write_parquet("labeled")
    ```

    Args:
        labels: The class names, in the order of the labels, or their vocabulary.
        model: Folder or Hub id.
        image_column: The column of images: arrays `(H, W, 3)`, as `read_images` gives, bytes of image files, or paths.
        settings: The inference settings. Default: those of the checkpoint.
        device: Device of the model. Default: an accelerator if available, else the CPU.
        dtype: Dtype of the weights. Default: float32 on the CPU, else the dtype of the checkpoint.

    Raises:
        ValueError: If the model cannot be loaded, or a label is invalid.
    """

    def __init__(
        self,
        labels: Sequence[str] | Vocabulary,
        model: str | os.PathLike = EMBEDDED,
        *,
        image_column: str = "image",
        settings: InferenceSettings | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ):
        if not isinstance(image_column, str):
            raise ValueError(f"image_column is {quoted(image_column)}; expected the name of a column. Pass its name.")
        self._pipe = load_pipeline(model, device, dtype)
        self._column = image_column
        settings = checked_settings(settings, InferenceSettings())
        self._settings = settings.resolved(self._pipe.model.config, self._pipe.image_processor)
        self._text = self._pipe.encode_labels(as_vocabulary(labels))
        self._pipe.check_calibration(self._text, self._settings)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Segments the images of a batch; those of one size together.

        Args:
            batch: The columns, each `(B, ...)` (`batch_format="numpy"`, the default of Ray).

        Returns:
            The columns, and `mask`: the label map as the bytes of a PNG (see `save_mask`), empty if the image cannot be
            segmented; `error`: the reason, else empty.

        Raises:
            ValueError: If there is no image column, or a column would be replaced.
        """
        if not isinstance(batch, Mapping) or self._column not in batch:
            found = ", ".join(batch) if isinstance(batch, Mapping) else type(batch).__name__
            raise ValueError(
                f"The batch has no column {self._column!r} of images; expected one of its columns: {found}. Pass "
                'image_column, and leave batch_format at "numpy".'
            )
        if taken := [name for name in ("mask", "error") if name in batch]:
            raise ValueError(
                f"The batch has a column {taken[0]!r}, which the result would replace. Rename it "
                "(`dataset.rename_columns`), or leave it out (`dataset.drop_columns`)."
            )
        images = batch[self._column]
        if not isinstance(images, (np.ndarray, list, tuple)) or getattr(images, "ndim", 1) == 0:
            raise ValueError(
                f"The column {self._column!r} is of type {type(images).__name__}; expected an array with an image for "
                'each row. Leave batch_format at "numpy".'
            )
        prepared: dict[int, PreparedImage | EncodedImage] = {}
        masks, errors = [b""] * len(images), [""] * len(images)
        for index, image in enumerate(images):
            try:
                prepared[index] = self._pipe.prepare(_as_image(image), self._settings)
            except IMAGE_ERRORS as error:
                errors[index] = str(error)
        answers = segment_each(self._pipe, list(prepared.values()), self._text, self._settings)
        for index, answer in zip(prepared, answers):
            if isinstance(answer, Exception):
                errors[index] = str(answer)
            else:
                masks[index] = mask_as_png(answer.label_map, len(self._text))
        return {**batch, "mask": np.array(masks, dtype=object), "error": np.array(errors, dtype=object)}


def _as_image(value: Any) -> Any:
    """Returns scalars of numpy as the strings and bytes that they hold."""
    return value.item() if isinstance(value, (np.str_, np.bytes_)) else value
