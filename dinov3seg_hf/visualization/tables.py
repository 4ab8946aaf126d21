# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Formats text tables for terminals and files."""

import unicodedata
from collections.abc import Sequence

from .legend import percent
from .pictures import Region


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows of cells as lines of text. The first column is left-aligned, all others are right-aligned."""
    widths = [max(map(display_width, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths)):
            padding = " " * (width - display_width(cell))
            cells.append(cell + padding if place == 0 else padding + cell)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def display_width(text: str) -> int:
    """Returns the width of a text in terminal columns: 2 for wide East Asian characters, 0 for combining accents."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def regions_table(regions: Sequence[Region]) -> str:
    """Formats regions as a table of label, area and score."""
    rows = [("label", "area", "score")]
    rows += [
        (region.label, percent(region.area), "" if region.score is None else f"{region.score:.2f}")
        for region in regions
    ]
    return aligned_table(rows)
