# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Opens the writer of a format, and writes labeled images with it."""

import importlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ..extras import require_extra
from ..model.checks import checked_choice, checked_path
from ..model.vocabulary import Vocabulary, as_vocabulary
from .formats import FORMATS
from .image import AnnotatedImage, ExportOptions
from .writer import AnnotationWriter


def open_writer(
    format: str,
    path: str | os.PathLike,
    labels: Sequence[str] | Vocabulary,
    options: ExportOptions | None = None,
) -> AnnotationWriter:
    """Opens a writer, which gets one image after the other; see `export_annotations`.

    Usage: `with open_writer("coco", "coco.json", names) as writer: writer.add(image)`.

    Args:
        format: One of `FORMATS`.
        path: The file or folder to write. Nothing is written before the first image.
        labels: The class names, in the order of the labels, or their vocabulary.
        options: The options.

    Raises:
        ValueError: If the format is unknown, a label is invalid, the path cannot be written, or a library is missing.
    """
    module, name = FORMATS[checked_choice(format, "format", tuple(FORMATS))]
    path = checked_path(path, "The path of the annotations")
    vocabulary = as_vocabulary(labels)
    if format == "parquet":  # its module needs the library when it is imported
        require_extra("export", "datasets", what="The format parquet")
    writer: type[AnnotationWriter] = getattr(importlib.import_module(f".{module}", __package__), name)
    return writer(path, vocabulary, options)


def export_annotations(
    images: Iterable[AnnotatedImage],
    labels: Sequence[str] | Vocabulary,
    path: str | os.PathLike,
    format: str = "coco",
    **options: Any,
) -> int:
    """Writes labeled images in the format of an annotation tool or of a training library.

    Images are read and written one by one. A label map has no instances: each part of a label that is connected by the
    sides of its pixels is an annotation of its own, with the mean score of its pixels.

    | format | path | content |
    |---|---|---|
    | `"png"` | folder | `images/`, `masks/` (label numbers, 255 or 65535 ignored), `labels.json`; training reads it |
    | `"coco"` | `.json` | boxes (x, y, width, height), run lengths (exact), polygons (key `polygons`), categories |
    | `"coco-panoptic"` | `.json` | segments, and a folder of PNGs of the same name |
    | `"yolo"` | folder | `images/`, `labels/` (polygons), `data.yaml` |
    | `"labelme"` | folder | images with `.json` beside them: polygons, or masks where there are holes |
    | `"cvat"` | `.xml` | CVAT for images 1.1, masks (exact) |
    | `"label-studio"` | `.json` | tasks with predictions, brush masks (exact); the labeling configuration beside it |
    | `"cutouts"` | folder | each part as RGBA picture, transparent around it, and `cutouts.json` |
    | `"scores"` | folder | the score of each pixel, 16-bit PNG |
    | `"parquet"` | folder | columns image, mask, classes (`ClassLabel`); training reads it |
    | `"geotiff"` | folder | label maps at the place of their images (extra `geo`) |
    | `"geopackage"` | `.gpkg` | polygons in the reference system of the images (extra `geo`) |

    Example:

    ```python
    >>> result = pipe("scene.png", names, return_label_map=True)
    >>> image = AnnotatedImage("scene.png", result["label_map"], result["score_map"], source="scene.png")
    >>> export_annotations([image], names, "coco.json", "coco", min_area=20)
    1
    ```

    Args:
        images: The images with their label maps, int32 `(H, W)`, and score maps, float32 `(H, W)`; a generator is read
            once. Names must differ, also without their endings.
        labels: The class names, in the order of the labels, or their vocabulary.
        path: The file or folder to write. One file for all images is replaced when all images are done. In a folder,
            files that exist are not replaced, unless `overwrite` is set.
        format: The format; see above.
        **options: See `ExportOptions`: `min_area` (pixels, default 0), `tolerance` of polygons (pixels, default 1),
            `ignore_below` (score from 0 to 1, default none), `copy_images` (default `True`), `image_prefix`,
            `overwrite` (default `False`).

    Returns:
        The number of images.

    Raises:
        ValueError: If an argument is invalid, an image cannot be used, the path cannot be written, or a library is
            missing (the message names the extra). One file for all images is then not written. Also if a file of an
            image exists with another content, and `overwrite` is not set: the files of the images before are written.
        TypeError: If an option is unknown.
    """
    with open_writer(format, path, labels, ExportOptions(**options)) as writer:
        for image in images:
            writer.add(image)
    return writer.num_images
