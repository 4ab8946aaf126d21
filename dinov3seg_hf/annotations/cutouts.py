# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`cutouts`: each part of a label as a picture of its own, transparent where the label is not.

`<image>/<number>_<label>.png` (RGBA, the box of the part) and `<image>/cutouts.json`, which is written last and lists
the pictures with label, score, area and box.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image

from ..model.checks import load_json
from ..visualization.files import json_bytes
from .image import Cleaned
from .writer import FolderWriter, as_png

LIST = "cutouts.json"


class CutoutWriter(FolderWriter):
    """Writes one RGBA picture per part."""

    name = "cutouts"
    images_folder: ClassVar[str | None] = None
    ending = ""

    def files_of(self, file_name: str) -> list[Path]:
        """Returns the list of the cut-outs."""
        return [self.path / PurePosixPath(file_name).with_suffix("") / LIST]

    def _contents(self, cleaned: Cleaned) -> Sequence[tuple[Path, bytes]]:
        pixels = np.asarray(cleaned.image.pixels())
        file = self.file_of(cleaned.image)
        files, records = [], []
        for number, part in enumerate(cleaned.parts, start=1):
            label = self.labels[part.label]
            readable = re.sub(r"[^\w-]+", "-", label).strip("-")[:40]
            name = f"{number:04d}_{readable}.png"
            alpha = part.mask.view(np.uint8)[..., None] * np.uint8(255)
            rgba = np.concatenate([pixels[part.window], alpha], axis=-1)
            rgba[~part.mask] = 0  # what is hidden shall not be in the file
            files.append((file.with_name(name), as_png(Image.fromarray(rgba))))
            records.append(
                {
                    "file": name,
                    "label": label,
                    "index": part.label,
                    "score": part.score,
                    "num_pixels": part.area,
                    "box": list(part.box),
                }
            )
        return [*files, (file, json_bytes({"image": cleaned.image.file_name, "cutouts": records}))]

    def _remove_old(self, file: Path) -> None:
        """Removes the pictures of an earlier run, which may have found more parts."""
        if file.is_file():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # not a list of ours
                for record in load_json(file.read_text(encoding="utf-8"))["cutouts"]:
                    file.with_name(Path(record["file"]).name).unlink(missing_ok=True)
            file.unlink()
