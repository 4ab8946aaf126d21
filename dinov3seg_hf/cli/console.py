# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Code that all commands share: quiet libraries, one-line errors, exit codes, argument types.

Results go to stdout and to files, everything else goes to stderr. Exit codes: 0 success, 2 error, 130 interrupted by
Ctrl+C or SIGTERM.
"""

import argparse
import functools
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NoReturn, Protocol

from ..model.checks import CalibrationWarning, MaskWarning, SeamWarning, TokenizerWarning, UnknownWordsWarning
from ..process_errors import OtherProcessError, is_of_another_process
from ..signals import terminated_like_ctrl_c
from .allocator import keep_freed_memory

# help of `--refine-features`
REFINE_FEATURES = "zero-shot head on refined features (default: the setting of the checkpoint)"
REFINE = "pixels: move edges of the result to edges of the image, without training (default: none)"
BACKGROUND = (
    'auto: pixels that show none of the labels are "none of these" (default: auto for calibrated labels, else never)'
)
ACTIVE_CLASSES = (
    "classes of each patch that the full head refines, auto or K; saves time with hundreds of names (default: all)"
)

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 2, 130
MAX_PORT = 65535
INTERRUPTED = "interrupted; run the same command again"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Command(Protocol):
    """A command module of this package.

    It can also have `check(options)`, which finds errors in the arguments before `run` imports what takes seconds. What
    `check` finds for `run` it adds to the options. `INTERRUPTED` says how to go on after Ctrl+C or SIGTERM.
    """

    def make_parser(self, prog: str) -> argparse.ArgumentParser:
        """Returns the parser of the arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Runs the command and returns the exit code."""


# how long the signal that stops all processes of a run may be on its way from one to the next
SIGNAL_SECONDS = 2


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message to stderr and exits."""
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def execute(
    command: Command,
    prog: str,
    arguments: Sequence[str] | None = None,
    require: Callable[[], None] = lambda: None,
) -> int:
    """Runs a command.

    Args:
        command: The command to run.
        prog: The name of the command in messages.
        arguments: The command-line arguments. Default: `sys.argv[1:]`.
        require: Raises an error if a library is missing; called when the arguments are known to be right.

    Returns:
        The exit code.
    """
    try:
        options = command.make_parser(prog).parse_args(arguments)
        with terminated_like_ctrl_c(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of libraries are for programmers, not for users
            for ours in (UnknownWordsWarning, CalibrationWarning, MaskWarning, SeamWarning, TokenizerWarning):
                warnings.simplefilter("always", ours)
            # once each; the filter "once" forgets what it has shown when a library changes the filters
            show = functools.cache(lambda message: print_error(prog, f"warning: {message}"))
            warnings.showwarning = lambda message, *_, **__: show(str(message))
            if hasattr(command, "check"):
                command.check(options)
            require()
            quiet_libraries()
            keep_freed_memory()
            return command.run(options)
    except BrokenPipeError:  # for example in `dinov3seg ... | head`
        _discard_stdout()
        return EXIT_OK
    except (ValueError, OSError, MemoryError) as error:
        print_error(prog, error)
        return EXIT_ERROR
    except RuntimeError as error:
        if not is_of_another_process(error):
            raise
        return _end_like_the_others(prog, error, getattr(command, "INTERRUPTED", INTERRUPTED))
    except KeyboardInterrupt:
        print_error(prog, getattr(command, "INTERRUPTED", INTERRUPTED))
        return EXIT_INTERRUPTED


def _end_like_the_others(prog: str, error: RuntimeError, interrupted: str) -> int:
    """Waits for the signal that has ended another process and may be on its way; returns the exit code."""
    try:
        with terminated_like_ctrl_c():
            time.sleep(SIGNAL_SECONDS)
    except KeyboardInterrupt:
        print_error(prog, interrupted)
        return EXIT_INTERRUPTED
    if not isinstance(error, OtherProcessError):  # which says why
        error = RuntimeError(
            "Another process of this run has ended. The launcher says which one; it may have run out of memory, or "
            "have been stopped. Run the command again."
        )
    print_error(prog, error)
    return EXIT_ERROR


def quiet_libraries() -> None:
    """Silences the libraries, because the command itself reports each error once."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity(hub_logging.CRITICAL)  # hides retries, and warnings that contain signed URLs
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # the encoding of a terminal may lack characters


def printable(text: str, keeps: str = "") -> str:
    """Returns a text with escapes for control characters, such as "\\x1b".

    In the name of a file, they would be commands to a terminal, and lines that look like others.

    Args:
        text: The text.
        keeps: The control characters that stay.
    """
    return CONTROL.sub(lambda found: found[0] if found[0] in keeps else repr(found[0])[1:-1], text)


def print_error(prog: str, error: BaseException | str) -> None:
    """Prints one line to stderr. Of several processes that a launcher started, only rank 0 prints."""
    if os.environ.get("RANK", "0") == "0":
        # an interruption, a string, is not an error
        kind = "error: " if isinstance(error, BaseException) else ""
        line = " ".join(printable(str(error), keeps="\t\r\n").split())
        print(f"{prog}: {kind}{line}", file=sys.stderr, flush=True)


def print_result(text: str, has_files: bool, title: str | None = None) -> None:
    """Prints a result to stdout. If nobody reads it any more (`| head`), the files of the command are still written.

    Args:
        text: The result.
        has_files: Whether the command writes files, too; else there is nothing left to do.
        title: What the result is of, if there are several.

    Raises:
        BrokenPipeError: If nobody reads it, and there are no files.
    """
    try:
        text = printable(text, keeps="\n")
        print(text if title is None else f"{printable(title)}:\n{text}\n", flush=True)
    except BrokenPipeError:
        if not has_files:
            raise
        _discard_stdout()


def _discard_stdout() -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)


def share(text: str) -> float:
    """Parses a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number between 0 and 1")
    return value


def not_negative(what: str) -> Callable[[str], float]:
    """Returns a parser of finite numbers of at least 0; `what` they are is for the message: "a number of pixels"."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < math.inf:
            raise argparse.ArgumentTypeError(f"got {text!r}; expected {what} of at least 0")
        return value

    return parse


def positive(text: str) -> int:
    """Parses an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected an integer of at least 1")
    return int(text)


def port(text: str) -> int:
    """Parses the number of a port, from 0 to 65535."""
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a port from 0 to {MAX_PORT}")
    return int(text)


def auto_or_positive(text: str) -> int | Literal["auto"]:
    """Parses "auto" or an integer of at least 1."""
    if text == "auto":
        return "auto"
    try:
        return positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace("expected", "expected auto or")) from None
