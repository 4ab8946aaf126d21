# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Checks of argument values, and how errors quote values. All parts of the package use the same wording.

Imports neither numpy nor torch: commands check their arguments before they import them.
"""

import difflib
import json
import math
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

Choice = TypeVar("Choice")

JOINERS = "\u200c\u200d"  # of Persian and Indic words, and of emoji
# The beginnings of the names of letters that are never joined so; "ZERO" are the joiners themselves.
WITHOUT_JOINERS = frozenset(
    "LATIN GREEK CYRILLIC ARMENIAN GEORGIAN HEBREW CJK HIRAGANA KATAKANA HANGUL COMBINING ZERO".split()
)
BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U0001d159")  # printable, and seen as nothing
KEYCAP = "\u20e3"


def quoted(value: Any) -> str:
    """Formats a value for an error message: its `repr`, shortened in the middle if it is longer than 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # too deeply nested, or an object with a fault of its own
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:70]}...{text[-7:]}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error message without final periods.

    If the message is empty, returns the name of the error class.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def plain_reason(error: BaseException) -> str:
    """Returns the first line of an error of a library; faults of its code at bad input say nothing to a user."""
    if isinstance(error, (TypeError, AttributeError, LookupError, RecursionError, ArithmeticError, AssertionError)):
        return f"a value is missing, or is not what its name says ({type(error).__name__})"
    return first_line(error)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch is of too little memory: it has a class for accelerators, and for the CPU a message."""
    return type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)


def items_of(values: Any) -> list[Any] | None:
    """Returns the items of an iterable; `None` of text, a mapping, and what has no items, as an array without axes."""
    if isinstance(values, (str, bytes, bytearray, Mapping)) or not isinstance(values, Iterable):
        return None
    try:
        return list(values)
    except TypeError:  # an array without axes
        return None


def checked_integer(value: Any, what: str, least: int | None = None) -> int:
    """Returns the value as an `int` if it is an integer; a bool is not an integer.

    Args:
        value: The value to check.
        what: The name of the value in the error message.
        least: The smallest allowed value.

    Raises:
        ValueError: If the value is not an integer, or too small.
    """
    bound = "" if least is None else f" of at least {least}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{what} is {quoted(value)} of type {type(value).__name__}; expected an integer{bound}.")
    if least is not None and value < least:
        raise ValueError(f"{what} is {quoted(value)}; expected an integer{bound}.")
    return int(value)


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a real, finite number between two bounds, which belong to the range; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, Real):  # the numbers of numpy are registered as Real
        return False
    number: Any = value
    return bool(-math.inf < number < math.inf and low <= number <= high)


def checked_path(value: Any, what: str) -> str:
    """Returns a path as a string.

    Args:
        value: The value to check.
        what: The name of the value in the error message.

    Raises:
        ValueError: If the value is neither a string nor a path, is empty, or has characters that no path has.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise ValueError(f"{what} is {quoted(value)} of type {type(value).__name__}; expected a path (text).")
    if not path or "\0" in path or any("\ud800" <= letter <= "\udbff" for letter in path):
        raise ValueError(f"{what} is {quoted(path)}; expected a path. Pass a name without control characters.")
    return path


def checked_shard_size(value: Any) -> str:
    """Returns the largest size of a file of weights, such as `"2GB"`.

    Raises:
        ValueError: If the value is no size.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[1-9]\d{0,5}[KMGT]B", value):
        raise ValueError(f"max_shard_size is {quoted(value)}; expected for example '2GB' or '500MB'.")
    return value


def load_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: If the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checked_flag(value: Any, what: str) -> bool:
    """Returns the value if it is `True` or `False`.

    Args:
        value: The value to check.
        what: The name of the value in the error message.

    Raises:
        ValueError: If the value is not a bool.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {quoted(value)}; expected true or false.")
    return value


def check_flags(**flags: Any) -> None:
    """Checks that the values are `True`, `False` or `None`.

    Raises:
        ValueError: If a value is something else.
    """
    for name, value in flags.items():
        if value is not None:
            checked_flag(value, name)


def check_option_names(
    names: Iterable[str],
    options: Collection[str],
    owner: str,
    arguments: Sequence[str] = (),
    meant: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Checks that the names of options are known.

    Args:
        names: The names to check.
        options: The known names.
        owner: What has the options, for the error message.
        arguments: Other names that a misspelt one may stand for.
        meant: Words that other libraries use for an option or an argument.

    Raises:
        TypeError: If a name is unknown, as for arguments in Python. The message has the name that is meant.
    """
    for name in names:
        if name in options:
            continue
        close = [option for option, others in (meant or {}).items() if str(name).lower() in others]
        close = close or difflib.get_close_matches(str(name), [*arguments, *options], n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"The options are {', '.join(options)}."
        raise TypeError(f"Unknown option {quoted(name)} of {owner}. {hint}")


SIZE_KEYS = ("height", "width", "shortest_edge", "longest_edge")


def check_size(size: Any, what: str = "size") -> None:
    """Checks the size of a resized image.

    Raises:
        ValueError: If the size is no mapping with keys of `SIZE_KEYS` and positive integers.
    """
    is_size = isinstance(size, Mapping) and bool(size) and set(size) <= set(SIZE_KEYS)
    if not is_size or not all(is_number(side) and side == int(side) for side in size.values()):
        raise ValueError(
            f"{what} is {quoted(size)}; expected {{'height': ..., 'width': ...}}, or {{'shortest_edge': ...}} and "
            "optionally 'longest_edge', in pixels."
        )


def checked_choice(value: Any, what: str, choices: Sequence[Choice]) -> Choice:
    """Returns the value if it is one of the choices.

    Args:
        value: The value to check.
        what: The name of the value in the error message.
        choices: The allowed values.

    Raises:
        ValueError: If the value is not one of the choices.
    """
    # an array would be compared value by value
    is_choice = isinstance(value, tuple({type(choice) for choice in choices})) and value in choices
    if not is_choice:
        *others, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"{what} is {quoted(value)}; expected {', '.join(others)} or {last}.")
    chosen: Choice = value
    return chosen


def invisible_character(word: str) -> int | None:
    """Returns the place of a character that hides in a word or turns its direction; `None` if there is none.

    Joiners stay in scripts that need them and in emoji, variation selectors with symbols and Mongolian letters.
    """
    for place, letter in enumerate(word):
        before, after = word[place - 1 : place], word[place + 1 : place + 2]
        if letter in BLANKS:
            return place
        if unicodedata.category(letter) == "Cf":
            names = {unicodedata.name(other, "").partition(" ")[0] for other in before}
            if letter not in JOINERS or not after or before.isascii() or names & WITHOUT_JOINERS:
                return place
        elif unicodedata.name(letter, "").startswith("VARIATION SELECTOR"):
            is_of_symbol = not before.isascii() and unicodedata.category(before)[0] in "SP"
            if not is_of_symbol and after != KEYCAP:
                return place
        elif unicodedata.name(letter, "").startswith("MONGOLIAN FREE") and not "\u1800" <= before <= "\u18af":
            return place
    return None


class CalibrationWarning(UserWarning):
    """Warns of labels that were calibrated with another checkpoint."""


class MaskWarning(UserWarning):
    """Warns of masks that show a single class or none."""


class SeamWarning(UserWarning):
    """Warns of tiles that overlap less than their labels look around."""


class TokenizerWarning(UserWarning):
    """Warns of a checkpoint whose tokenizer cannot be read."""


class UnknownWordsWarning(UserWarning):
    """Warns of labels with words that a checkpoint was not trained with."""
