# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The formats in which PIL may open a file of a stranger. An export contains this file."""

from PIL import Image

# Formats that are not read: PIL lets another program run the file (PostScript, Windows metafiles), or decodes it before
# its size is known (icons, which can contain a picture of any size).
UNSAFE_FORMATS = frozenset({"EPS", "WMF", "ICO", "ICNS"})


def safe_formats() -> list[str]:
    """Returns the argument `formats` of each `Image.open`."""
    Image.init()  # knows all formats, also those that other libraries have added
    return [name for name in Image.ID if name not in UNSAFE_FORMATS]
