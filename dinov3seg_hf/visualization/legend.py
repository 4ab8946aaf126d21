# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Draws the legend under a picture: color, label, share of the image and score of each region."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colors import FAINT_INK, INK, NONE_COLOR, PAPER, checked_palette, color_palette
from .pictures import Region

MAX_LEGEND_ROWS = 24

# If the default font lacks characters of a name, the first of these fonts that is installed and has the characters is
# used.
_MORE_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansArabic-Regular.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "Arial Unicode.ttf", "Hiragino Sans GB.ttc", "msyh.ttc", "seguisym.ttf"),
)


def with_legend(picture: Image.Image, regions: Sequence[Region], *, palette: np.ndarray | None = None) -> Image.Image:
    """Adds a legend under a picture: color, label, share of the area, score.

    Args:
        picture: The picture from `overlay`.
        regions: The regions from `regions_of`, drawn in this order. One line summarizes the regions that exceed
            `MAX_LEGEND_ROWS` per column.
        palette: See `overlay`.

    Returns:
        An RGB image with the unchanged picture at the top. The picture is centered if the legend is wider.

    Raises:
        ValueError: If the palette is none, or has too few colors.
    """
    num_colors = max((region.index for region in regions), default=0) + 1
    palette = color_palette(num_colors) if palette is None else checked_palette(palette, num_colors)
    layout = _Layout.of(picture.size, regions)
    sheet = Image.new("RGB", (layout.width, layout.height), PAPER)
    sheet.paste(picture, ((layout.width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    shown, hidden = regions[: layout.num_shown], regions[layout.num_shown :]
    if not any(region.index >= 0 for region in shown):
        draw.text((layout.pad, layout.top), "No labels found.", fill=FAINT_INK, font=layout.small_font)
    for column in range(layout.num_columns if shown else 0):
        in_column = shown[column * layout.num_rows : (column + 1) * layout.num_rows]
        if in_column:
            _draw_heading(draw, layout, column)
        for row, region in enumerate(in_column):
            _draw_row(draw, layout, column, row, region, palette)
    if hidden:
        rest = f"+ {len(hidden)} more, {percent(sum(region.area for region in hidden))} together"
        place = (layout.pad, layout.middle_of(layout.num_rows))
        draw.text(place, rest, fill=FAINT_INK, font=layout.small_font, anchor="lm")
    return sheet


@dataclass(frozen=True)
class _Layout:
    """The positions on the sheet in pixels. Distances are proportional to the font size."""

    size: int  # of the font
    width: int  # of the sheet
    top: int  # of the headings, below the picture
    has_scores: bool
    num_shown: int
    num_columns: int
    num_rows: int
    column_width: int
    has_more: bool  # whether a line summarizes the regions that are not shown

    @classmethod
    def of(cls, picture_size: tuple[int, int], regions: Sequence[Region]) -> "_Layout":
        width, height = picture_size
        # the font size is proportional to the picture, and smaller with many names
        size = min((width * height) ** 0.5 / 30, width / 20) * (1 if len(regions) <= 12 else 0.75)
        size = int(np.clip(round(size), 16, 72))
        width, pad, gap = max(width, 24 * size), size, 2 * size
        has_scores = any(region.score is not None for region in regions)

        longest = max((_font_for(region.label, size).getlength(region.label) for region in regions), default=0)
        most = 18 * size if len(regions) <= 12 else 11 * size  # shortened names instead of many rows
        natural = round(_swatch(size) + 0.6 * size + min(longest, most) + _numbers_width(size, has_scores))
        num_columns = max(1, min(len(regions), (width - 2 * pad + gap) // (natural + gap)))
        num_shown = min(len(regions), MAX_LEGEND_ROWS * num_columns)
        num_rows = -(-num_shown // num_columns)
        num_columns = -(-num_shown // num_rows) if num_shown else 1
        column_width = min((width - 2 * pad + gap) // num_columns - gap, natural + 3 * size)
        top = height + round(0.6 * pad)
        has_more = num_shown < len(regions)
        return cls(size, width, top, has_scores, num_shown, num_columns, num_rows, column_width, has_more)

    @property
    def pad(self) -> int:
        return self.size

    @property
    def height(self) -> int:
        num_lines = max(self.num_rows, 1) + self.has_more
        return self._rows_top + num_lines * self._row_height + round(0.6 * self.pad)

    @property
    def small_font(self) -> ImageFont.FreeTypeFont:
        return _default_font(round(0.72 * self.size))

    @property
    def _row_height(self) -> int:
        return round(1.7 * self.size)

    @property
    def _rows_top(self) -> int:
        return self.top + round(1.2 * self.size)

    def middle_of(self, row: int) -> int:
        return self._rows_top + row * self._row_height + self._row_height // 2

    def left_of(self, column: int) -> int:
        return self.pad + column * (self.column_width + 2 * self.size)

    def right_of(self, column: int) -> int:
        return self.left_of(column) + self.column_width

    def right_of_area(self, column: int) -> int:
        return self.right_of(column) - _score_width(self.size) * self.has_scores

    def right_of_name(self, column: int) -> int:
        return self.right_of(column) - _numbers_width(self.size, self.has_scores)


def _swatch(size: int) -> int:
    return round(1.05 * size)


def _score_width(size: int) -> int:
    return round(2.9 * size)


def _numbers_width(size: int, has_scores: bool) -> int:
    return round(4.1 * size) + _score_width(size) * has_scores


def _draw_heading(draw: ImageDraw.ImageDraw, layout: _Layout, column: int) -> None:
    texts = [("area", layout.right_of_area(column))]
    texts += [("score", layout.right_of(column))] if layout.has_scores else []
    for text, right in texts:
        draw.text((right, layout.top), text, fill=FAINT_INK, font=layout.small_font, anchor="ra")


def _draw_row(
    draw: ImageDraw.ImageDraw, layout: _Layout, column: int, row: int, region: Region, palette: np.ndarray
) -> None:
    size, swatch = layout.size, _swatch(layout.size)
    left, middle = layout.left_of(column), layout.middle_of(row)
    color = NONE_COLOR if region.index < 0 else tuple(palette[region.index].tolist())
    box = (left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch)
    line = max(1, size // 14)
    draw.rounded_rectangle(box, radius=max(2, size // 5), fill=color, outline=_darker(color), width=line)

    font, start = _font_for(region.label, size), left + swatch + round(0.6 * size)
    name = _fitted(region.label, font, layout.right_of_name(column) - start)
    draw.text((start, middle), name, fill=INK if region.index >= 0 else FAINT_INK, font=font, anchor="lm")
    numbers = _default_font(size)
    draw.text((layout.right_of_area(column), middle), percent(region.area), fill=INK, font=numbers, anchor="rm")
    if region.score is not None:
        draw.text((layout.right_of(column), middle), f"{region.score:.2f}", fill=INK, font=numbers, anchor="rm")


def percent(share: float) -> str:
    """Formats a fraction as a percentage: 0.1234 gives "12.3 %". A nonzero fraction is never shown as zero."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _darker(color: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(round(0.7 * value) for value in color)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    fitting = bisect_right(range(1, len(text)), float(width), key=lambda length: font.getlength(text[:length] + "…"))
    return text[:fitting].rstrip() + "…"


def _default_font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow returns another type only without a size
    return font


@lru_cache(maxsize=1024)
def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    default = _default_font(size)
    if text.isascii() or _can_draw(default, text):
        return default
    for name in _MORE_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _can_draw(font, text):
            return font
    return default


def _can_draw(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = _drawn(font, "\uffff")  # not a character: the glyph of missing characters
    return all(letter.isspace() or _drawn(font, letter) != missing for letter in set(text))


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
