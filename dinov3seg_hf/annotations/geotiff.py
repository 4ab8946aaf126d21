# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`geotiff`: label maps at the place of their images, and `labels.json`.

`<image>.tif` has the reference system and the transform of the image, never reprojected; the names of the labels are in
its tag `labels`, and 255, or 65535 with more than 255 labels, is no label. Images without a place on earth are allowed.
For images larger than memory, see `large`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..large.rasters import describe_labels, georeference_of, label_dtype, new_raster, quiet_gdal
from ..visualization.colors import label_palette
from .image import Cleaned
from .writer import FolderWriter

BLOCK = 256  # pixels of a tile of the file


class GeotiffWriter(FolderWriter):
    """Writes `<image>.tif`."""

    name = "geotiff"
    needs: ClassVar[tuple[str, ...]] = ("rasterio",)
    extra = "geo"
    images_folder: ClassVar[str | None] = None
    ending = ".tif"

    def _begin(self) -> None:
        super()._begin()
        self._dtype, self._none = label_dtype(len(self.labels))
        self._palette = label_palette(self.labels)

    def _contents(self, cleaned: Cleaned) -> Sequence[tuple[Path, bytes]]:
        image, labels = cleaned.image, cleaned.label_map
        place = georeference_of(image.source, labels.shape)
        path = self.file_of(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.new")  # the same name after a kill, so no second one stays behind
        try:
            with quiet_gdal(), new_raster(made, labels.shape, self._dtype, BLOCK, place, self._none) as file:
                describe_labels(file, self.labels, self._palette, self._none)
                file.write(np.where(labels < 0, self._none, labels).astype(self._dtype), 1)
            return [(path, made.read_bytes())]
        finally:
            made.unlink(missing_ok=True)
