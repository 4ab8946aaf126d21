# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Runs one call and classifies what came of it."""

import contextlib
import io
import os
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dinov3seg_hf

from .guard import Escaped, confined

PACKAGE = str(Path(dinov3seg_hf.__file__).parent)
HERE = str(Path(__file__).parent)
GUARD = str(Path(HERE, "guard.py"))

GOOD, OURS = "good", "ours"
BAD = ("vague", "foreign", "silent", "slow")
KINDS = (GOOD, OURS, *BAD)

MAX_SECONDS = 20

# What Python and libraries write, and no user of ours can use.
INTERNAL = re.compile(
    r"object is not|object has no attribute|has no attribute|not subscriptable|unsupported operand|unhashable"
    r"|maximum recursion|must be real number|can't multiply|cannot unpack|not enough values|zip\(\)"
    r"|not supported between|'NoneType'|out of range in self|takes \d+ positional"
)


# Python names the function and the option.
SIGNATURE = re.compile(r"[\w.<>]+\(\) got an unexpected keyword argument '")


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        text: The call, for people.
        call: Makes the call and returns its result.
        check: Returns what is wrong with the result of a call that raised no error; `None` if nothing is. Reads only.
    """

    text: str
    call: Callable[[], Any]
    check: Callable[[Any], str | None] = lambda result: None


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        kind: One of `KINDS`: a good result, an error of ours, an error of ours that does not help, an error from
            elsewhere, a wrong result without an error, more than `MAX_SECONDS`.
        message: The error, or what is wrong.
        traceback: The traceback of the error.
    """

    kind: str
    message: str = ""
    traceback: str = ""

    @property
    def is_bad(self) -> bool:
        return self.kind in BAD


def run(case: Case, folder: Path) -> Outcome:
    """Runs a case in a folder, where its relative paths and temporary files belong.

    Errors in the harness itself are raised.
    """
    start, before, temporary = time.process_time(), os.getcwd(), tempfile.tempdir
    output = io.StringIO()
    os.chdir(folder)
    tempfile.tempdir = str(folder.parent)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            confined(folder.parent),
        ):
            warnings.simplefilter("ignore")
            result = case.call()
            problem = case.check(result)
    except KeyboardInterrupt:
        raise
    except Escaped as error:
        outcome = Outcome("silent", str(error), "".join(traceback.format_exception(error)))
    except BaseException as error:  # SystemExit as well
        outcome = _judged(error)
    else:
        outcome = Outcome(GOOD) if problem is None else Outcome("silent", problem)
    finally:
        os.chdir(before)
        tempfile.tempdir = temporary
    seconds = time.process_time() - start
    if seconds > MAX_SECONDS and not outcome.is_bad:
        return Outcome("slow", f"took {seconds:.0f} s of the processor; expected at most {MAX_SECONDS}")
    return outcome


def _judged(error: BaseException) -> Outcome:
    # the guard runs in the frames of what it checks
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.endswith(GUARD)]
    text = "".join(traceback.format_exception(error))
    message = f"{type(error).__name__}: {error}"
    if frames[-1].filename.startswith(HERE):
        if isinstance(error, TypeError):  # the signature of a function of ours, which Python itself checks
            return Outcome(OURS, message, text)
        raise error
    if isinstance(error, TypeError) and SIGNATURE.match(str(error)):
        return Outcome(OURS, message, text)
    if not isinstance(error, (ValueError, TypeError, OSError, MemoryError, IndexError)):
        return Outcome("foreign", message, text)
    # an OSError of a file is an answer wherever it was raised; anything else has to come from our lines
    is_of_a_file = isinstance(error, OSError) and not isinstance(error, ValueError) and error.filename is not None
    if not (frames[-1].filename.startswith(PACKAGE) or is_of_a_file):
        return Outcome("foreign", message, text)
    return Outcome(OURS if is_of_a_file or _helps(str(error)) else "vague", message, text)


def _helps(message: str) -> bool:
    """Whether a message says more than what came: what was expected, or a remedy in a sentence of its own."""
    if INTERNAL.search(message):
        return False
    return "expected" in message.lower() or len(re.findall(r"[.!?](?:\s|$)", message)) > 1
