# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Vocabularies: which classes there are, and which words stand for them.

A `Vocabulary` knows names, synonyms, templates and label numbers, and nothing of a model until `encode`.
"""

import difflib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checks import checked_flag, checked_integer, quoted
from .files import write_atomically
from .fingerprints import TextEncoder, model_fingerprint, sha256_of
from .prompts import fill_templates, resolve_templates
from .text_embeddings import TextEmbeddings, encode_classes
from .vocabulary_files import (
    JSON_KEYS,
    Fields,
    format_json,
    format_tsv,
    parse_tsv,
    preset_folder,
    read_vocabulary_file,
    split_synonyms,
)

# Label maps are stored in 8 bits where they fit, in 16 otherwise; the highest value of each is the ignore label.
IGNORE_8_BIT, IGNORE_16_BIT = 255, 65535

MAX_RAW_ID = 65535


@dataclass(frozen=True, init=False)
class Vocabulary:
    """An ordered list of classes. Class `i` has label `i`.

    Every string is brought to one form (Unicode NFC, runs of white space become one space). Two words are the same if
    they differ in letter case only.

    Args:
        names: The display name of each class, C of them, all different.
        synonyms: For each class, every word that is prompted, the name included where wanted. `None`: the name alone.
        templates: The name of a set in `prompts.TEMPLATES`, one template, or several.
        ignore_label: The value of pixels that belong to no class. `None`: 255 for up to 255 classes, 65535 above.
        raw_ids: Values in the original annotation -> labels; other values are ignored. `None`: it holds labels.
        background_from: Where set, classes from this one on are predicted and then all count as one, the background.
        shared_synonyms: Lets several classes share a word, as published vocabularies do. Their names, and their words
            taken together, must differ all the same.

    Raises:
        ValueError: Nothing there, empty or repeated names, anything that is no string, numbers out of range.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    ignore_label: int
    raw_ids: Mapping[int, int] | None = field(hash=False)
    background_from: int | None
    shared_synonyms: bool

    def __init__(
        self,
        names: Iterable[str],
        synonyms: Iterable[Iterable[str]] | None = None,
        templates: str | Sequence[str] = "scene",
        ignore_label: int | None = None,
        raw_ids: Mapping[int, int] | None = None,
        background_from: int | None = None,
        shared_synonyms: bool = False,
    ):
        names = tuple(_clean(name, f"Label {i}") for i, name in enumerate(_sequence(names, "Labels")))
        if not names:
            raise ValueError("Got no labels; expected at least one class name. Pass for example ['cat', 'grass'].")
        if len(names) > IGNORE_16_BIT:
            raise ValueError(
                f"Got {len(names)} labels, but a 16-bit label map holds {IGNORE_16_BIT} beside the ignore label. "
                "Split the vocabulary."
            )
        words = tuple((name,) for name in names) if synonyms is None else _clean_synonyms(synonyms, names)
        _refuse_repeated(names, words, checked_flag(shared_synonyms, "shared_synonyms"))

        if ignore_label is None:
            ignore_label = IGNORE_8_BIT if len(names) <= IGNORE_8_BIT else IGNORE_16_BIT
        if 0 <= checked_integer(ignore_label, "ignore_label") < len(names):
            raise ValueError(
                f"ignore_label is {ignore_label}, which is the label of {names[ignore_label]!r}. "
                f"Choose a value outside 0..{len(names) - 1}, or None."
            )
        if background_from is not None and not 0 < checked_integer(background_from, "background_from") < len(names):
            raise ValueError(
                f"background_from is {background_from}; expected a label between 1 and {len(names) - 1}, "
                "so that something is left on both sides, or None."
            )
        if raw_ids is not None:
            raw_ids = _checked_raw_ids(raw_ids, len(names) if background_from is None else background_from + 1)

        for key, value in {
            "names": names,
            "synonyms": words,
            "templates": resolve_templates(templates),
            "ignore_label": int(ignore_label),
            "raw_ids": raw_ids,
            "background_from": None if background_from is None else int(background_from),
            "shared_synonyms": shared_synonyms,
        }.items():
            object.__setattr__(self, key, value)

    # --- from the places where class names are kept ------------------------------------------------------------------

    @classmethod
    def from_list(
        cls, items: Iterable[str], *, templates: str | Sequence[str] = "scene", ignore_label: int | None = None
    ) -> "Vocabulary":
        """From class names, each "word" or "word|synonym|synonym"; the first word is the one displayed.

        Raises:
            ValueError: As the class itself; a word that stands for two classes counts as repeated.
        """
        fields = split_synonyms(_sequence(items, "Labels"))
        return cls(**fields, templates=templates, ignore_label=ignore_label)

    @classmethod
    def from_class_label(
        cls, class_label: Any, *, templates: str | Sequence[str] = "scene", ignore_label: int | None = None
    ) -> "Vocabulary":
        """From a `datasets.ClassLabel`, or anything else whose `.names` are the class names in label order.

        Raises:
            ValueError: No `.names` there, or names that the class refuses.
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
        """One of the benchmark vocabularies that `Vocabulary.presets` lists, with its label numbers.

        Raises:
            ValueError: There is no such preset.
        """
        if name not in cls.presets():
            known = ", ".join(cls.presets()) or "none without the package dinov3seg_hf, which brings them"
            raise ValueError(
                f"There is no preset {quoted(name)}. Known are {known}. "
                "Use Vocabulary.from_file for a file of your own."
            )
        fields = parse_tsv((preset_folder() / f"{name}.tsv").read_text(encoding="utf-8"))
        return cls(**{**fields, "templates": templates})

    @staticmethod
    def presets() -> tuple[str, ...]:
        """The names that `Vocabulary.from_preset` knows, sorted."""
        folder = preset_folder()
        files = folder.iterdir() if folder.is_dir() else ()
        return tuple(sorted(f.name[: -len(".tsv")] for f in files if f.name.endswith(".tsv")))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, templates: str | Sequence[str] | None = None) -> "Vocabulary":
        """From a UTF-8 file; its suffix says how to read it.

        - `.txt`: a class a line, synonyms separated by `|`. Empty lines and lines that begin with `#` are skipped.
        - `.tsv`: a header with the column `names` (words separated by commas) and, where wanted, `label` (0, 1, ...),
          `raw_id` (values in the original annotation, separated by commas, or empty) and `display` (the name to show,
          where it is not the first word). Lines that begin with `#` are skipped, but `#: ignore_label 65535` sets what
          the class calls so; `background_from`, `shared_synonyms` and `templates` likewise, values written as JSON.
        - `.json`: a list as for `from_list`, or an object with the arguments of the class, as `save` writes it.

        Args:
            path: The file.
            templates: In place of what the file says, or of the default.

        Raises:
            ValueError: The file cannot be read, is of another kind, or holds what the class refuses; says where.
        """
        try:
            fields = read_vocabulary_file(path)
            return cls(**{**fields, **({} if templates is None else {"templates": templates})})
        except ValueError as error:
            where = f"Vocabulary file {os.fspath(path)!r}"
            raise error if where in str(error) else ValueError(f"{where}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a `.json` or `.tsv` file from which `from_file` makes an equal vocabulary, whole or not at all.

        Raises:
            ValueError: Another suffix, a path that cannot be written, or a comma in a word, which TSV cannot hold.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".json", ".tsv"):
            raise ValueError(
                f"{str(path)!r} ends in {suffix!r}; expected .json or .tsv, which keep templates and labels."
            )
        fields: Fields = {key: getattr(self, key) for key in JSON_KEYS}
        write_atomically(path, (format_json(fields) if suffix == ".json" else format_tsv(fields)).encode())

    # --- names and labels ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of classes that are prompted and predicted, C."""
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Label -> display name, as configurations of transformers hold it."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Display name -> label."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word_key(name): i for i, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """The label of a display name, whatever its letter case.

        Raises:
            ValueError: No class has that name; says which come close.
        """
        key = word_key(_clean(name, "The name"))
        if key not in self._index:
            close = [self.names[self._index[k]] for k in difflib.get_close_matches(key, self._index)]
            hint = f" Close to it: {', '.join(map(repr, close))}." if close else ""
            raise ValueError(f"None of the {len(self)} classes is named {quoted(name)}.{hint}")
        return self._index[key]

    def prompts(self) -> list[list[str]]:
        """C lists of prompts: every word of the class in every template."""
        return [fill_templates(words, self.templates) for words in self.synonyms]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over what decides the text embeddings: names, synonyms, templates."""
        return sha256_of([self.names, self.synonyms, self.templates])

    # --- annotations and scores ---------------------------------------------------------------------------------------

    @property
    def scored_names(self) -> tuple[str, ...]:
        """The names of what is scored: all of them, or those before `background_from` and "background"."""
        return self.names if self.background_from is None else (*self.names[: self.background_from], "background")

    def to_scored(self, label_map: np.ndarray) -> np.ndarray:
        """A map of predicted labels, any shape -> one of scored labels; ignored pixels stay so."""
        if self.background_from is None:
            return label_map
        is_background = (label_map >= self.background_from) & (label_map != self.ignore_label)
        return np.where(is_background, np.asarray(self.background_from, label_map.dtype), label_map)

    def labels_from_raw(self, annotation: np.ndarray) -> np.ndarray:
        """The values of an original annotation, integers of any shape -> scored labels, int32.

        Where the vocabulary has `raw_ids`, values that they do not name become `ignore_label`; otherwise values that
        are no label do.

        Raises:
            ValueError: The annotation holds no integers.
        """
        if not np.issubdtype(annotation.dtype, np.integer):
            raise ValueError(f"The annotation is {annotation.dtype}; expected integers, one a pixel. Convert it.")
        table = self._raw_table
        in_table = (annotation >= 0) & (annotation < len(table))
        return np.where(in_table, table[np.where(in_table, annotation, 0)], np.int32(self.ignore_label))

    @cached_property
    def _raw_table(self) -> np.ndarray:
        raw_ids = self.raw_ids
        if raw_ids is None:
            raw_ids = {label: label for label in range(len(self.scored_names))}
        table = np.full(max(raw_ids, default=0) + 1, self.ignore_label, np.int32)
        table[list(raw_ids)] = list(raw_ids.values())
        return table

    # --- text embeddings ----------------------------------------------------------------------------------------------

    def encode(
        self,
        model: TextEncoder,
        processor: Any,
        batch_size: int = 256,
        device: str | torch.device | None = None,
        progress: bool = False,
    ) -> TextEmbeddings:
        """Encodes every class once; see `encode_classes`.

        Args:
            model: Has `text_model` and `get_text_features(input_ids (C, P, L), attention_mask (C, P, L)) -> (C, 2, D)`.
            processor: Has the `tokenizer` of the text tower.
            batch_size: Prompts at once, at most; a class that has more goes alone.
            device: Where the token ids go. `None`: where the text tower is.
            progress: Shows a bar.

        Returns:
            The embeddings, on the CPU, with the fingerprints of this vocabulary and of the model.

        Raises:
            ValueError: A prompt longer than the text tower reads (none is cut short), no tokenizer, results not finite.
        """
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(
                f"The processor, {type(processor).__name__}, has no tokenizer, which words need. "
                "Load or convert the model with its tokenizer."
            )
        tensor = encode_classes(
            model, tokenizer, self.prompts(), batch_size=batch_size, device=device, progress=progress
        )
        return TextEmbeddings(tensor, self.names, self.fingerprint, model_fingerprint(model))


def as_vocabulary(labels: Any, templates: str | Sequence[str] | None = None) -> Vocabulary:
    """What people call labels -> a vocabulary.

    Args:
        labels: A list, a string of labels separated by commas, or a `Vocabulary`.
        templates: In place of the vocabulary's, or of the default.

    Raises:
        ValueError: No labels, or labels that `Vocabulary` refuses.
    """
    if isinstance(labels, Vocabulary):
        return labels if templates is None else replace(labels, templates=resolve_templates(templates))
    if labels is None:
        labels = []
    if isinstance(labels, str):
        labels = labels.split(",") if labels.strip() else []
    return Vocabulary.from_list(labels) if templates is None else Vocabulary.from_list(labels, templates=templates)


def _sequence(values: Any, what: str) -> list[Any]:
    if isinstance(values, str):
        raise ValueError(
            f"{what} are one string, {quoted(values)}; expected a list of strings. Write [{quoted(values)}]."
        )
    if isinstance(values, (bytes, Mapping, set, frozenset)) or not isinstance(values, Iterable):
        raise ValueError(
            f"{what} are of type {type(values).__name__}; expected a list of strings, in the order of the labels."
        )
    return list(values)


def _clean(word: Any, what: str) -> str:
    if not isinstance(word, str):
        raise ValueError(f"{what} is {quoted(word)} of type {type(word).__name__}; expected a string.")
    cleaned = " ".join(unicodedata.normalize("NFC", word).split())
    if not any(c.isprintable() and c != " " for c in cleaned):
        raise ValueError(
            f"{what} is {quoted(word)}, which shows nothing; expected a word. Remove it or give it a name."
        )
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned):
        raise ValueError(f"{what}, {quoted(word)}, holds control characters or broken Unicode. Remove them.")
    return cleaned


def word_key(word: str) -> str:
    """What two spellings of the same word have in common: white space, letter case and Unicode forms do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", " ".join(word.split())).casefold())


