# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Makes batches from rows of a data set, for `transformers.Trainer` and loops like those of transformers' examples.

A batch has images, label maps and, if wanted, one vocabulary: class names belong to the batch and not to its images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..model.checks import items_of, quoted
from ..model.loss import IGNORED
from ..model.vocabulary import Vocabulary, as_vocabulary
from .columns import IMAGE_COLUMNS, MASK_COLUMNS


class Dinov3SegDataCollator:
    """The collator of images and masks.

    Example:

    ```python
    >>> model.set_vocabulary(vocabulary, processor)
    >>> trainer = Trainer(
    ...     model,
    ...     TrainingArguments("runs/mine", remove_unused_columns=False),
    ...     train_dataset=dataset,
    ...     data_collator=Dinov3SegDataCollator(processor),
    ... )
    ```

    Args:
        processor: The processor of the model, or its image processor alone.
        vocabulary: The classes of the masks, in any form that `model.set_vocabulary` takes except embeddings; each
            batch gets their `input_ids` and `attention_mask`. With `raw_ids`, the masks contain raw ids, and other
            values are ignored. Default: the classes are the default vocabulary of the model, which is faster if the
            text tower is frozen.
        image_column: The key of the image in a row. Default: a usual name, such as "image".
        mask_column: The key of the mask in a row. Default: a usual name, such as "label" or "annotation".
        **options: Options of the image processor, such as `size={"height": 512, "width": 512}` and `do_reduce_labels`.
            Windows are off by default (`do_windows`).

    Raises:
        ValueError: If the vocabulary is invalid, or needs a tokenizer that is missing.
    """

    def __init__(
        self,
        processor: Any,
        vocabulary: Vocabulary | str | Sequence[str] | None = None,
        *,
        image_column: str | None = None,
        mask_column: str | None = None,
        **options: Any,
    ):
        self.image_processor = getattr(processor, "image_processor", processor)
        if not callable(self.image_processor):
            raise ValueError(
                f"The processor is {quoted(processor)}; expected a processor or an image processor. Pass "
                "AutoProcessor.from_pretrained(...)."
            )
        for name, column in (("image_column", image_column), ("mask_column", mask_column)):
            if column is not None and not isinstance(column, str):
                raise ValueError(f"{name} is {quoted(column)}; expected the key of a row. Pass its name.")
        self.image_column, self.mask_column = image_column, mask_column
        self.options = {"do_windows": False, "return_tensors": "pt", **options}
        self.vocabulary, self._text = None, {}
        if vocabulary is not None:
            if getattr(processor, "tokenizer", None) is None:
                raise ValueError(
                    f"The processor is a {type(processor).__name__}, which has no tokenizer; class names need one. "
                    "Pass AutoProcessor.from_pretrained(...), or set the classes with model.set_vocabulary."
                )
            self.vocabulary = as_vocabulary(vocabulary)
            self._text = dict(processor(text=self.vocabulary.prompts()))  # (C, P, L)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes a batch of rows.

        Args:
            rows: Mappings with an image and a mask each (PIL, numpy, torch or path), or with prepared `pixel_values`
                `(3, H, W)` and `labels` `(H, W)`. A row without a mask is possible if no row has one.

        Returns:
            `pixel_values`, float32 `(B, 3, H, W)`; with masks, `labels`, int64 `(B, H, W)`; and with a vocabulary
            `input_ids` and `attention_mask`, int64 `(C, P, L)`.

        Raises:
            ValueError: If a column is missing, an image cannot be read, or images or masks do not match.
        """
        rows = _checked_rows(rows)
        if self.image_column is None and all(isinstance(row.get("pixel_values"), torch.Tensor) for row in rows):
            batch = {"pixel_values": _stacked([row["pixel_values"] for row in rows], "pixel_values")}
            if any(row.get("labels") is not None for row in rows):
                batch["labels"] = _stacked([_labels_of(row) for row in rows], "labels")
                if batch["labels"].shape[-2:] != batch["pixel_values"].shape[-2:]:
                    raise ValueError(
                        f"The labels of a row are of shape {tuple(batch['labels'].shape[1:])} and its pixel_values of "
                        f"{tuple(batch['pixel_values'].shape[1:])}; expected the same height and width. Prepare both "
                        "with the same size."
                    )
        else:
            has_masks = self.mask_column is not None or any(name in row for row in rows for name in MASK_COLUMNS)
            images = [row[self._column(row, self.image_column, IMAGE_COLUMNS, "image")] for row in rows]
            masks = [row[self._column(row, self.mask_column, MASK_COLUMNS, "mask")] for row in rows if has_masks]
            batch = dict(self.image_processor(images, masks or None, **self.options))
            if len(batch["pixel_values"]) != len(rows):  # a row with a list of images
                raise ValueError(
                    f"Got {len(batch['pixel_values'])} images for {len(rows)} rows; expected one image per row. Split "
                    "rows with several images."
                )
        if self.vocabulary is not None and "labels" in batch:
            labels = batch["labels"]
            if self.vocabulary.raw_ids is not None:
                labels = torch.from_numpy(self.vocabulary.labels_from_raw(labels.numpy())).long()
            # other values stay: negative ones have a meaning, and the loss refuses those of no class
            batch["labels"] = labels.masked_fill(labels == self.vocabulary.ignore_label, IGNORED)
        return {**batch, **self._text}

    @staticmethod
    def _column(row: Mapping[str, Any], wanted: str | None, usual: Sequence[str], kind: str) -> str:
        name = next((name for name in usual if name in row), None) if wanted is None else wanted
        if name is None or name not in row:
            raise ValueError(
                f"A row has the keys {', '.join(map(repr, row)) or 'none'}; expected "
                f"{'an ' if kind == 'image' else 'a '}{kind}{'' if wanted is None else f' in {wanted!r}'}. Pass "
                f"{kind}_column, and remove_unused_columns=False to TrainingArguments, which removes it otherwise."
            )
        return name


def _checked_rows(rows: Any) -> list[Mapping[str, Any]]:
    listed = items_of(rows) or []
    if not listed or not all(isinstance(row, Mapping) for row in listed):
        wrong = next((row for row in listed if not isinstance(row, Mapping)), None)
        found = f"a row of type {type(wrong).__name__}" if listed else f"no rows, but {type(rows).__name__}"
        raise ValueError(
            f"Got {found}; expected a list of at least one row, each a mapping with an image. Pass rows of a data set."
        )
    return listed


def _labels_of(row: Mapping[str, Any]) -> torch.Tensor:
    labels = row.get("labels")
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        given = torch.zeros(())
    if given.ndim != 2 or given.is_floating_point() or given.is_complex():
        raise ValueError(
            f"The labels of a row are {quoted(labels)}; expected integers (H, W) in every row, or in none. Pass the "
            "label map of each image."
        )
    return given.long()


def _stacked(tensors: Sequence[torch.Tensor], what: str) -> torch.Tensor:
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise ValueError(
            f"The {what} of the rows have the shapes {', '.join(map(str, shapes))}; expected one. Prepare all images "
            "with the same size."
        )
    return torch.stack(list(tensors))


__all__ = ["Dinov3SegDataCollator"]
