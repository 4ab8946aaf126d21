# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`labelme`: a JSON file of LabelMe for each image, in the same folder as the image.

`labels.txt` lists the labels, one per line, for `labelme --labels`. A part without holes is a polygon, which a person
can edit. A part with holes is a mask, because a polygon has none.
"""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ..model.files import write_atomically
from ..visualization.files import json_bytes
from .image import Cleaned, Part, source_path
from .outlines import outline
from .writer import FolderWriter, as_png

# the version of the file format, in which masks were introduced
VERSION = "5.3.0"


class LabelmeWriter(FolderWriter):
    """Writes `<image>.json` beside the image."""

    name = "labelme"
    needs = ("scipy", "shapely")
    images_folder: ClassVar[str | None] = None
    ending = ".json"
    # readers take every JSON of the folder for an annotation
    labels_file = "labels.txt"

    def _has_same_labels(self, file: Path) -> bool:
        return tuple(file.read_text(encoding="utf-8").splitlines()) == self.labels

    def _save_labels(self) -> None:
        if self._may_write(file := self.path / self.labels_file):
            write_atomically(file, "".join(f"{name}\n" for name in self.labels).encode())

    @property
    def picture_folder(self) -> Path | None:
        """The folder itself, if images are copied; JSON may lie among the images."""
        return self.path if self.options.copy_images else None

    def _contents(self, cleaned: Cleaned) -> Sequence[tuple[Path, bytes]]:
        image = cleaned.image
        file = self.file_of(image)
        copied = self.stored_image(image)
        stored = source_path(image) if copied is None else copied[0]
        # a file of LabelMe names its image relative to itself
        path = image.file_name if stored is None else Path(os.path.relpath(stored, file.parent)).as_posix()
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": [self._shape(part) for part in cleaned.parts],
            "imagePath": path,
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        return [*self.new_image(image), (file, json_bytes(content))]

    def _shape(self, part: Part) -> dict[str, Any]:
        shape: dict[str, Any] = {
            "label": self.labels[part.label],
            "group_id": None,
            "description": "" if part.score is None else f"score {part.score:.4f}",
            "flags": {},
        }
        polygon = outline(part.mask, self.options.tolerance)
        if not polygon.interiors:
            points = np.asarray(polygon.exterior.coords)[:-1] + np.array([part.left, part.top])
            return {**shape, "shape_type": "polygon", "points": np.round(points, 3).tolist(), "mask": None}
        left, top, width, height = part.box
        return {
            **shape,
            "shape_type": "mask",
            # the centers of the first and the last pixel: both belong to the mask
            "points": [[left, top], [left + width - 1, top + height - 1]],
            "mask": base64.b64encode(as_png(Image.fromarray(part.mask))).decode("ascii"),
        }
