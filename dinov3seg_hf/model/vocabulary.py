# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Vocabularies: ordered classes and the words that stand for them.

A `Vocabulary` contains names, synonyms, templates and label numbers. Only `encode` uses a model, and only it imports
torch, which takes seconds: commands find errors in labels before.
"""

import difflib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .calibration import Calibration
from .checks import checked_flag, checked_integer, checked_path, invisible_character, items_of, quoted
from .files import write_atomically
from .prompts import fill_templates, resolve_templates
from .vocabulary_files import (
    JSON_KEYS,
    Fields,
    format_json,
    format_tsv,
    parse_tsv,
    preset_folder,
    preset_names,
    read_vocabulary_file,
    split_synonyms,
)

if TYPE_CHECKING:
    import torch

    from .fingerprints import TextEncoder
    from .text_embeddings import TextEmbeddings

# Label maps are stored in 8 bits if the labels fit, else in 16 bits. The highest value is the default ignore label.
IGNORE_8_BIT, IGNORE_16_BIT = 255, 65535

MAX_RAW_ID = 65535


@dataclass(frozen=True, init=False)
class Vocabulary:
    """An ordered list of classes. Class `i` has label `i`.

    All strings are normalized (Unicode NFC; runs of whitespace become one space). Two words are equal if they differ
    only in letter case.

    Args:
        names: The display names of the C classes, all different.
        synonyms: For each class, all words to prompt. They include the name only if it is listed. `None`: only the
            name.
        templates: The name of a set in `prompts.TEMPLATES`, one template, or several.
        ignore_label: The value of pixels that belong to no class. `None`: 255 for up to 255 classes, 65535 for more.
        raw_ids: Mapping from values in the original annotation to labels; other values are ignored. `None`: the
            annotation contains labels.
        background_from: If set, classes from this label on are predicted and then merged into one class, the
            background.
        shared_synonyms: Whether several classes can share a word, as in published vocabularies. Their names, and their
            sets of words, must still differ.
        calibration: Below which confidence a pixel shows none of the classes, as `dinov3seg calibrate` measures it.
            Also accepts a mapping with the arguments of `Calibration`.

    Raises:
        ValueError: If there are no names, a name is empty or repeated, a word is not a string, or a number is out of
            range.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    ignore_label: int
    raw_ids: Mapping[int, int] | None = field(hash=False)
    background_from: int | None
    shared_synonyms: bool
    calibration: Calibration | None

    def __init__(
        self,
        names: Iterable[str],
        synonyms: Iterable[Iterable[str]] | None = None,
        templates: str | Sequence[str] = "scene",
        ignore_label: int | None = None,
        raw_ids: Mapping[int, int] | None = None,
        background_from: int | None = None,
        shared_synonyms: bool = False,
        calibration: Calibration | Mapping[str, Any] | None = None,
    ):
        names = tuple(_clean(name, f"Label {i}") for i, name in enumerate(_sequence(names, "Labels")))
        if not names:
            raise ValueError("Got no labels; expected at least one class name. Pass, for example, ['cat', 'grass'].")
        if len(names) > IGNORE_16_BIT:
            raise ValueError(
                f"Got {len(names)} labels; expected at most {IGNORE_16_BIT}, because a 16-bit label map also contains "
                "the ignore label. Split the vocabulary."
            )
        words = tuple((name,) for name in names) if synonyms is None else _clean_synonyms(synonyms, names)
        _refuse_repeated(names, words, checked_flag(shared_synonyms, "shared_synonyms"))

        if ignore_label is None:
            ignore_label = IGNORE_8_BIT if len(names) <= IGNORE_8_BIT else IGNORE_16_BIT
        if 0 <= checked_integer(ignore_label, "ignore_label") < len(names):
            raise ValueError(
                f"ignore_label is {ignore_label}, which is the label of {names[ignore_label]!r}; "
                f"expected a value outside 0..{len(names) - 1}, or None."
            )
        if background_from is not None and not 0 < checked_integer(background_from, "background_from") < len(names):
            raise ValueError(
                f"background_from is {background_from}; expected a label between 1 and {len(names) - 1}, or None. "
                "Both sides need at least one class."
            )
        if raw_ids is not None:
            raw_ids = _checked_raw_ids(raw_ids, len(names) if background_from is None else background_from + 1)
        if calibration is not None:
            calibration = Calibration.of(calibration)
            if len(calibration.thresholds) != len(names):
                raise ValueError(
                    f"Got {len(calibration.thresholds)} thresholds for {len(names)} labels; expected one per label. "
                    "Calibrate the vocabulary again, or remove the calibration."
                )

        for key, value in {
            "names": names,
            "synonyms": words,
            "templates": resolve_templates(templates),
            "ignore_label": int(ignore_label),
            "raw_ids": raw_ids,
            "background_from": None if background_from is None else int(background_from),
            "shared_synonyms": shared_synonyms,
            "calibration": calibration,
        }.items():
            object.__setattr__(self, key, value)

    # --- sources of class names --------------------------------------------------------------------------------------

    @classmethod
    def from_list(
        cls, items: Iterable[str], *, templates: str | Sequence[str] = "scene", ignore_label: int | None = None
    ) -> "Vocabulary":
        """Creates a vocabulary from class names, each "word" or "word|synonym|synonym"; the first word is displayed.

        Raises:
            ValueError: If an argument of `Vocabulary` is invalid, for example because a word stands for two classes.
        """
        fields = split_synonyms(_sequence(items, "Labels"))
        return cls(**fields, templates=templates, ignore_label=ignore_label)

    @classmethod
    def from_class_label(
        cls, class_label: Any, *, templates: str | Sequence[str] = "scene", ignore_label: int | None = None
    ) -> "Vocabulary":
        """Creates a vocabulary from a `datasets.ClassLabel`.

        Any other object whose `.names` are the class names in label order is accepted, too.

        Raises:
            ValueError: If there is no `.names`, or a name is invalid.
        """
        names = getattr(class_label, "names", None)
        if names is None:
            raise ValueError(
                f"{quoted(class_label)} has no class names; expected a datasets.ClassLabel, for example "
                "dataset.features['label']. Use Vocabulary.from_list for plain names."
            )
        return cls(names, templates=templates, ignore_label=ignore_label)

    @classmethod
    def from_preset(cls, name: str, *, templates: str | Sequence[str] = "scene") -> "Vocabulary":
        """Creates one of the benchmark vocabularies in `Vocabulary.presets`, with its label numbers.

        Raises:
            ValueError: If the preset is unknown.
        """
        if not isinstance(name, str) or name not in cls.presets():
            known = ", ".join(cls.presets()) or "none, because only the package dinov3seg_hf contains presets"
            raise ValueError(
                f"Preset {quoted(name)} was not found; available: {known}. Use Vocabulary.from_file for your own file."
            )
        fields = parse_tsv((preset_folder() / f"{name}.tsv").read_text(encoding="utf-8"))
        return cls(**{**fields, "templates": templates})

    @staticmethod
    def presets() -> tuple[str, ...]:
        """Returns the names that `Vocabulary.from_preset` accepts, sorted."""
        return preset_names()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, templates: str | Sequence[str] | None = None) -> "Vocabulary":
        """Reads a vocabulary from a UTF-8 file; the suffix determines the format.

        - `.txt`: one class per line, synonyms separated by `|`. Empty lines and comments, from `#` on, are skipped.
        - `.tsv`: a header with the column `names` (words separated by commas) and the optional columns `label` (0, 1,
          ...), `raw_id` (values in the original annotation, separated by commas, or empty) and `display` (the name to
          show, if it is not the first word). Lines that begin with `#` are skipped, but `#: ignore_label 65535` sets
          the argument `ignore_label`. `background_from`, `shared_synonyms` and `templates` are set in the same way,
          with JSON values. The column `threshold` and `#: calibration` are a calibration.
        - `.csv`: the same columns with words separated by `|`, or one column of names without a header.
        - `.json`: a list as for `from_list`, or an object with the arguments of the class, as written by `save`.
        - `.yaml`, `.yml`: the same; `names` may be a mapping from labels to names, as in the `data.yaml` of YOLO.

        Args:
            path: The file.
            templates: Templates to use instead of those in the file or the default ones. A calibration is for the
                templates in the file, and is left out.

        Raises:
            ValueError: If the file cannot be read, has another format, or has invalid content; the message says where.
        """
        try:
            fields = read_vocabulary_file(path)
            return cls(**{**fields, **({} if templates is None else {"templates": templates, "calibration": None})})
        except ValueError as error:
            where = f"Vocabulary file {os.fspath(path)!r}"
            raise error if where in str(error) else ValueError(f"{where}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a `.json` or `.tsv` file atomically; `from_file` reads an equal vocabulary from it.

        Raises:
            ValueError: If the suffix is not supported, the path cannot be written, or a word contains a comma (only in
                TSV).
        """
        suffix = Path(checked_path(path, "The path of the vocabulary")).suffix.lower()
        if suffix not in (".json", ".tsv"):
            raise ValueError(
                f"{str(path)!r} ends in {suffix!r}; expected .json or .tsv, which store templates and labels."
            )
        fields: Fields = {key: getattr(self, key) for key in JSON_KEYS}
        if self.calibration is not None:
            fields["calibration"] = self.calibration.to_dict()
        write_atomically(path, (format_json(fields) if suffix == ".json" else format_tsv(fields)).encode())

    # --- names and labels ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """The number C of classes that are prompted and predicted."""
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """A mapping from labels to display names, as in configurations of transformers."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """A mapping from display names to labels."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word_key(name): i for i, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """Returns the label of a display name; letter case is ignored.

        Raises:
            ValueError: If no class has this name; the message contains similar names.
        """
        key = word_key(_clean(name, "The name"))
        if key not in self._index:
            close = [self.names[self._index[k]] for k in difflib.get_close_matches(key, self._index)]
            hint = f" Similar names: {', '.join(map(repr, close))}." if close else ""
            raise ValueError(
                f"Name {quoted(name)} was not found in the {len(self)} classes.{hint} Pass one of `names`."
            )
        return self._index[key]

    def unknown_to(self, known_words: Iterable[str]) -> list[str]:
        """Returns the display names of classes whose synonyms all have a word that is not among `known_words`.

        Letter case is ignored.
        """
        known = {word_key(word) for word in known_words}
        return [
            name
            for name, words in zip(self.names, self.synonyms)
            if not any(known.issuperset(word_key(word).split()) for word in words)
        ]

    def prompts(self) -> list[list[str]]:
        """Returns C lists of prompts: every word of the class in every template."""
        return [fill_templates(words, self.templates) for words in self.synonyms]

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 (hex) of everything that determines the text embeddings: names, synonyms, templates."""
        from .fingerprints import sha256_of

        return sha256_of([self.names, self.synonyms, self.templates])

    # --- annotations and scores ---------------------------------------------------------------------------------------

    @property
    def scored_names(self) -> tuple[str, ...]:
        """The names of the scored classes: all names, or those before `background_from` and "background"."""
        return self.names if self.background_from is None else (*self.names[: self.background_from], "background")

    def to_scored(self, label_map: np.ndarray) -> np.ndarray:
        """Replaces every background label of a map by the one that is scored; the shape does not change.

        Raises:
            ValueError: If the map is no array of integers.
        """
        if not isinstance(label_map, np.ndarray) or label_map.dtype.kind not in "iu":
            raise ValueError(
                f"The label map is of type {type(label_map).__name__}; expected an array of integers. Convert it with "
                "np.asarray(label_map)."
            )
        if self.background_from is None:
            return label_map
        is_background = (label_map >= self.background_from) & (label_map != self.ignore_label)
        return np.where(is_background, np.asarray(self.background_from, label_map.dtype), label_map)

    def labels_from_raw(self, annotation: np.ndarray) -> np.ndarray:
        """Converts the values of an original annotation, integers of any shape, to scored labels, int32.

        Values that are not in `raw_ids` become `ignore_label`. Without `raw_ids`, values that are not labels become
        `ignore_label`.

        Raises:
            ValueError: If the annotation does not contain integers.
        """
        if np.ma.is_masked(annotation):
            raise ValueError(
                f"The annotation has masked pixels; expected one integer per pixel. Pass `filled({self.ignore_label})`."
            )
        if not isinstance(annotation, np.ndarray) or not np.issubdtype(annotation.dtype, np.integer):
            dtype = getattr(annotation, "dtype", type(annotation).__name__)
            raise ValueError(
                f"The annotation has dtype {dtype}; expected one integer per pixel. Convert the annotation."
            )
        table = self._raw_table
        in_table = (annotation >= 0) & (annotation < len(table))
        if in_table.all():  # without more copies of a map that may have millions of pixels
            return table[annotation]
        return np.where(in_table, table[np.where(in_table, annotation, 0)], np.int32(self.ignore_label))

    @cached_property
    def _raw_table(self) -> np.ndarray:
        raw_ids = self.raw_ids
        if raw_ids is None:
            raw_ids = {label: label for label in range(len(self.scored_names))}
        table = np.full(max(256, max(raw_ids, default=0) + 1), self.ignore_label, np.int32)  # all values of 8 bits
        table[list(raw_ids)] = list(raw_ids.values())
        return table

    # --- text embeddings ----------------------------------------------------------------------------------------------

    def encode(
        self,
        model: "TextEncoder",
        processor: Any,
        batch_size: int = 256,
        device: "str | torch.device | None" = None,
        progress: bool = False,
    ) -> "TextEmbeddings":
        """Encodes every class once; see `encode_classes`.

        Args:
            model: A model with `text_model` and `get_text_features(input_ids (C, P, L), attention_mask (C, P, L)) ->
                (C, 2, D)`.
            processor: A processor with the `tokenizer` of the text tower.
            batch_size: Maximum number of prompts per batch; a class with more prompts gets its own batch.
            device: Device for the token ids. `None`: the device of the text tower.
            progress: Whether to show a progress bar.

        Returns:
            The embeddings, on the CPU, with the fingerprints of this vocabulary and of the model.

        Raises:
            ValueError: If a prompt is too long for the text tower (prompts are never truncated), the tokenizer is
                missing, or an embedding is not finite.
        """
        from .fingerprints import model_fingerprint
        from .text_embeddings import TextEmbeddings, encode_classes

        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(
                f"The processor is a {type(processor).__name__}, which has no tokenizer; words need a tokenizer. "
                "Load or convert the model with its tokenizer."
            )
        tensor = encode_classes(
            model, tokenizer, self.prompts(), batch_size=batch_size, device=device, progress=progress
        )
        fingerprint = model_fingerprint(model)
        return TextEmbeddings(tensor, self.names, self.fingerprint, fingerprint, self.calibration)


def as_vocabulary(labels: Any, templates: str | Sequence[str] | None = None) -> Vocabulary:
    """Converts labels to a vocabulary.

    Args:
        labels: A list of class names, a string of class names separated by commas, or a `Vocabulary`.
        templates: Templates to use instead of those of the vocabulary or the default ones.

    Raises:
        ValueError: If there are no labels, or a label is invalid.
    """
    if isinstance(labels, Vocabulary):
        if templates is None:
            return labels
        return replace(labels, templates=resolve_templates(templates), calibration=None)
    if labels is None:
        labels = []
    if isinstance(labels, str):
        labels = labels.split(",") if labels.strip() else []
        if len(labels) > 1 and not labels[-1].strip():
            labels = labels[:-1]  # a comma at the end
    return Vocabulary.from_list(labels) if templates is None else Vocabulary.from_list(labels, templates=templates)


def _sequence(values: Any, what: str) -> list[Any]:
    if isinstance(values, str):
        raise ValueError(
            f"{what} are one string, {quoted(values)}; expected a list of strings. Pass [{quoted(values)}]."
        )
    # a table, such as that of pandas, would give the names of its columns
    is_other = isinstance(values, (set, frozenset)) or hasattr(values, "columns")
    if is_other or (listed := items_of(values)) is None:
        raise ValueError(
            f"{what} are of type {type(values).__name__}; expected a list of strings, in the order of the labels."
        )
    return listed


def _clean(word: Any, what: str) -> str:
    if not isinstance(word, str):
        raise ValueError(f"{what} is {quoted(word)} of type {type(word).__name__}; expected a string.")
    cleaned = " ".join(unicodedata.normalize("NFC", word).split())
    if not any(c.isprintable() and c != " " for c in cleaned):
        raise ValueError(
            f"{what} is {quoted(word)}, which has no visible characters; expected a word. Remove or replace it."
        )
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned):
        raise ValueError(
            f"{what}, {quoted(word)}, contains control characters or broken Unicode. Remove these characters."
        )
    if (place := invisible_character(cleaned)) is not None:
        raise ValueError(
            f"{what}, {word!a}, contains the invisible character U+{ord(cleaned[place]):04X}, so that it is not the "
            "word that it looks like. Remove this character."
        )
    return cleaned


