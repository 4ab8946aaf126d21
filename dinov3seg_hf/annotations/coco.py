# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`coco`: the object annotations of COCO, one JSON file for all images.

`segmentation` is a compressed run-length encoding, the exact pixels. Polygons of COCO have no holes, so they cannot be
exact; they are in the key `polygons`: one ring, with a cut of zero width to each hole. The id of a category is its
label plus 1, because readers take 0 for the background.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from .image import AnnotatedImage, Cleaned, Part
from .outlines import outline, single_ring
from .writer import FileWriter


class CocoWriter(FileWriter):
    """Writes `images`, `annotations` and `categories`."""

    name = "coco"
    needs = ("pycocotools", "scipy", "shapely")

    def _add(self, cleaned: Cleaned) -> None:
        image = cleaned.image
        annotations = [
            as_json(
                {
                    "category_id": part.label + 1,
                    "bbox": list(part.box),
                    "area": part.area,
                    "iscrowd": 0,
                    "segmentation": _run_lengths(part, image.height, image.width),
                    "polygons": [ring_of(part, self.options.tolerance).ravel().tolist()],
                    **({} if part.score is None else {"score": part.score}),
                }
            )
            for part in cleaned.parts
        ]
        self.spool("images", [as_json(image_record(image, self.options.image_prefix))])
        self.spool("annotations", annotations)

    def _finish(self) -> None:
        annotations = (
            with_ids(record, id=number, image_id=image_id)
            for number, (image_id, record) in enumerate(self.records("annotations"), start=1)
        )
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.labels)]
        write_coco(self, categories, annotations)


def write_coco(writer: FileWriter, categories: list[dict[str, Any]], annotations: Iterable[str]) -> None:
    """Writes a file of COCO from the records "images" and these annotations, one per line."""
    images = (with_ids(record, id=number) for number, record in writer.records("images"))
    head = '{"info": {"description": "written by dinov3seg_hf"}, "licenses": [], "categories": ' + as_json(categories)
    writer.write(head.encode(), b',\n"images": [\n', images, b'\n],\n"annotations": [\n', annotations, b"\n]}\n")


def image_record(image: AnnotatedImage, prefix: str) -> dict[str, Any]:
    """Returns the entry of an image without its id; the size is that of the upright image."""
    return {"file_name": prefix + image.file_name, "height": image.height, "width": image.width}


def with_ids(record: str, **ids: int) -> str:
    """Puts ids, which are known when all images are done, before the other keys of a record."""
    return f"{as_json(ids)[:-1]}, {record[1:]}"


def as_json(record: Any) -> str:
    """Returns a record as JSON, without escapes for non-ASCII characters."""
    return json.dumps(record, ensure_ascii=False)


def ring_of(part: Part, tolerance: float) -> np.ndarray:
    """Returns the outline of a part as one ring, float64 `(N, 2)`, (x, y) in pixels of the image."""
    return np.round(single_ring(outline(part.mask, tolerance)) + np.array([part.left, part.top]), 3)


def _run_lengths(part: Part, height: int, width: int) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    runs = {"size": [height, width], "counts": part.run_lengths(height, width, by_column=True)}
    # compresses the lengths
    counts = coco_mask.frPyObjects(runs, height, width)["counts"]  # type: ignore[call-overload]  # missing in its types
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode("ascii")}
