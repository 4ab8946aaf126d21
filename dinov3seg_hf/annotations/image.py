# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""One labeled image, the options of an export, and the parts of a label map that become annotations.

A label map has no instances. Each part of a label, connected by the sides of its pixels, is an annotation of its own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..extras import require_extra
from ..model.checks import checked_flag, checked_integer, checked_path, is_number, quoted
from ..visualization.pictures import as_array, checked_label_map

ROUNDING = 1e-3  # how far a score can be outside of 0 to 1


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image and the label of each of its pixels.

    Args:
        file_name: The name of the image in annotations, relative, with "/" and an ending: `"street/0001.jpg"`.
        label_map: Integers `(H, W)` of the size of the upright image; negative values are none of the labels.
        score_map: `(H, W)`, stored as float32: the score of each pixel's label, between 0 and 1. `None`: annotations
            have no scores.
        source: The file of the image, or its HTTP(S) address. Formats that store images copy the file.
        image: The upright image, RGB, if there is no file or it has been read already.

    Raises:
        ValueError: If the name is not relative or has no ending, `label_map` is not a label map, scores are not between
            0 and 1, or a size differs.
    """

    file_name: str
    label_map: np.ndarray
    score_map: np.ndarray | None = None
    source: str | os.PathLike | None = None
    image: Image.Image | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.file_name, str) and self.file_name == ""):  # which has no ending, see below
            object.__setattr__(self, "file_name", checked_path(self.file_name, "The file name"))
        if self.source is not None:
            checked_path(self.source, f"The source of {self.file_name!r}")
        if self.image is not None and not isinstance(self.image, Image.Image):
            raise ValueError(
                f"The image of {self.file_name!r} is of type {type(self.image).__name__}; expected a PIL image. "
                "Convert it with Image.fromarray."
            )
        name = PurePosixPath(self.file_name)
        if name.is_absolute() or ".." in name.parts or "\\" in self.file_name or not name.suffix:
            raise ValueError(
                f"The file name is {quoted(self.file_name)}; expected a relative name with an ending, such as "
                "'street/0001.jpg'. Pass the name of the image below the folder of images."
            )
        object.__setattr__(self, "label_map", checked_label_map(self.label_map))
        if self.score_map is not None:
            object.__setattr__(self, "score_map", _checked_scores(self.score_map, self.file_name))
        sizes = {"score map": None if self.score_map is None else self.score_map.shape}
        sizes["image"] = None if self.image is None else self.image.size[::-1]
        for what, size in sizes.items():
            if size not in (None, self.label_map.shape):
                raise ValueError(
                    f"The {what} of {self.file_name!r} has the shape {size} and the label map {self.label_map.shape}; "
                    "expected the same height and width. Request the label map at the image's size."
                )

    @property
    def height(self) -> int:
        """The height in pixels."""
        return self.label_map.shape[0]

    @property
    def width(self) -> int:
        """The width in pixels."""
        return self.label_map.shape[1]

    @property
    def stem(self) -> str:
        """The file name without its ending."""
        return str(PurePosixPath(self.file_name).with_suffix(""))

    def pixels(self) -> Image.Image:
        """Returns the upright RGB image.

        Raises:
            ValueError: If there is neither an image nor a source, or the image has another size than the label map.
        """
        if self.image is None and self.source is None:
            raise ValueError(f"{self.file_name!r} has no pixels; expected an image or its source. Pass one of them.")
        from ..model.image_input import open_image  # imports torch

        image = self.image if self.image is not None else open_image(self.source)  # type: ignore[arg-type]  # not None
        if image.size[::-1] != self.label_map.shape:
            raise ValueError(
                f"The label map of {self.file_name!r} is {self.height} x {self.width} and the image is {image.height} "
                f"x {image.width} (height x width); expected the same size. Request the label map at the image's size."
            )
        return image.convert("RGB")


def _checked_scores(score_map: Any, file_name: str) -> np.ndarray:
    """Returns scores as float32, of any shape.

    Raises:
        ValueError: If they are not numbers between 0 and 1.
    """
    scores = as_array(score_map, f"The score map of {file_name!r}")
    if scores.dtype.kind not in "fiu":
        raise ValueError(
            f"The score map of {file_name!r} has dtype {scores.dtype}; expected float32, scores between 0 and 1. Pass "
            "the score map of a segmentation."
        )
    scores = scores.astype(np.float32, copy=False)
    low, high = (float(scores.min()), float(scores.max())) if scores.size else (0.0, 0.0)
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:  # NaN is not
        raise ValueError(
            f"The score map of {file_name!r} has values from {low:.4g} to {high:.4g}; expected scores between 0 and 1. "
            "Divide percentages by 100, and 8-bit values by 255."
        )
    return scores


@dataclass(frozen=True)
class ExportOptions:
    """What all formats have in common.

    Args:
        min_area: Smallest number of pixels of an annotation. Pixels of smaller parts have no label, also in masks.
        tolerance: Largest distance in pixels between an outline and its polygon. 0: all corners of all pixels.
        ignore_below: Score below which a pixel has no label; masks then contain the ignored value. Needs score maps.
        copy_images: Whether formats that need image files beside the annotations store them.
        image_prefix: Text before each file name in `coco`, `coco-panoptic`, `cvat` and `label-studio`, for example a
            folder or an address.
        overwrite: Whether files of an image that exist with another content are replaced. If not, they stay, and the
            image is an error: a person may have corrected them. One file for all images is always replaced; with
            `overwrite`, an interrupted run of it is left out.

    Raises:
        ValueError: If a value is out of range.
    """

    min_area: int = 0
    tolerance: float = 1.0
    ignore_below: float | None = None
    copy_images: bool = True
    image_prefix: str = ""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if checked_integer(self.min_area, "min_area") < 0:
            raise ValueError(f"min_area is {self.min_area}; expected a number of pixels of at least 0.")
        if not is_number(self.tolerance, 0):
            raise ValueError(f"tolerance is {quoted(self.tolerance)}; expected a distance in pixels of at least 0.")
        if self.ignore_below is not None and not is_number(self.ignore_below, 0, 1):
            raise ValueError(f"ignore_below is {quoted(self.ignore_below)}; expected a score between 0 and 1, or None.")
        checked_flag(self.copy_images, "copy_images")
        checked_flag(self.overwrite, "overwrite")
        if not isinstance(self.image_prefix, str):
            raise ValueError(f"image_prefix is {quoted(self.image_prefix)}; expected text, such as a folder.")


@dataclass(frozen=True, eq=False)
class Part:
    """The connected pixels of one label.

    Attributes:
        label: The number of the label.
        top, left: The place of the box in the image, in pixels.
        mask: bool `(h, w)`: the pixels inside of the box.
        area: The number of pixels.
        score: The mean score of the pixels; `None` if unknown.
    """

    label: int
    top: int
    left: int
    mask: np.ndarray
    area: int
    score: float | None

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) in pixels."""
        return self.left, self.top, self.mask.shape[1], self.mask.shape[0]

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the box."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def run_lengths(self, height: int, width: int, by_column: bool = False) -> list[int]:
        """Returns the lengths of runs outside and inside of the part by turns, over the whole image.

        Looks at the box only: an image can have thousands of parts.

        Args:
            height: The height of the image in pixels.
            width: The width of the image in pixels.
            by_column: Whether the pixels are in the order of columns, as in COCO, instead of rows.

        Returns:
            The lengths, which sum to `height * width`; the first one, possibly 0, is outside.
        """
        lines, stride, corner = self.mask, width, (self.top, self.left)
        if by_column:
            lines, stride, corner = self.mask.T, height, (self.left, self.top)
        steps = np.diff(np.pad(lines.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        line, start = np.nonzero(steps == 1)
        end = np.nonzero(steps == -1)[1]
        offset = (line + corner[0]) * stride + corner[1]
        # a run at the end of a line goes on at the beginning of the next line
        edges = np.stack([start + offset, end + offset], axis=1).ravel()
        goes_on = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * goes_on + 1, 2 * goes_on + 2]))
        lengths = np.diff(edges, prepend=0, append=height * width).tolist()
        return lengths if lengths[-1] else lengths[:-1]

    def full_mask(self, height: int, width: int) -> np.ndarray:
        """Returns the pixels of the part in the whole image, bool `(height, width)`."""
        mask = np.zeros((height, width), bool)
        mask[self.window] = self.mask
        return mask


