# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`scores`: the score of each pixel's label as a gray PNG of 16 bits; the value divided by 65535 is the score."""

import io

import numpy as np
from PIL import Image

from ..model.files import write_atomically
from .image import Cleaned
from .writer import FolderWriter


class ScoreWriter(FolderWriter):
    """Writes `<image>.png`. Pixels without a label have their score, too."""

    name = "scores"
    needs = ()
    stores_names = False
    ending = ".png"

    def _add(self, cleaned: Cleaned) -> None:
        scores = cleaned.image.score_map
        if scores is None:
            raise ValueError(f"{cleaned.image.file_name!r} has no score map; the format scores needs one. Pass one.")
        buffer = io.BytesIO()
        values = np.round(np.clip(scores, 0, 1).astype(np.float64) * 65535).astype(np.uint16)
        Image.fromarray(values).save(buffer, "PNG")
        write_atomically(self.file_of(cleaned.image), buffer.getvalue())