def _clean_synonyms(synonyms: Any, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    synonyms = _sequence(synonyms, "Synonyms")
    if len(synonyms) != len(names):
        raise ValueError(f"Got {len(synonyms)} lists of synonyms for {len(names)} names; pass one per name.")
    cleaned = []
    for i, (name, words) in enumerate(zip(names, synonyms)):
        words = tuple(
            _clean(word, f"A word of label {i} ({quoted(name)})") for word in _sequence(words, f"Synonyms of label {i}")
        )
        if not words:
            raise ValueError(f"Label {i} ({quoted(name)}) has no words to prompt; expected its name at least.")
        cleaned.append(words)
    return tuple(cleaned)


def _refuse_repeated(names: tuple[str, ...], synonyms: tuple[tuple[str, ...], ...], shared_synonyms: bool) -> None:
    label_of_name: dict[str, int] = {}
    for i, name in enumerate(names):
        if (first := label_of_name.setdefault(word_key(name), i)) != i:
            raise ValueError(
                f"Labels {first} and {i} have the same name, {quoted(names[first])} and {quoted(name)}; "
                "expected different ones. Remove one, or rename it."
            )
    label_of_word: dict[str, int] = {}
    label_of_words: dict[frozenset[str], int] = {}
    for i, words in enumerate(synonyms):
        keys = [word_key(word) for word in words]
        for j, key in enumerate(keys):
            if key in keys[:j]:
                raise ValueError(f"Label {i} ({quoted(names[i])}) has the word {quoted(words[j])} twice. Remove one.")
            if (first := label_of_word.setdefault(key, i)) != i and not shared_synonyms:
                raise ValueError(
                    f"The word {quoted(words[j])} stands for two classes, label {first} ({quoted(names[first])}) "
                    f"and label {i} ({quoted(names[i])}). Remove it from one, or set shared_synonyms."
                )
        if (first := label_of_words.setdefault(frozenset(keys), i)) != i:
            raise ValueError(
                f"Labels {first} ({quoted(names[first])}) and {i} ({quoted(names[i])}) have the same words, so "
                "nothing could tell them apart. Remove one, or give it words of its own."
            )


def _checked_raw_ids(raw_ids: Any, num_labels: int) -> dict[int, int]:
    if not isinstance(raw_ids, Mapping):
        raise ValueError(
            f"raw_ids is of type {type(raw_ids).__name__}; expected a mapping from annotation values to labels."
        )
    for raw_id, label in raw_ids.items():
        if not 0 <= checked_integer(raw_id, "A raw id") <= MAX_RAW_ID:
            raise ValueError(
                f"The raw id {raw_id} is not within 0..{MAX_RAW_ID}, the values of an annotation of 8 or 16 bits."
            )
        if not 0 <= checked_integer(label, f"The label of raw id {raw_id}") < num_labels:
            raise ValueError(f"The raw id {raw_id} stands for label {label}; expected one within 0..{num_labels - 1}.")
    return {int(raw_id): int(raw_ids[raw_id]) for raw_id in sorted(raw_ids)}
