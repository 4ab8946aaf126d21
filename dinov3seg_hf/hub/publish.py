# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Publishes the folder of a checkpoint as a model and a Space on the Hub.

The first step builds complete folders for inspection: weights as sharded safetensors, code, processor, card, example;
and the demo with pinned requirements. A new process that cannot import this package loads the model folder; the example
must give the same segmentation as the checkpoint. After this check, the folders are uploaded, each in one commit.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import HfApi

from ..about import MAX_SHARD_SIZE, __version__
from ..model.files import disk_errors_as_value_errors
from ..model.vocabulary import Vocabulary
from .arguments import check_arguments
from .example import Example
from .model_folder import build_model_folder
from .space import build_space_folder
from .upload import PublishingError, Upload, check_access, upload_folder

# The folders that are built, and the mark of a call that has not ended.
MODEL, SPACE, BEGUN = "model", "space", ".publishing"
REMEDY = "Free disk space, or choose another --output. Nothing was published."


@dataclass(frozen=True)
class Publication:
    """The built folders and, unless it was a dry run, the uploads."""

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
    vocabulary: Vocabulary | None = None,
    code_license: str | os.PathLike | None = None,
    private: bool = False,
    dry_run: bool = False,
    max_shard_size: str = MAX_SHARD_SIZE,
    api: HfApi | None = None,
) -> Publication:
    """Builds, checks and uploads a model and, if requested, a Space that loads this model.

    Args:
        model: The folder of a checkpoint.
        repo_id: The target repository of the model, "owner/name".
        output: A new or empty folder, in which the folders to upload are built; or the folder of an interrupted call,
            which starts again there.
        card_template: The path of `model_card.md`.
        example: The example, which is segmented to check the folder and shown on the card.
        space_id: The target repository of the Space, "owner/name". Default: no Space.
        demo: The folder with the files of the Space. Default: "demo".
        constraints: A file of pinned versions for the requirements of the Space. Default for each requirement: the
            installed version.
        results: `results.json` files of this checkpoint.
        metadata: Fields of the card's front matter: `license`, `license_name`, `license_link`, `base_model`,
            `datasets`.
        vocabulary: The default vocabulary of the published model, for calls without labels. Default: that of the
            checkpoint, else the labels of the example.
        code_license: The file with the license of the code, to put in the repository of the model. Default: none.
        private: Whether the repositories must be private.
        dry_run: Whether to build and check only, without an upload.
        max_shard_size: Maximum size of one weights file.
        api: The client with endpoint and token. Default: endpoint and token of the environment.

    Raises:
        PublishingError: If something is missing or wrong; the message contains a remedy.
    """
    check_arguments(**locals())  # all of them
    api = HfApi() if api is None else api
    output = _checked_output(output)
    if not dry_run:  # checked before the slow steps
        for name in filter(None, (repo_id, space_id)):
            check_access(name, api)
    with _claimed(output):
        with disk_errors_as_value_errors(f"The folders in {str(output)!r}", REMEDY, PublishingError), _removed(output):
            model_folder = build_model_folder(
                model,
                repo_id,
                output / MODEL,
                card_template=card_template,
                example=example,
                space_id=space_id,
                results=results,
                metadata=metadata,
                vocabulary=vocabulary,
                code_license=code_license,
                max_shard_size=max_shard_size,
            )
            space_folder = None
            if space_id is not None:
                space_folder = build_space_folder(
                    demo, repo_id, space_id, output / SPACE, example=example, constraints=constraints
                )
        uploads = []
        if not dry_run:
            message = f"Publish with dinov3seg_hf {__version__}"
            upload = partial(upload_folder, private=private, message=message, api=api)
            uploads.append(upload(model_folder, repo_id))
            if space_folder is not None and space_id is not None:  # after the model, which the Space loads
                uploads.append(upload(space_folder, space_id, repo_type="space"))
    return Publication(model_folder, space_folder, tuple(uploads))


@contextmanager
def _claimed(output: Path) -> Iterator[None]:
    """Marks the folder until all is done, so that the same command works again after a kill or a failed upload."""
    mark, is_new = output / BEGUN, not output.exists()
    lock, is_kept = FileLock(mark), False
    with disk_errors_as_value_errors(f"The folder {str(output)!r}", REMEDY, PublishingError):
        output.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise PublishingError(
                f"Another process publishes from {str(output)!r}. Wait for it, or choose another --output."
            ) from None
        _remove_built(output)
    try:
        yield
    except BaseException:
        is_kept = (output / MODEL).exists()
        raise
    finally:
        lock.release()
        mark.touch() if is_kept else mark.unlink(missing_ok=True)
        if is_new:
            with contextlib.suppress(OSError):  # not empty
                output.rmdir()


@contextmanager
def _removed(output: Path) -> Iterator[None]:
    """Removes unfinished folders if there is an error."""
    try:
        yield
    except BaseException:
        _remove_built(output)
        raise


def _remove_built(output: Path) -> None:
    for name in (MODEL, SPACE):
        shutil.rmtree(output / name, ignore_errors=True)


def _checked_output(path: str | os.PathLike) -> Path:
    """Returns an empty folder, or that of an interrupted call, which is known by its mark: its files are our own."""
    path = Path(path)
    if path.is_dir() and (path / BEGUN).is_file() and {entry.name for entry in path.iterdir()} <= {BEGUN, MODEL, SPACE}:
        return path
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise PublishingError(
            f"output {str(path)!r} is not an empty folder; expected a new or empty folder. Choose another folder."
        )
    return path


__all__ = ["Publication", "publish"]
