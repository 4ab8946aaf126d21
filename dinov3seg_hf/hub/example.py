# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The example of a published checkpoint: an image and class names, for the check and the model card."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """An image and class names: shown on the card, and segmented to check the folder before the upload."""

    image: Path
    labels: str

    @property
    def file_name(self) -> str:
        """The name of the published image: a PNG without the metadata of the file, at an address without escapes."""
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.image.stem).strip('-.') or 'example'}.png"