def word_key(word: str) -> str:
    """Returns the comparison key of a word: it ignores letter case, Unicode form and extra whitespace."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", " ".join(word.split())).casefold())


def _clean_synonyms(synonyms: Any, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    synonyms = _sequence(synonyms, "Synonyms")
    if len(synonyms) != len(names):
        raise ValueError(f"Got {len(synonyms)} lists of synonyms for {len(names)} names; expected one list per name.")
    cleaned = []
    for i, (name, words) in enumerate(zip(names, synonyms)):
        words = tuple(
            _clean(word, f"A word of label {i} ({quoted(name)})") for word in _sequence(words, f"Synonyms of label {i}")
        )
        if not words:
            raise ValueError(f"Label {i} ({quoted(name)}) has no words to prompt; expected at least its name.")
        cleaned.append(words)
    return tuple(cleaned)


def _refuse_repeated(names: tuple[str, ...], synonyms: tuple[tuple[str, ...], ...], shared_synonyms: bool) -> None:
    label_of_name: dict[str, int] = {}
    for i, name in enumerate(names):
        if (first := label_of_name.setdefault(word_key(name), i)) != i:
            raise ValueError(
                f"Labels {first} and {i} have the same name, {quoted(names[first])} and {quoted(name)}; "
                "expected different names. Remove or rename one of the labels."
            )
    label_of_word: dict[str, int] = {}
    label_of_words: dict[frozenset[str], int] = {}
    for i, words in enumerate(synonyms):
        keys = [word_key(word) for word in words]
        for j, key in enumerate(keys):
            if key in keys[:j]:
                raise ValueError(
                    f"Label {i} ({quoted(names[i])}) has the word {quoted(words[j])} twice; expected different words. "
                    "Remove one of the two."
                )
            if (first := label_of_word.setdefault(key, i)) != i and not shared_synonyms:
                raise ValueError(
                    f"The word {quoted(words[j])} stands for two classes, label {first} ({quoted(names[first])}) "
                    f"and label {i} ({quoted(names[i])}). Remove the word from one class, or set shared_synonyms."
                )
        if (first := label_of_words.setdefault(frozenset(keys), i)) != i:
            raise ValueError(
                f"Labels {first} ({quoted(names[first])}) and {i} ({quoted(names[i])}) have the same words; "
                "expected at least one different word. Remove one of the labels, or change its words."
            )


def _checked_raw_ids(raw_ids: Any, num_labels: int) -> dict[int, int]:
    if not isinstance(raw_ids, Mapping):
        raise ValueError(
            f"raw_ids is of type {type(raw_ids).__name__}; expected a mapping from annotation values to labels."
        )
    for raw_id, label in raw_ids.items():
        if not 0 <= checked_integer(raw_id, "A raw id") <= MAX_RAW_ID:
            raise ValueError(
                f"A raw id is {raw_id}; expected 0 to {MAX_RAW_ID}, because annotations have 8 or 16 bits."
            )
        if not 0 <= checked_integer(label, f"The label of raw id {raw_id}") < num_labels:
            raise ValueError(
                f"The raw id {raw_id} stands for label {label}; expected a label from 0 to {num_labels - 1}."
            )
    return {int(raw_id): int(raw_ids[raw_id]) for raw_id in sorted(raw_ids)}
