# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`yolo`: the segmentation labels of YOLO, a text file for each image, beside the images.

`images/`, `labels/` and `data.yaml`. A line is a label and one polygon, relative to the size of the image. A polygon
has no holes, so there is a cut of zero width to each hole. Readers fill both sides of a line, so holes of one or two
pixels can be lost.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from ..model.files import read_text_up_to, write_atomically
from ..model.yaml_text import load_yaml
from .coco import ring_of
from .image import Cleaned
from .writer import FolderWriter

DATA = "data.yaml"


class YoloWriter(FolderWriter):
    """Writes `labels/<image>.txt`."""

    name = "yolo"
    needs = ("scipy", "shapely")
    stores_names = False
    files_folder, ending = "labels", ".txt"

    def _check_labels(self) -> None:
        super()._check_labels()
        file = self.path / DATA
        if file.is_file() and _names_in(file) != list(self.labels):
            self._refuse_labels(file)

    def _save_labels(self) -> None:
        super()._save_labels()
        if not self._may_write(file := self.path / DATA):  # it can name other folders, as its text says
            return
        # not as JSON, whose escapes of emoji are two characters for readers of YAML
        quoted = [yaml.safe_dump(name, default_style='"', allow_unicode=True, width=2**31) for name in self.labels]
        names = "".join(f"  {label}: {name}" for label, name in enumerate(quoted))
        text = (
            "# Validation on the images of the training shows errors of the data, not how well a model will do.\n"
            "# Put other images into a folder of their own, and name it here.\n"
            f"train: images\nval: images\nnames:\n{names}"
        )
        write_atomically(file, text.encode())

    def _contents(self, cleaned: Cleaned) -> Sequence[tuple[Path, bytes]]:
        image = cleaned.image
        lines = []
        for part in cleaned.parts:
            points = ring_of(part, self.options.tolerance) / (image.width, image.height)
            numbers = " ".join(f"{number:.6f}" for number in np.clip(points, 0, 1).ravel())
            lines.append(f"{part.label} {numbers}\n")
        return [*self.new_image(image), (self.file_of(image), "".join(lines).encode())]


def _names_in(file: Path) -> list[str] | None:
    """Returns the names of the labels 0, 1, ... in a `data.yaml`; `None` if it has none."""
    try:
        content = load_yaml(read_text_up_to(file))
    except ValueError:
        return None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        return [names[label] for label in range(len(names))] if set(names) == set(range(len(names))) else None
    return names if isinstance(names, list) else None
