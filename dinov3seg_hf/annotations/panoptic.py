# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`coco-panoptic`: the panoptic annotations of COCO, one JSON file and a folder of PNGs of the same name beside it.

The color of a pixel is the id of its segment, R + 256 G + 65536 B; 0 is no label. Each part of a label is a segment, so
all categories are things.
"""

import os
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ..model.vocabulary import Vocabulary
from ..visualization.colors import label_palette
from ..visualization.files import save_image
from .coco import as_json, image_record, with_ids, write_coco
from .image import Cleaned, ExportOptions
from .writer import FileWriter


class PanopticWriter(FileWriter):
    """Writes `images`, `annotations`, `categories` and one PNG per image."""

    name = "coco-panoptic"

    def __init__(self, path: str | os.PathLike, vocabulary: Vocabulary, options: ExportOptions | None = None):
        super().__init__(path, vocabulary, options)
        self.folder = self.path.with_suffix("")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                f"{str(self.folder)!r} is a file; expected a folder for the PNGs of {str(self.path)!r}, or nothing. "
                "Choose another name."
            )

    @property
    def picture_folder(self) -> Path | None:
        """The folder of PNGs."""
        return self.folder

    def _png_of(self, file_name: str) -> Path:
        return self.folder / PurePosixPath(file_name).with_suffix(".png")

    def _is_there(self, file_name: str) -> bool:
        return self._png_of(file_name).is_file()

    def _add(self, cleaned: Cleaned) -> None:
        image = cleaned.image
        ids = np.zeros((image.height, image.width), np.uint32)
        segments = []
        for number, part in enumerate(cleaned.parts, start=1):
            ids[part.window][part.mask] = number
            segments.append(
                {
                    "id": number,
                    "category_id": part.label + 1,
                    "area": part.area,
                    "bbox": list(part.box),
                    "iscrowd": 0,
                    **({} if part.score is None else {"score": part.score}),
                }
            )
        png = self._png_of(image.file_name)
        png.parent.mkdir(parents=True, exist_ok=True)
        colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
        save_image(png, Image.fromarray(colors))
        record = {
            "file_name": png.relative_to(self.folder).as_posix(),
            "segments_info": segments,
        }
        self.spool("images", [as_json(image_record(image, self.options.image_prefix))])
        self.spool("annotations", [as_json(record)])

    def _finish(self) -> None:
        palette = label_palette(self.labels).tolist()
        categories = [
            {"id": label + 1, "name": name, "supercategory": name, "isthing": 1, "color": palette[label]}
            for label, name in enumerate(self.labels)
        ]
        annotations = (with_ids(record, image_id=number) for number, record in self.records("annotations"))
        write_coco(self, categories, annotations)
