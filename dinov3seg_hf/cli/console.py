# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What all commands share at a terminal: quiet libraries, errors in one line, exit codes, kinds of arguments.

Results go to stdout and to files, everything else to stderr. Exit codes: 0 all done, 2 something was wrong, 130
interrupted.
"""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn, Protocol

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 2, 130


class Command(Protocol):
    """A module of this room."""

    def make_parser(self, prog: str) -> argparse.ArgumentParser:
        """The parser of its arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Does the work; the exit code."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with arguments in one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends the process."""
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def execute(command: Command, prog: str, arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        command: What to run.
        prog: What it is called in messages.
        arguments: Those of the command line unless given.

    Returns:
        The exit code.
    """
    try:
        options = command.make_parser(prog).parse_args(arguments)
        quiet_libraries()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn their callers, not the people at the terminal
            return command.run(options)
    except BrokenPipeError:  # as in `dinov3seg ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except (ValueError, OSError, MemoryError) as error:
        print_error(prog, error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print_error(prog, getattr(command, "INTERRUPTED", "interrupted"))
        return EXIT_INTERRUPTED


def quiet_libraries() -> None:
    """Libraries say nothing: what fails is said once, by us."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity(hub_logging.CRITICAL)  # its retries, and warnings that hold signed addresses
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack the letters of a label


def print_error(prog: str, error: BaseException | str) -> None:
    """One line on stderr; of several processes that a launcher started, the first speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        # "error: " is for what went wrong; an interruption is not
        kind = "error: " if isinstance(error, BaseException) else ""
        print(f"{prog}: {kind}{' '.join(str(error).split())}", file=sys.stderr, flush=True)


def require_extra(extra: str | None, *modules: str) -> None:
    """Finds out whether the libraries of an extra are there.

    Raises:
        ValueError: One is missing; says how to install it.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                f"This command needs {module}, which cannot be imported ({error}). Install the extra: "
                f'pip install "dinov3seg_hf[{extra}]"'
            ) from error


def share(text: str) -> float:
    """An argument between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number between 0 and 1")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of at least 1")
    return int(text)
