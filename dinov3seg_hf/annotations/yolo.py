# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`yolo`: the segmentation labels of YOLO, a text file for each image, beside the images.

`images/`, `labels/` and `data.yaml`. A line is a label and one polygon, relative to the size of the image. A polygon
has no holes, so there is a cut of zero width to each hole. Readers fill both sides of a line, so holes of one or two
pixels can be lost.
"""

import json

import numpy as np

from ..model.files import write_atomically
from .coco import ring_of
from .image import Cleaned
from .writer import FolderWriter


class YoloWriter(FolderWriter):
    """Writes `labels/<image>.txt`."""

    name = "yolo"
    needs = ("scipy", "shapely")
    stores_names = False
    files_folder, ending = "labels", ".txt"

    def _begin(self) -> None:
        super()._begin()
        # JSON strings are YAML strings
        names = "".join(f"  {label}: {json.dumps(name)}\n" for label, name in enumerate(self.labels))
        text = (
            "# Validation on the images of the training shows errors of the data, not how well a model will do.\n"
            "# Put other images into a folder of their own, and name it here.\n"
            f"train: images\nval: images\nnames:\n{names}"
        )
        write_atomically(self.path / "data.yaml", text.encode())

    def _add(self, cleaned: Cleaned) -> None:
        image = cleaned.image
        lines = []
        for part in cleaned.parts:
            points = ring_of(part, self.options.tolerance) / (image.width, image.height)
            numbers = " ".join(f"{number:.6f}" for number in np.clip(points, 0, 1).ravel())
            lines.append(f"{part.label} {numbers}\n")
        self.store_image(image)
        write_atomically(self.file_of(image), "".join(lines).encode())
