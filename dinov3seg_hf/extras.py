# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""One error message for libraries that only an extra of the package installs."""

import importlib
import importlib.util
import os
import sys


def require_installed(extra: str | None, *modules: str, what: str = "This command") -> None:
    """Checks that the libraries of an extra are installed. Imports nothing, which would take seconds.

    Args:
        extra: The name of the extra.
        modules: The libraries.
        what: What requires the libraries, as the beginning of a sentence.

    Raises:
        ValueError: If a library is missing; the message contains the installation command.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _missing(extra, module, what, "it is not installed")


def require_extra(extra: str | None, *modules: str, what: str = "This command") -> None:
    """Checks that the libraries of an extra can be imported; see `require_installed`.

    Raises:
        ValueError: If a library cannot be imported; the message contains the installation command.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise _missing(extra, module, what, str(error)) from error


def exit_without_extra(extra: str, *modules: str) -> None:
    """For scripts, before they import more: ends the process with one line if a library of an extra is missing."""
    try:
        require_installed(extra, *modules, what="This script")
    except ValueError as error:
        print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
        sys.exit(2)


def _missing(extra: str | None, module: str, what: str, reason: str) -> ValueError:
    return ValueError(
        f"{what} requires {module}, but {module} cannot be imported ({reason}). Install the extra: "
        f'pip install "dinov3seg_hf[{extra}]"'
    )
