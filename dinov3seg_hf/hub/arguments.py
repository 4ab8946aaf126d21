# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Checks the arguments of `publish` before the slow steps."""

import os
from collections.abc import Mapping
from typing import Any

from huggingface_hub import HfApi

from ..checkpoint_names import is_hub_id
from ..model.checks import check_flags, checked_path, checked_shard_size, quoted
from ..model.vocabulary import Vocabulary, as_vocabulary
from .example import Example
from .upload import PublishingError


def check_arguments(
    model: Any,
    repo_id: Any,
    output: Any,
    *,
    card_template: Any,
    example: Any,
    space_id: Any,
    demo: Any,
    constraints: Any,
    results: Any,
    metadata: Any,
    vocabulary: Any,
    code_license: Any,
    private: Any,
    dry_run: Any,
    max_shard_size: Any,
    api: Any,
) -> None:
    """Checks the types of the arguments, the names of repositories, and the labels of the example. Opens no files.

    Args: See `publish`.

    Raises:
        PublishingError: If an argument is invalid.
    """
    optional = {"demo": demo, "constraints": constraints, "code_license": code_license}
    paths = {"model": model, "output": output, "card_template": card_template}
    paths |= {what: path for what, path in optional.items() if path is not None}
    # the client says more of a name if it is to be written to
    names = {"repo_id": repo_id, "space_id": space_id} if dry_run is True else {}
    try:
        for what, path in paths.items():
            checked_path(path, what)
        for what, name in names.items():
            if not (what == "space_id" and name is None) and not is_hub_id(name):
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
        check_flags(private=private, dry_run=dry_run)
        if api is not None and not isinstance(api, HfApi):
            raise ValueError(f"api is {quoted(api)}; expected an HfApi. Pass HfApi(token=...), or leave it out.")
    except ValueError as error:
        raise PublishingError(str(error)) from error


__all__ = ["check_arguments"]
