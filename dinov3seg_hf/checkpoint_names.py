# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Names of checkpoints: folder, Hub id, training run, `embedded`. Loads nothing and imports no torch."""

import os
from pathlib import Path
from typing import Any

from .about import EMBEDDED, EMBEDDED_TITLE, TINY
from .file_names import RUN_DESCRIPTION, TRAINED_MODEL
from .model.checks import checked_path


def resolve_checkpoint(name: str | os.PathLike) -> str:
    """Returns the folder or Hub id of the model. Does not access the network.

    Args:
        name: A folder, a Hub id, the folder of a finished training run, or `"embedded"`.

    Raises:
        ValueError: If the name has none of these forms, the folder does not contain a model, or the run is not
            finished.
    """
    name = checked_path(name, "The name of the checkpoint")
    if name == EMBEDDED:
        return TINY
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not is_hub_id(name):  # a typing error, found without the network
            raise ValueError(
                f"Checkpoint folder {name!r} was not found (current directory: {os.getcwd()!r}). Check the path, or "
                "pass a Hub id such as owner/name."
            )
        return name
    if (folder / RUN_DESCRIPTION).exists() and not (folder / "config.json").exists():
        if not (folder / TRAINED_MODEL).is_dir():
            raise ValueError(
                f"The run in {name!r} is not finished and does not contain a model yet. Finish the run with --resume."
            )
        folder /= TRAINED_MODEL
    if not (folder / "config.json").exists():
        raise ValueError(
            f"config.json was not found in the folder {name!r}; expected a folder written by `dinov3seg convert` or by "
            "a finished run. Check the path."
        )
    return str(folder)


def is_hub_id(name: Any) -> bool:
    """Whether a value is a name of the form owner/name."""
    if not isinstance(name, str):
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def is_embedded(name: str | os.PathLike) -> bool:
    """Whether a name or path refers to the embedded checkpoint."""
    return os.fspath(name) == EMBEDDED or Path(name).resolve() == Path(TINY).resolve()


def title_of(name: str | os.PathLike) -> str:
    """The title of a checkpoint in results and pages."""
    return EMBEDDED_TITLE if is_embedded(name) else os.fspath(name)
