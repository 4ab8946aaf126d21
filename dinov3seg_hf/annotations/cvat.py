# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`cvat`: "CVAT for images 1.1", one XML file for all images. Each part of a label is a mask, the exact pixels."""

import re
from dataclasses import replace
from xml.sax.saxutils import escape, quoteattr

from ..model.checks import quoted
from ..visualization.colors import label_palette
from .image import Cleaned, Part
from .writer import FileWriter

NO_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # also not as a reference


class CvatWriter(FileWriter):
    """Writes the labels of a task and the masks of its images."""

    name = "cvat"
    suffixes = (".xml",)

    def _add(self, cleaned: Cleaned) -> None:
        image = cleaned.image
        if NO_XML.search(image.file_name):
            raise ValueError(
                f"The file name {quoted(image.file_name)} has a control character, which XML does not allow, not even "
                "escaped. Rename the image."
            )
        name = quoteattr(self.options.image_prefix + image.file_name)
        lines = [f'name={name} width="{image.width}" height="{image.height}">']
        lines += [self._mask(part) for part in cleaned.parts]
        self.spool("images", ["\n".join([*lines, "  </image>\n"])])

    def _mask(self, part: Part) -> str:
        left, top, width, height = part.box
        # within the box
        runs = replace(part, top=0, left=0).run_lengths(height, width)
        return (
            f'    <mask label={quoteattr(self.labels[part.label])} source="auto" occluded="0" '
            f'rle="{", ".join(map(str, runs))}" left="{left}" top="{top}" width="{width}" '
            f'height="{height}" z_order="0"></mask>'
        )

    def _finish(self) -> None:
        labels = "".join(
            f"<label><name>{escape(name)}</name><color>#{bytes(color).hex()}</color><type>any</type>"
            "<attributes></attributes></label>"
            for name, color in zip(self.labels, label_palette(self.labels))
        )
        head = (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
            f"  <meta><task><size>{self.num_images}</size><mode>annotation</mode><labels>{labels}</labels></task>"
            "</meta>\n"
        )
        images = (f'  <image id="{number - 1}" {record}' for number, record in self.records("images"))
        self.write(head.encode(), images, b"</annotations>\n", separator=b"")
