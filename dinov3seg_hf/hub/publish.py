# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""From a checkpoint's folder to a model and a Space on the Hub.

Complete folders come first, to look at: weights as sharded safetensors, code, processor, card, example; the demo with
pinned requirements. They are loaded in a fresh process that cannot import this package, and must segment the example as
the checkpoint does. Only then do they go up, each in one commit.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ..about import __version__
from ..model.files import disk_errors_as_value_errors
from .example import Example
from .model_folder import MAX_SHARD_SIZE, build_model_folder
from .space import build_space_folder
from .upload import PublishingError, Upload, check_access, upload_folder


@dataclass(frozen=True)
class Publication:
    """What was built and, unless it was a dry run, uploaded."""

    model_folder: Path
    space_folder: Path | None
    uploads: tuple[Upload, ...]


def publish(
    model: str | os.PathLike,
    repo_id: str,
    output: str | os.PathLike,
    *,
    card_template: str | os.PathLike,
    example: Example,
    space_id: str | None = None,
    demo: str | os.PathLike | None = None,
    constraints: str | os.PathLike | None = None,
    results: Sequence[str | os.PathLike] = (),
    metadata: dict[str, Any] | None = None,
    private: bool = False,
    dry_run: bool = False,
    max_shard_size: str = MAX_SHARD_SIZE,
    api: HfApi | None = None,
) -> Publication:
    """Builds, checks and uploads a model, and a Space that runs from it.

    Args:
        model: The folder of a checkpoint.
        repo_id: Where the model goes, "owner/name".
        output: A new or empty folder; the folders to upload are made in it.
        card_template: `model_card.md`.
        example: What is segmented to check the folder, and shown.
        space_id: Where the Space goes, "owner/name"; no Space unless given.
        demo: The folder that the Space is made of; "demo" unless given.
        constraints: A file of pinned versions of what the Space requires; those that are installed, where it has none.
        results: `results.json` files of this very checkpoint.
        metadata: Fields of the card's front matter: `license`, `license_name`, `license_link`, `base_model`,
            `datasets`.
        private: Whether the repositories are to be seen by their owners alone.
        dry_run: Build and check, and leave it at that.
        max_shard_size: Of a file of weights.
        api: Endpoint and token; those of the environment unless given.

    Raises:
        PublishingError: Something is missing or wrong; says what to do.
    """
    api = HfApi() if api is None else api
    if not dry_run:  # before the long work
        for name in filter(None, (repo_id, space_id)):
            check_access(name, api)
    output = _empty_folder(output)
    remedy = "Make room there, or choose another --output. Nothing was published."
    with disk_errors_as_value_errors(f"The folders in {str(output)!r}", remedy, PublishingError):
        model_folder = build_model_folder(
            model,
            repo_id,
            output / "model",
            card_template=card_template,
            example=example,
            space_id=space_id,
            results=results,
            metadata=metadata,
            max_shard_size=max_shard_size,
        )
        space_folder = None
        if space_id is not None:
            space_folder = build_space_folder(
                demo, repo_id, space_id, output / "space", example=example, constraints=constraints
            )
    uploads = []
    if not dry_run:
        message = f"Publish with dinov3seg_hf {__version__}"
        upload = partial(upload_folder, private=private, message=message, api=api)
        uploads.append(upload(model_folder, repo_id))
        if space_folder is not None and space_id is not None:  # after the model that it runs from
            uploads.append(upload(space_folder, space_id, repo_type="space"))
    return Publication(model_folder, space_folder, tuple(uploads))


def _empty_folder(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise PublishingError(f"The output {str(path)!r} is there and not empty. Remove it, or choose another.")
    return path


__all__ = ["Publication", "publish"]
