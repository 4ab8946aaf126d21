# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`png`: a mask for each image, beside the images: the layout that training reads.

`images/`, `masks/` (the value of a pixel is its label; 255, or 65535 with more than 255 labels, is ignored) and
`labels.json` (a vocabulary file: names in the order of the mask values, and the ignored value).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ..visualization.colors import label_palette
from ..visualization.files import mask_as_png
from .image import Cleaned
from .writer import FolderWriter


class PngWriter(FolderWriter):
    """Writes `masks/<image>.png`; see `save_mask` for the values."""

    name = "png"
    needs: ClassVar[tuple[str, ...]] = ()
    stores_names = False
    files_folder, ending = "masks", ".png"

    def _begin(self) -> None:
        super()._begin()
        self._palette = label_palette(self.labels)

    def _contents(self, cleaned: Cleaned) -> Sequence[tuple[Path, bytes]]:
        mask = mask_as_png(cleaned.label_map, len(self.labels), palette=self._palette)
        return [*self.new_image(cleaned.image), (self.file_of(cleaned.image), mask)]
