# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Opens data sets (folders, saved data sets, the Hub) with Hugging Face `datasets` and finds their class names.

Uses files and the Hub. Does not decode images or masks.
"""

import os
from pathlib import Path
from typing import Any

import datasets
import yaml
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from ..drawn_world.names import DRAWN_WORLD
from ..model.checks import checked_flag, checked_path, load_json, plain_reason, quoted
from ..model.files import read_text_up_to
from ..model.vocabulary import Vocabulary
from .columns import Dataset, class_names_of
from .dataset_names import check_dataset_path
from .mask_folders import class_file, find_mask_folders, open_mask_folders
from .presets import prepared_vocabulary, preset_vocabulary, protocol_of
from .stored_images import mark_as_of_hub

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
    """Opens one split of a data set: images beside masks, or what `load_dataset` supports or `save_to_disk` wrote.

    Args:
        name: A folder (images and masks, see `mask_folders.py`; parquet, `imagefolder`, `save_to_disk`), or the id of
            a data set on the Hub.
        split: A split such as `"train"`, or a part of a split, such as `"train[:100]"`. With `streaming`, parts are
            supported only for folders written by `save_to_disk`.
        config_name: Name of the subset of a data set with several subsets.
        revision: Revision of a data set on the Hub.
        streaming: Whether to read rows on demand, without downloading or converting all rows first.
        token: Token for private data sets on the Hub. Default: the token of the last login.

    Raises:
        ValueError: If the data set is not found or cannot be opened, or the split does not exist; the message lists
            the existing splits.
    """
    name = checked_path(name, "The name of the data set")
    for what, text in (("split", split), ("config_name", config_name), ("revision", revision)):
        if not isinstance(text, str) and (text is not None or what == "split"):
            raise ValueError(
                f"{what} is {quoted(text)}; expected text, for example 'train'. Pass the name of a {what}."
            )
    checked_flag(streaming, "streaming")
    check_dataset_path(name)
    folder = Path(name).expanduser()
    try:
        if folder.is_dir() and any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.Dataset):
                saved = datasets.DatasetDict({str(saved.split or split): saved})
            dataset = _choose_split(saved, split)
            return dataset.to_iterable_dataset(max(1, len(dataset.cache_files))) if streaming else dataset
        if splits := find_mask_folders(folder):
            dataset = _choose_split(open_mask_folders(splits), split)
            return dataset.to_iterable_dataset() if streaming else dataset
        opened = datasets.load_dataset(
            str(folder) if folder.is_dir() else name,
            config_name,
            split=split,
            revision=revision,
            streaming=streaming,
            token=token,
        )
        return opened if folder.is_dir() else mark_as_of_hub(opened)
    except Exception as error:  # the library raises many types of errors for missing and unreadable data
        raise ValueError(
            f"The split {split!r} of the data set {name!r} cannot be opened: {plain_reason(error)}. Pass a folder with "
            "images and masks, a folder of parquet files, a folder written by save_to_disk, or a Hub id, and an "
            "existing split."
        ) from error


def _choose_split(saved: datasets.DatasetDict, split: str) -> datasets.Dataset:
    base, bracket, part = split.partition("[")
    if base not in saved:
        raise ValueError(f"the data set has the splits {', '.join(saved)}.")
    dataset = saved[base]
    if not bracket:
        return dataset
    # the parser of `datasets` for "[10%:20%]"
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
    """Finds the class names of a data set and returns them as a vocabulary.

    Args:
        dataset: A data set. Its class names come from the preset that its rows were prepared with, or from a
            `ClassLabel` in its features, if it has one of these. A column with one label per image does not count.
        source: A vocabulary, the name of a preset, or a vocabulary file. Replaces the class names of the data set.
        card: A folder or Hub id of a data set. A file `classes.txt` (or .tsv, .json; or `labels`) in the folder, the
            header of the data set card (`class_names`, `label_names` or `id2label`) or a file `id2label.json` next to
            the card may list the class names.
        revision: Revision of the card on the Hub.
        token: Token for a private card. Default: the token of the last login.

    Raises:
        ValueError: If class names are not found, `source` is unknown, or the card is not valid.
    """
    if isinstance(source, Vocabulary):
        return source
    if source is not None:
        source = checked_path(source, "The name of the class names")
        if (preset := preset_vocabulary(source)) is not None:
            return preset
        if Path(source).is_file():
            return Vocabulary.from_file(source)
        raise ValueError(
            f"Unknown class names {source!r}; expected a file or one of the presets "
            f"{', '.join(Vocabulary.presets())}, {DRAWN_WORLD}. Check the path or the spelling."
        )
    if dataset is not None:
        if (prepared := prepared_vocabulary(protocol_of(dataset))) is not None:
            return prepared
        if names := class_names_of(dataset):
            return Vocabulary(names, shared_synonyms=True)
    if card is not None and (file := class_file(Path(card).expanduser())) is not None:
        return Vocabulary.from_file(file)
    if card is not None and (names := _names_in_card(card, revision, token)):
        return Vocabulary(names, shared_synonyms=True)
    raise ValueError(
        "The class names of the data set were not found: neither its features (one ClassLabel, in masks or lists), nor "
        "its card, nor a file classes.txt in its folder specify class names. Pass a preset "
        f"({', '.join(Vocabulary.presets())}), or a file with one class per line."
    )


def _names_in_card(card: str | os.PathLike, revision: str | None, token: str | bool | None) -> Any:
    """The value that a card lists as class names; `None` if the card does not list any.

    The value may be of any type: `Vocabulary` checks it.
    """
    folder, name = Path(card).expanduser(), os.fspath(card)
    try:
        parts = ("README.md", ID2LABEL_FILE)
        if folder.is_dir():
            readme, file = [folder / part if (folder / part).is_file() else None for part in parts]
        else:
            readme, file = [_downloaded(name, part, revision, token) for part in parts]
        content = {} if readme is None else DatasetCard(read_text_up_to(readme)).data.to_dict()
        listed = next((content[key] for key in CARD_KEYS if content.get(key)), None)
        if listed is None and file is not None:
            listed = load_json(read_text_up_to(file))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError):
        return None
    except (ValueError, TypeError, AttributeError, RecursionError, OSError, yaml.YAMLError) as error:
        raise ValueError(
            f"The card of the data set {name!r} cannot be read ({plain_reason(error)}). Correct the card, or pass "
            "a file with one class per line."
        ) from error
    if isinstance(listed, dict):
        try:
            by_label = {int(label): str(value) for label, value in listed.items()}
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"The card of {name!r} maps {list(listed)[:3]} to names; expected the labels 0, 1, 2 and so on. "
                "Correct the card, or pass a file with one class per line."
            ) from error
        if sorted(by_label) != list(range(len(by_label))):
            raise ValueError(
                f"The card of {name!r} lists the labels {sorted(by_label)[:5]} ...; expected 0 to {len(by_label) - 1}. "
                "Correct the card, or pass a file with one class per line."
            )
        return [by_label[label] for label in range(len(by_label))]
    return listed


def _downloaded(name: str, file: str, revision: str | None, token: str | bool | None) -> Path | None:
    """Downloads a file of a data set on the Hub; returns `None` if the data set does not have this file."""
    try:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision, token=token))
    except EntryNotFoundError:
        return None
