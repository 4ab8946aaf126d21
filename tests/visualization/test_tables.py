# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Tables of text stay straight, whatever is written in them."""

import re

from hypothesis import given
from hypothesis import strategies as st

from dinov3seg_hf.visualization.tables import aligned_table, display_width

CELLS = st.text("ab 我é", min_size=1, max_size=6).map(lambda text: f"[{text}]")


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_all_lines_end_in_the_same_column_and_hold_their_cells(rows):
    lines = aligned_table(rows).split("\n")
    assert [re.findall(r"\[.*?\]", line) for line in lines] == rows
    if len(rows[0]) > 1:  # the last column is aligned to the right
        assert len({display_width(line) for line in lines}) == 1


def test_wide_letters_take_two_columns_and_joined_accents_none():
    assert display_width("天 sky") == 6
    assert display_width("cafe\u0301") == display_width("café") == 4
