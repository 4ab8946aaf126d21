# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""One error message for libraries that only an extra of the package installs."""

import importlib


def require_extra(extra: str | None, *modules: str, what: str = "This command") -> None:
    """Checks that the libraries of an extra can be imported.

    Args:
        extra: The name of the extra.
        modules: The libraries to import.
        what: What requires the libraries, as the beginning of a sentence.

    Raises:
        ValueError: If a library cannot be imported; the message contains the installation command.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                f"{what} requires {module}, but {module} cannot be imported ({error}). Install the extra: "
                f'pip install "dinov3seg_hf[{extra}]"'
            ) from error
