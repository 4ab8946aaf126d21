# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads vocabulary files (text, TSV, CSV, JSON and YAML) as the arguments of `Vocabulary`, and writes TSV and JSON.

Handles only syntax; `Vocabulary` checks the values. The seven benchmark vocabularies are TSV files next to this module.
A checkpoint on the Hub contains this module but not these files.
"""

import csv
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .checks import checked_integer, checked_path, load_json, quoted
from .files import read_text_up_to
from .yaml_text import load_yaml

Fields = dict[str, Any]  # arguments of `Vocabulary`

TSV_COLUMNS = ("label", "raw_id", "names", "display", "threshold")
TSV_DIRECTIVES = ("ignore_label", "background_from", "shared_synonyms", "templates", "calibration")
JSON_KEYS = (
    "names",
    "synonyms",
    "templates",
    "ignore_label",
    "raw_ids",
    "background_from",
    "shared_synonyms",
    "calibration",
)

# The keys of a YOLO data set that say where its images are.
YOLO_KEYS = ("path", "train", "val", "test", "nc", "download")


def preset_folder() -> Path:
    """Returns the folder of the benchmark vocabularies, which exists only in the package."""
    return Path(__file__).parent / "vocabularies"


def preset_names() -> tuple[str, ...]:
    """Returns the names of the benchmark vocabularies, sorted; see `Vocabulary.from_preset`."""
    folder = preset_folder()
    files = folder.iterdir() if folder.is_dir() else ()
    return tuple(sorted(f.name[: -len(".tsv")] for f in files if f.name.endswith(".tsv")))


def split_synonyms(items: Iterable[Any]) -> Fields:
    """Splits class names, each "word" or "word|synonym|synonym", into names and synonyms.

    The first word is the displayed name.

    Raises:
        ValueError: If an item is not a string.
    """
    synonyms = []
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise ValueError(f"Label {index} is {quoted(item)} of type {type(item).__name__}; expected a string.")
        synonyms.append(item.split("|"))
    return {"names": [words[0] for words in synonyms], "synonyms": synonyms}


# --- reading ----------------------------------------------------------------------------------------------------------


def read_vocabulary_file(path: str | os.PathLike[str]) -> Fields:
    """Reads a `.txt`, `.tsv`, `.csv`, `.json` or `.yaml` file; see `Vocabulary.from_file`.

    Raises:
        ValueError: If the file cannot be read, has an unsupported format, or a syntax error; the message says where.
    """
    path = Path(checked_path(path, "The path of the vocabulary file"))
    parse = PARSERS.get(path.suffix.lower())
    if parse is None:
        raise ValueError(
            f"Vocabulary file {str(path)!r} ends in {path.suffix!r}; expected {', '.join(PARSERS)}. Rename the file."
        )
    return parse(read_text_up_to(path, "Vocabulary file"))


def parse_txt(text: str) -> Fields:
    """Parses text with one class per line, synonyms separated by `|`, and comments after `#`."""
    items = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", line).rstrip().removesuffix(",")  # "C#" is a word; a comma at the end is none
        if not line.strip():
            continue
        if "," in line:
            # "cat, dog" would silently become one class
            raise ValueError(
                f"line {number}, {quoted(line)}, contains a comma; expected one class per line, with synonyms "
                "separated by '|'. Use a .json file for names with commas."
            )
        items.append(line)
    return split_synonyms(items)


def parse_json(text: str) -> Fields:
    """Parses JSON text: a list of names, or an object with the arguments of `Vocabulary`."""
    try:
        content = load_json(text)
    except ValueError as error:
        raise ValueError(f"the content is not valid JSON ({error}). Correct the file.") from error
    return _fields_of(content)


def parse_yaml(text: str) -> Fields:
    """Parses YAML text with the content of JSON, or with `names` as a mapping from labels to names.

    The latter is the `data.yaml` of YOLO data sets, whose paths are left out.
    """
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"the content is not valid YAML ({error}). Correct the file.") from error
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in YOLO_KEYS}
        names = content.get("names")
        if isinstance(names, dict):
            if sorted(names, key=str) != sorted(range(len(names)), key=str):
                raise ValueError(
                    f"names has the keys {quoted(list(names))}; expected the labels 0, 1, ... of the names."
                )
            names = content["names"] = [names[label] for label in range(len(names))]
        if set(content) == {"names"}:
            content = names
    return _fields_of(content)


def parse_csv(text: str) -> Fields:
    """Parses a table with the columns of TSV, or "name" in place of "names"; words are separated by `|`.

    Without a header, the only column contains the names.
    """
    lines = text.splitlines()
    directives = [line for line in lines if line.startswith("#:")]
    content = "\n".join(line for line in lines if not line.startswith("#"))
    rows = [row for row in csv.reader(io.StringIO(content)) if any(cell.strip() for cell in row)]
    while rows and all(len(row) > 1 and not row[-1].strip() for row in rows):  # commas at the ends of lines
        rows = [row[:-1] for row in rows]
    if any("\t" in cell for row in rows for cell in row):
        raise ValueError("a cell contains a tab; expected a table of commas. Name the file .tsv if tabs separate it.")
    if broken := next((cell for row in rows for cell in row if len(cell.splitlines()) > 1), None):
        raise ValueError(f"the cell {quoted(broken)} contains a line break; expected one class per row. Remove it.")
    header = [{"name": "names"}.get(cell.strip().lower(), cell.strip().lower()) for cell in rows[0]] if rows else []
    if len(header) == 1 and header != ["names"]:
        if wide := next((row for row in rows if len(row) > 1), None):
            raise ValueError(f"the row {quoted(wide)} has {len(wide)} columns; expected a header with 'names'.")
        return split_synonyms(cell for (cell,) in rows)
    if rows and ("names" not in header or not set(header) <= set(TSV_COLUMNS)):
        raise ValueError(
            f"the header has the columns {quoted([cell.strip() for cell in rows[0]])}; expected 'names' and optionally "
            "'label', 'raw_id', 'display' and 'threshold'. Rename or remove the others; without a header, expected one "
            "name per line."
        )
    words = header.index("names") if rows else 0
    table = [header]
    for row in rows[1:]:
        if words < len(row) and "," in row[words]:
            raise ValueError(f"the cell {quoted(row[words])} contains a comma; expected words separated by '|'.")
        table.append([cell.replace("|", ",") if column == words else cell for column, cell in enumerate(row)])
    return parse_tsv("\n".join([*directives, *("\t".join(row) for row in table)]))


def _fields_of(content: Any) -> Fields:
    """Returns the arguments of `Vocabulary` in JSON or YAML content: a list of names, or an object."""
    if isinstance(content, list):
        return split_synonyms(content)
    if not isinstance(content, dict) or "names" not in content or not set(content) <= set(JSON_KEYS):
        found = f"an object with {quoted(list(content))}" if isinstance(content, dict) else quoted(content)
        raise ValueError(
            f"the content is {found}; expected a list of names, or an object with 'names' and only keys of "
            f"{', '.join(JSON_KEYS)}."
        )
    if isinstance(content.get("raw_ids"), dict):
        # keys of JSON objects are strings, those of YAML are numbers
        content["raw_ids"] = {_parsed_number(str(key), "raw_ids"): label for key, label in content["raw_ids"].items()}
    return content


def parse_tsv(text: str) -> Fields:
    """Parses a table with the columns `TSV_COLUMNS`, and lines `#: <directive> <JSON value>`."""
    fields: Fields = {}
    header: list[str] | None = None
    names: list[str] = []
    synonyms: list[list[str]] = []
    raw_id_cells: list[str] = []
    thresholds: list[float] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#:"):
            key, value = _parse_directive(line, number)
            fields[key] = value
            continue
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if header is None:
            header = _checked_header(cells, number)
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"line {number}, {quoted(line)}, has {len(cells)} columns; expected {len(header)}: {', '.join(header)}."
            )
        row = dict(zip(header, cells))
        if "label" in row and _parsed_number(row["label"], f"line {number}") != len(names):
            raise ValueError(
                f"line {number} has label {row['label']}; expected {len(names)}, because labels are counted from 0."
            )
        words = row["names"].split(",")
        synonyms.append(words)
        names.append(row["display"] if row.get("display", "").strip() else words[0])
        raw_id_cells.append(row.get("raw_id", ""))
        if "threshold" in row:
            thresholds.append(_parsed_decimal(row["threshold"], f"the threshold in line {number}"))
    if header is not None and "raw_id" in header:
        fields["raw_ids"] = _raw_ids_of(raw_id_cells, fields.get("background_from"))
    if thresholds or "calibration" in fields:
        fields["calibration"] = {**_checked_directive(fields.get("calibration")), "thresholds": thresholds}
    return {"names": names, "synonyms": synonyms, **fields}


PARSERS: dict[str, Callable[[str], Fields]] = {
    ".txt": parse_txt,
    ".tsv": parse_tsv,
    ".csv": parse_csv,
    ".json": parse_json,
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
}


def _parse_directive(line: str, number: int) -> tuple[str, Any]:
    key, _, value = line[2:].strip().partition(" ")
    if key not in TSV_DIRECTIVES:
        raise ValueError(f"line {number} sets {quoted(key)}; expected one of {', '.join(TSV_DIRECTIVES)}.")
    try:
        return key, load_json(value)
    except ValueError as error:
        raise ValueError(f"line {number} sets {key} to {quoted(value)}; expected a JSON value ({error}).") from error


def _checked_header(cells: list[str], number: int) -> list[str]:
    header = [cell.strip() for cell in cells]
    if "names" not in header or not set(header) <= set(TSV_COLUMNS) or len(set(header)) < len(header):
        raise ValueError(
            f"line {number}, the header, has the columns {quoted(header)}; expected 'names' and optionally "
            "'label', 'raw_id', 'display' and 'threshold', separated by tabs."
        )
    return header


def _raw_ids_of(cells: list[str], background_from: Any) -> dict[int, int]:
    if background_from is not None:
        checked_integer(background_from, "background_from")
    raw_ids: dict[int, int] = {}
    for label, cell in enumerate(cells):
        if background_from is not None:
            label = min(label, background_from)  # all background classes share the raw ids of the background
        for part in cell.split(","):
            if part.strip():
                raw_id = _parsed_number(part, f"the raw_id of label {label}")
                if raw_ids.setdefault(raw_id, label) != label:
                    raise ValueError(
                        f"raw_id {raw_id} stands for the labels {raw_ids[raw_id]} and {label}; expected one label."
                    )
    return raw_ids


def _parsed_number(text: str, what: str) -> int:
    if not (text.strip().isascii() and text.strip().isdecimal()):
        raise ValueError(f"{what} is {quoted(text)}; expected a whole number.")
    if len(text.strip()) > 20:  # Python refuses to read numbers with thousands of digits
        raise ValueError(f"{what} is {quoted(text)}; expected a whole number of at most 20 digits.")
    return int(text)


def _parsed_decimal(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{what} is {quoted(text)}; expected a number.") from error


def _checked_directive(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"the calibration is {quoted(value)}; expected both a column 'threshold' and a line '#: calibration' with "
            "the head and the model. Calibrate the vocabulary again, or remove both."
        )
    return value


# --- writing ----------------------------------------------------------------------------------------------------------


def format_json(fields: Mapping[str, Any]) -> str:
    """Formats the arguments in `JSON_KEYS` as JSON text for `parse_json`; `None` is omitted."""
    return json.dumps({k: v for k, v in fields.items() if v is not None}, ensure_ascii=False, indent=1) + "\n"


def format_tsv(fields: Mapping[str, Any]) -> str:
    """Formats the arguments in `JSON_KEYS` as TSV text for `parse_tsv`.

    Raises:
        ValueError: If a word contains a comma, the separator of words.
    """
    names, synonyms = fields["names"], fields["synonyms"]
    for words in synonyms:
        for word in words:
            if "," in word:
                raise ValueError(
                    f"The word {quoted(word)} contains a comma, which separates words in TSV. Save the vocabulary as "
                    ".json."
                )
    directives = {key: fields[key] for key in TSV_DIRECTIVES if fields[key] not in (None, False)}
    calibration = directives.get("calibration")
    columns = {"label": [str(label) for label in range(len(names))]}
    if fields["raw_ids"] is not None:
        raw_ids_of = defaultdict(list)
        for raw_id, label in fields["raw_ids"].items():
            raw_ids_of[label].append(str(raw_id))
        columns["raw_id"] = [",".join(raw_ids_of[label]) for label in range(len(names))]
    columns["names"] = [", ".join(words) for words in synonyms]
    if any(name != words[0] for name, words in zip(names, synonyms)):
        columns["display"] = list(names)
    if calibration is not None:
        columns["threshold"] = [repr(bound) for bound in calibration["thresholds"]]
        directives["calibration"] = {key: value for key, value in calibration.items() if key != "thresholds"}
    lines = [f"#: {key} {json.dumps(value)}" for key, value in directives.items()]
    lines += ["\t".join(columns), *("\t".join(row) for row in zip(*columns.values()))]
    return "\n".join(lines) + "\n"