class Cleaned:
    """An image with the options of an export applied: what the formats write.

    Args:
        image: The image.
        options: The options.
        num_labels: The number of labels.

    Raises:
        ValueError: If the label map has a label without a name, or scores are missing for `ignore_below`.
    """

    def __init__(self, image: AnnotatedImage, options: ExportOptions, num_labels: int):
        self.image, self.options = image, options
        labels = checked_label_map(image.label_map, num_labels)
        if options.ignore_below is not None:
            if image.score_map is None:
                raise ValueError(
                    f"{image.file_name!r} has no score map, which ignore_below needs. Pass a score_map, or None."
                )
            labels = np.where(image.score_map < options.ignore_below, np.int32(-1), labels)
        self._labels = labels

    @cached_property
    def label_map(self) -> np.ndarray:
        """int32 `(H, W)`; -1 for pixels of no label, of low scores and of small parts."""
        if self.options.min_area <= 1:
            return np.maximum(self._labels, -1)
        labels = np.full_like(self._labels, -1)
        for part in self.parts:
            labels[part.window][part.mask] = part.label
        return labels

    @cached_property
    def parts(self) -> list[Part]:
        """The parts, by label, from top to bottom."""
        require_extra("export", "scipy", what="The export of annotations")
        found = _parts_of(self._labels, self.image.score_map)
        return [part for part in found if part.area >= self.options.min_area]


def _parts_of(label_map: np.ndarray, score_map: np.ndarray | None) -> Iterator[Part]:
    from scipy import ndimage

    for label, place in enumerate(ndimage.find_objects(np.maximum(label_map, -1) + 1)):
        if place is None:
            continue
        rows, columns = place
        numbers, _ = ndimage.label(label_map[place] == label)  # neighbors by sides, not by corners
        for number, (y, x) in enumerate(ndimage.find_objects(numbers), start=1):
            mask = numbers[y, x] == number
            top, left = rows.start + y.start, columns.start + x.start
            score = None
            if score_map is not None:
                box = score_map[top : top + mask.shape[0], left : left + mask.shape[1]]
                score = round(float(box[mask].mean(dtype=np.float64)), 6)
            yield Part(label, top, left, mask, int(np.count_nonzero(mask)), score)


def source_path(image: AnnotatedImage) -> Path | None:
    """Returns the file of an image; `None` if it has no file."""
    source = image.source
    if source is None or str(source).startswith(("http://", "https://", "data:image/")):
        return None
    return Path(source)
