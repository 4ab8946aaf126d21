# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`scores`: the score of each pixel's label as a gray PNG of 16 bits; the value divided by 65535 is the score."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .image import Cleaned
from .writer import FolderWriter, as_png


class ScoreWriter(FolderWriter):
    """Writes `<image>.png`. Pixels without a label have their score, too."""

    name = "scores"
    needs = ()
    stores_names = False
    ending = ".png"

    def _contents(self, cleaned: Cleaned) -> Sequence[tuple[Path, bytes]]:
        scores = cleaned.image.score_map
        if scores is None:
            raise ValueError(f"{cleaned.image.file_name!r} has no score map; the format scores needs one. Pass one.")
        values = np.round(np.clip(scores, 0, 1).astype(np.float64) * 65535).astype(np.uint16)
        return [(self.file_of(cleaned.image), as_png(Image.fromarray(values)))]
