# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`label-studio`: tasks with predictions, one JSON file, and the labeling configuration of the project beside it.

Each part of a label is a brush mask, the exact pixels. Import the configuration, `<name>.config.xml`, as the project's
labeling interface, then the tasks.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from ..about import __version__
from ..model.files import write_atomically
from ..model.vocabulary import Vocabulary
from ..visualization.colors import label_palette
from ..visualization.files import check_writable
from .coco import as_json, ring_of
from .image import Cleaned, ExportOptions
from .writer import FileWriter

# The lengths of runs get one of four numbers of bits, of which two bits say which.
RUN_BITS = (2, 4, 9, 16)
CHANNELS = 4  # Label Studio encodes masks as RGBA
MODEL_VERSION = f"dinov3seg_hf {__version__}"


class LabelStudioWriter(FileWriter):
    """Writes tasks whose predictions are brush masks."""

    name = "label-studio"

    def __init__(self, path: str | os.PathLike, vocabulary: Vocabulary, options: ExportOptions | None = None):
        super().__init__(path, vocabulary, options)
        check_writable(self.config)

    @property
    def config(self) -> Path:
        """The file of the labeling configuration."""
        return self.path.with_suffix(".config.xml")

    def _add(self, cleaned: Cleaned) -> None:
        image = cleaned.image
        is_address = str(image.source).startswith(("http://", "https://"))
        url = str(image.source) if is_address else self.options.image_prefix + image.file_name
        self.spool("tasks", [as_json({"data": {"image": url}, "predictions": [prediction_of(cleaned, self.labels)]})])

    def _finish(self) -> None:
        labels = "".join(
            f'    <Label value={quoteattr(name)} background="#{bytes(color).hex()}"/>\n'
            for name, color in zip(self.labels, label_palette(self.labels))
        )
        config = (
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
        )
        write_atomically(self.config, config.encode())
        self.write(b"[\n", (record for _, record in self.records("tasks")), b"\n]\n")


def prediction_of(
    cleaned: Cleaned, labels: Sequence[str], from_name: str = "label", to_name: str = "image", polygons: bool = False
) -> dict[str, Any]:
    """Returns the parts of an image as a prediction of Label Studio.

    Args:
        cleaned: The labeled image.
        labels: The names of the labels.
        from_name: The name of the labels' tag in the labeling configuration.
        to_name: The name of the image's tag.
        polygons: Whether to return polygons (`PolygonLabels`) in place of brush masks (`BrushLabels`).
    """
    height, width = cleaned.image.height, cleaned.image.width
    kind = "polygonlabels" if polygons else "brushlabels"
    results = []
    for number, part in enumerate(cleaned.parts, start=1):
        if polygons:
            points = ring_of(part, cleaned.options.tolerance) * 100 / (width, height)
            shape: dict[str, Any] = {"points": np.clip(points, 0, 100).tolist(), "closed": True}
        else:
            shape = {"format": "rle", "rle": brush_bytes(part.run_lengths(height, width))}
        results.append(
            {
                "id": f"part-{number}",
                "type": kind,
                "from_name": from_name,
                "to_name": to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                **({} if part.score is None else {"score": part.score}),
                "value": {**shape, kind: [labels[part.label]]},
            }
        )
    scores = [part.score * part.area for part in cleaned.parts if part.score is not None]
    mean = {"score": round(sum(scores) / sum(part.area for part in cleaned.parts), 6)} if scores else {}
    return {"model_version": MODEL_VERSION, **mean, "result": results}


def brush_bytes(run_lengths: Sequence[int]) -> list[int]:
    """Encodes a mask in the run-length format of Label Studio, which is that of the library rle-pack.

    32 bits: the number of values. 5 bits: the bits of a value, minus 1. 4 times 4 bits: the bits of the four kinds of
    lengths, minus 1. Then for each run: a 1, two bits that choose the kind of length, the length minus 1, the value.

    Args:
        run_lengths: See `Part.run_lengths`, row by row.

    Returns:
        Bytes, each 0 to 255.
    """
    bits = [f"{CHANNELS * sum(run_lengths):032b}", f"{8 - 1:05b}", *(f"{count - 1:04b}" for count in RUN_BITS)]
    longest = 1 << RUN_BITS[-1]
    for number, length in enumerate(run_lengths):
        value = "11111111" if number % 2 else "00000000"
        whole, rest = divmod(CHANNELS * length, longest)
        bits += [_run(longest, value)] * whole
        bits += [_run(rest, value)] if rest else []
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _run(length: int, value: str) -> str:
    kind = next(kind for kind, count in enumerate(RUN_BITS) if length <= 1 << count)
    return f"1{kind:02b}{length - 1:0{RUN_BITS[kind]}b}{value}"
