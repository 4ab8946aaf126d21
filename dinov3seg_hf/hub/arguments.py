# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Checks the arguments of `publish` before the slow steps."""

import os
from collections.abc import Mapping
from typing import Any

from ..checkpoint_names import is_hub_id
from ..model.checks import check_flags, checked_path, checked_shard_size, quoted
from ..model.vocabulary import Vocabulary, as_vocabulary
from .example import Example
from .upload import PublishingError


def check_arguments(
    *,
    paths: Mapping[str, Any],
    repositories: Mapping[str, Any],
    example: Any,
    results: Any,
    metadata: Any,
    vocabulary: Any,
    max_shard_size: Any,
    **flags: Any,
) -> None:
    """Checks the types of arguments, names of repositories, and the labels of the example. Opens no files.

    Args:
        paths: Paths, or `None`, by the names of their arguments.
        repositories: Names on the Hub, or `None`, by the names of their arguments.
        example: See `publish`, also for the other arguments.
        results: The paths of results.
        metadata: Fields of the front matter.
        vocabulary: The default vocabulary.
        max_shard_size: The size of a file.
        **flags: Whether or not.

    Raises:
        PublishingError: If an argument is invalid.
    """
    try:
        for what, path in paths.items():
            if path is not None:
                checked_path(path, what)
        for what, name in repositories.items():
            if name is not None and not is_hub_id(name):
                raise ValueError(f"{what} is {quoted(name)}; expected owner/name, such as my-name/dinov3-seg.")
        if not isinstance(example, Example):
            raise ValueError(f"example is {quoted(example)}; expected an Example. Pass Example(Path(...), labels).")
        checked_path(example.image, "The image of the example")
        as_vocabulary(example.labels)
        if isinstance(results, (str, os.PathLike)) or not isinstance(results, (list, tuple)):
            raise ValueError(f"results is {quoted(results)}; expected a list of paths. Pass a list.")
        for path in results:
            checked_path(path, "A path of results")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ValueError(f"metadata is {quoted(metadata)}; expected a mapping, such as {{'license': 'mit'}}.")
        if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
            raise ValueError(f"vocabulary is {quoted(vocabulary)}; expected a Vocabulary. Pass Vocabulary(names).")
        checked_shard_size(max_shard_size)
        check_flags(**flags)
    except ValueError as error:
        raise PublishingError(str(error)) from error


__all__ = ["check_arguments"]
