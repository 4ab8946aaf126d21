# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Data sets and their class names, as Hugging Face `datasets` opens them: folders, saved sets, the Hub.

Knows files and the Hub; what the rows hold is read elsewhere.
"""

import json
import os
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from ..model.checks import first_line
from ..model.vocabulary import Vocabulary
from .columns import Dataset, class_names_of
from .presets import DRAWN_WORLD, prepared_vocabulary, preset_vocabulary, protocol_of

CARD_KEYS = ("class_names", "label_names", "id2label")

ID2LABEL_FILE = "id2label.json"


def open_dataset(
    name: str | os.PathLike,
    split: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    token: str | bool | None = None,
) -> Dataset:
    """Opens one split of whatever `datasets.load_dataset` opens, and of what `save_to_disk` saved.

    Args:
        name: A folder (parquet, `imagefolder`, `save_to_disk`), or the id of a data set on the Hub.
        split: Such as `"train"`, or a part of one, `"train[:100]"` (not while streaming).
        config_name: Which of several subsets.
        revision: Of a data set on the Hub.
        streaming: Reads rows as they are needed, without downloading or converting all of them first.
        token: For private data sets on the Hub; by default that of the last login.

    Raises:
        ValueError: It cannot be found or opened, or has no such split; says what there is.
    """
    name = os.fspath(name)
    folder = Path(name).expanduser()
    if not folder.exists() and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise ValueError(f"There is no data set {name!r} (now in {os.getcwd()!r}). Check the path, or give a Hub id.")
    try:
        if folder.is_dir() and any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.Dataset):
                saved = datasets.DatasetDict({str(saved.split or split): saved})
            dataset = _choose_split(saved, split, name)
            return dataset.to_iterable_dataset(max(1, len(dataset.cache_files))) if streaming else dataset
        return datasets.load_dataset(
            str(folder) if folder.is_dir() else name,
            config_name,
            split=split,
            revision=revision,
            streaming=streaming,
            token=token,
        )
    except Exception as error:  # the library has a dozen kinds for what is not there or not to be read
        raise ValueError(
            f"The split {split!r} of the data set {name!r} cannot be opened: {first_line(error)}. Expected a folder "
            "of parquet or images, one that save_to_disk wrote, or a Hub id, and one of its splits."
        ) from error


def _choose_split(saved: datasets.DatasetDict, split: str, name: str) -> datasets.Dataset:
    base, bracket, part = split.partition("[")
    if base not in saved:
        raise ValueError(f"it has the splits {', '.join(saved)}.")
    dataset = saved[base]
    if not bracket:
        return dataset
    # the library's own reading of "[10%:20%]"
    instruction = datasets.ReadInstruction.from_spec(f"{base}{bracket}{part}")
    (absolute,) = instruction.to_absolute({base: len(dataset)})
    return dataset.select(range(absolute.from_ or 0, len(dataset) if absolute.to is None else absolute.to))


def find_vocabulary(
    dataset: Dataset | None,
    source: str | os.PathLike | Vocabulary | None = None,
    *,
    card: str | os.PathLike | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Vocabulary:
    """The class names of a data set.

    Args:
        dataset: Where its features may say them, by a `ClassLabel`, or its rows the preset they were prepared with.
        source: The name of a preset, or a vocabulary file; in place of what the data set says.
        card: A folder or Hub id: the data set's card may list the names (`class_names`, `label_names` or `id2label` in
            its header), or a file `id2label.json` beside it.
        revision: Of the card on the Hub.
        token: For a card that is private; by default that of the last login.

    Raises:
        ValueError: There are none, or the source is none; says where was looked.
    """
    if isinstance(source, Vocabulary):
        return source
    if source is not None:
        source = os.fspath(source)
        if (preset := preset_vocabulary(source)) is not None:
            return preset
        if Path(source).is_file():
            return Vocabulary.from_file(source)
        raise ValueError(
            f"There are no class names {source!r}: it is no file, and no preset of {', '.join(Vocabulary.presets())}, "
            f"{DRAWN_WORLD}. Check the path or the spelling."
        )
    if dataset is not None:
        if (prepared := prepared_vocabulary(protocol_of(dataset))) is not None:
            return prepared
        if names := class_names_of(dataset):
            return Vocabulary(names, shared_synonyms=True)
    if card is not None and (names := _names_in_card(card, revision, token)):
        return Vocabulary(names, shared_synonyms=True)
    raise ValueError(
        "The data set does not say its class names: no ClassLabel, no names in its card. Name a preset "
        f"({', '.join(Vocabulary.presets())}), or write them into a file, one a line, and name that."
    )


def _names_in_card(card: str | os.PathLike, revision: str | None, token: str | bool | None) -> Any:
    """What a card lists as names, which need not be names: `Vocabulary` checks it. `None` if it lists nothing."""
    folder, name = Path(card).expanduser(), os.fspath(card)
    try:
        if folder.is_dir():
            readme, id2label = folder / "README.md", folder / ID2LABEL_FILE
            content = DatasetCard.load(readme).data.to_dict() if readme.is_file() else {}
            file = id2label if id2label.is_file() else None
        else:
            downloaded = _downloaded(name, "README.md", revision, token)
            content = {} if downloaded is None else DatasetCard(downloaded.read_text()).data.to_dict()
            file = _downloaded(name, ID2LABEL_FILE, revision, token)
        listed = next((content[key] for key in CARD_KEYS if content.get(key)), None)
        if listed is None and file is not None:
            listed = json.loads(file.read_text(encoding="utf-8"))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError):
        return None
    except ValueError as error:
        raise ValueError(f"The card of the data set {name!r} cannot be read: {error}") from error
    if isinstance(listed, dict):
        try:
            by_label = {int(label): str(value) for label, value in listed.items()}
        except ValueError as error:
            raise ValueError(
                f"The card of {name!r} maps {list(listed)[:3]} to names; expected labels 0, 1, ..."
            ) from error
        if sorted(by_label) != list(range(len(by_label))):
            raise ValueError(
                f"The card of {name!r} names the labels {sorted(by_label)[:5]} ...; expected 0 to {len(by_label) - 1}. "
                "Write the names into a file and name that."
            )
        return [by_label[label] for label in range(len(by_label))]
    return listed


def _downloaded(name: str, file: str, revision: str | None, token: str | bool | None) -> Path | None:
    """A file of a data set on the Hub; `None` if it has none of that name."""
    try:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision, token=token))
    except EntryNotFoundError:
        return None
