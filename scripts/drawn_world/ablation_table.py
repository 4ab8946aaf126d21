# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes the table of `ablation.py`: the scores as Markdown, between two marks in a file; other text is not changed."""

import statistics
from pathlib import Path

from dinov3seg_hf.model.files import write_atomically

FULL = "full model"
NO_LOCAL_GLOBAL = "no local-global inference"
ZERO_SHOT = "zero-shot head, nothing trained"
COLUMNS, WHOLE = ("unseen", "seen", "unseen, large"), "unseen, large, whole"
# The marks around a table in the Markdown file, by initial head.
MARKS = {
    "fresh": (
        "<!-- table of scripts/drawn_world/ablation.py: begin -->",
        "<!-- table of scripts/drawn_world/ablation.py: end -->",
    ),
    "keep": ("<!-- table of scripts/drawn_world/ablation.py --head keep: begin -->", "<!-- ... --head keep: end -->"),
}


def rows_of(outcomes: dict[str, list[dict]], zero_shot: dict[str, float]) -> dict[str, dict[str, list[float]]]:
    """Returns a mapping from row to column to the score of each seed, in percent."""
    rows = {
        variant: {column: [100 * outcome["scores"][column] for outcome in runs] for column in COLUMNS}
        for variant, runs in outcomes.items()
    }
    rows[NO_LOCAL_GLOBAL] = {
        **rows[FULL],
        "unseen, large": [100 * outcome["scores"][WHOLE] for outcome in outcomes[FULL]],
    }
    rows[ZERO_SHOT] = {column: [100 * zero_shot[column]] for column in COLUMNS}
    return rows


def markdown(rows: dict[str, dict[str, list[float]]], notes: list[str]) -> str:
    """Formats the table: mean and standard deviation over the seeds, and the change from the full model per seed."""
    lines = [
        "| | " + " | ".join(f"{column} | change" for column in COLUMNS) + " |",
        "|---" * (1 + 2 * len(COLUMNS)) + "|",
    ]
    for name, scores in rows.items():
        cells = []
        for column in COLUMNS:
            values, full = scores[column], rows[FULL][column]
            cells.append(spread(values))
            changed = name != FULL and values != full
            paired = values if len(values) == len(full) else values * len(full)
            cells.append(spread([a - b for a, b in zip(paired, full)], signed=True) if changed else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *notes])


def spread(values: list[float], signed: bool = False) -> str:
    mean = f"{statistics.mean(values):{'+' if signed else ''}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def place_of_table(path: Path, head: str) -> tuple[str, str]:
    """Returns the text before and after a table, including the marks.

    Raises:
        ValueError: If the file exists and does not contain the marks.
    """
    begin, end = MARKS[head]
    empty = "\n\n".join(f"{begin}\n{end}" for begin, end in MARKS.values())
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Ablation\n\n{empty}\n"
    if begin not in text or end not in text:
        raise ValueError(f"{str(path)!r} does not contain the marks of the table. Add the lines {begin!r} and {end!r}.")
    return text[: text.index(begin)] + begin, text[text.index(end) :]


def write_table(path: Path, table: str, head: str = "fresh") -> None:
    """Writes a table between the marks of a file; creates the file if it does not exist."""
    before, after = place_of_table(path, head)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{before}\n{table}\n{after}".encode())
