# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The results of a pipeline: of one image, and of a list, a data set or a generator, one after the other.

Results are lists and dictionaries that show themselves as a picture in a notebook. What draws the picture is set by the
package on its import; the code on the Hub draws nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .checks import checked_integer
from .image_stages import LabeledImage
from .workers import end_with_parent


class ShownInNotebooks:
    """A result with the image that it is of, if the image is known."""

    # from a result to HTML; `None` for a result without masks
    to_html: ClassVar[Callable[[Any], str | None] | None] = None
    image: Any = None

    def _repr_html_(self) -> str | None:
        return None if ShownInNotebooks.to_html is None else ShownInNotebooks.to_html(self)


class Segments(list[dict[str, Any]], ShownInNotebooks):
    """The segments of an image: dictionaries with `score`, `label` and `mask`."""


class Segmentation(dict[str, Any], ShownInNotebooks):
    """The segments of an image with its dense label map."""


Result = TypeVar("Result")


def with_image(result: Result, image: Any) -> Result:
    """Returns a result that knows its image, which the caller holds anyway."""
    if isinstance(result, ShownInNotebooks):
        result.image = image
    return result


def result_of(labeled: LabeledImage, return_label_map: bool, return_masks: bool) -> Segments | Segmentation:
    """Returns the labels found in an image, in the format of transformers; see the pipeline."""
    label_map, labels = labeled.label_map, labeled.names
    segments = Segments()
    for index, score in labeled.mean_scores(len(labels)).items():
        segment: dict[str, Any] = {"score": score, "label": labels[index]}
        if return_masks:
            segment["mask"] = Image.fromarray((label_map == index).view(np.uint8) * np.uint8(255))
        segments.append(segment)
    if not return_label_map and labeled.scores is None:
        return segments
    result = Segmentation(segments=segments, labels=list(labels), label_map=label_map, score_map=labeled.score_map)
    if labeled.scores is not None:
        result["scores"] = labeled.scores
    return result


class Segmenter(Protocol):
    """The methods of a pipeline that `SegmentationResults` calls."""

    @property
    def preprocess(self) -> Callable[..., Any]: ...

    @property
    def forward(self) -> Callable[..., Any]: ...

    @property
    def postprocess(self) -> Callable[..., Any]: ...


class SegmentationResults:
    """The results of many images, computed while they are read. Has a length if the images have a length.

    Args:
        pipe: Pipeline that prepares images, computes batches (lists, because images of a batch may have different
            sizes) and makes results.
        images: A list, a data set, or a generator, which is read once.
        batch_size: Number of images per batch.
        num_workers: Number of processes that read images; at most one for a generator, because each process would read
            all images.
        preprocess_params, forward_params, postprocess_params: Arguments of the steps of the pipeline.
    """

    def __init__(
        self,
        pipe: Segmenter,
        images: Any,
        batch_size: int,
        num_workers: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ):
        checked_integer(batch_size, "batch_size", least=1)
        checked_integer(num_workers, "num_workers", least=0)
        self._pipe = pipe
        self._forward_params, self._postprocess_params = forward_params, postprocess_params
        is_sized = isinstance(images, Sized)
        self._prepared: _Images | _ImageStream = (_Images if is_sized else _ImageStream)(
            images, pipe.preprocess, preprocess_params
        )
        self._loader: DataLoader[Any] = DataLoader(
            self._prepared,
            batch_size=batch_size,
            num_workers=num_workers if is_sized else min(num_workers, 1),
            collate_fn=list,
            worker_init_fn=end_with_parent,
        )

    def __len__(self) -> int:
        if not isinstance(self._prepared, Sized):
            raise TypeError(f"object of type {type(self).__name__!r} has no len(), because its images have no len()")
        return len(self._prepared)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            for labeled in self._pipe.forward(batch, **self._forward_params):
                yield self._pipe.postprocess(labeled, **self._postprocess_params)


class _Images(Dataset[Any]):
    """Images that can be indexed, each prepared when it is read."""

    def __init__(self, images: Any, prepare: Any, params: dict[str, Any]):
        self._images, self._prepare, self._params = images, prepare, params

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        return self._prepare(self._images[index], **self._params)


class _ImageStream(IterableDataset[Any]):
    """Images that can be read only once, each prepared when it is read."""

    def __init__(self, images: Iterable[Any], prepare: Any, params: dict[str, Any]):
        self._images, self._prepare, self._params = images, prepare, params

    def __iter__(self) -> Iterator[Any]:
        for image in self._images:
            yield self._prepare(image, **self._params)
