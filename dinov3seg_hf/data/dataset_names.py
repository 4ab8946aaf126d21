# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Names of data sets: folder or Hub id. Finds typing errors before libraries are imported; opens nothing."""

import os
from pathlib import Path

from ..checkpoint_names import is_hub_id

# Seconds that one answer of the Hub is waited for.
PATIENCE = 10.0


def check_dataset(name: str | os.PathLike[str], revision: str | None = None) -> None:
    """Checks that a data set exists: a folder with files, or a data set on the Hub, if the Hub can be asked.

    Args:
        name: A folder, or an id on the Hub.
        revision: Revision on the Hub.

    Raises:
        ValueError: If the folder or the data set on the Hub does not exist, or the name is that of a file, or of a
            folder although there is a revision.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = os.fspath(name)
    check_dataset_path(name)
    if Path(name).expanduser().is_dir():
        if revision is not None:
            raise ValueError(
                f"The revision is {revision!r}, but {name!r} is a folder here, so it is not read from the Hub. Leave "
                "the revision out, or rename the folder."
            )
        return
    try:
        HfApi().dataset_info(name, revision=revision, timeout=PATIENCE)
    except GatedRepoError:
        return  # it exists; the library says how to get access
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"Data set {name!r} was not found: no such folder (current directory: {os.getcwd()!r}), and no data set of "
            "this name on the Hub that you may read. Check the spelling, or log in."
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(
            f"The data set {name!r} has no revision {revision!r} on the Hub. Check the spelling."
        ) from error
    except Exception as error:  # no network: the data set may be on this machine, if it can be one on the Hub
        if not is_hub_id(name):
            raise ValueError(
                f"Data set {name!r} was not found (current directory: {os.getcwd()!r}), and the Hub does not answer. "
                "Check the path, or pass a Hub id such as owner/name."
            ) from error


def check_dataset_path(name: str | os.PathLike[str]) -> None:
    """Checks that what can only be a path is a folder with files. Does not access the network.

    Raises:
        ValueError: If it is not.
    """
    name = os.fspath(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any(folder.iterdir()):
            raise ValueError(f"The folder {name!r} is empty; expected images or a data set. Check the path.")
        return
    if folder.exists():
        raise ValueError(f"The data set {name!r} is a file; expected a folder or a Hub id. Pass its folder.")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or name.endswith("/"):
        raise ValueError(
            f"Data set {name!r} was not found (current directory: {os.getcwd()!r}). Check the path, or pass a Hub id."
        )
