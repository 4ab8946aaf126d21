# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Checks of argument values, and how errors quote values. All parts of the package use the same wording."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeVar

Choice = TypeVar("Choice")


def quoted(value: Any) -> str:
    """Formats a value for an error message: its `repr`, shortened in the middle if it is longer than 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:70]}...{text[-7:]}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error message without final periods.

    If the message is empty, returns the name of the error class.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def checked_integer(value: Any, what: str) -> int:
    """Returns the value as an `int` if it is an integer; a bool is not an integer.

    Args:
        value: The value to check.
        what: The name of the value in the error message.

    Raises:
        ValueError: If the value is not an integer.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{what} is {quoted(value)} of type {type(value).__name__}; expected an integer.")
    return int(value)


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


def checked_choice(value: Any, what: str, choices: Sequence[Choice]) -> Choice:
    """Returns the value if it is one of the choices.

    Args:
        value: The value to check.
        what: The name of the value in the error message.
        choices: The allowed values.

    Raises:
        ValueError: If the value is not one of the choices.
    """
    if value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"{what} is {quoted(value)}; expected {', '.join(others)} or {last}.")
    chosen: Choice = value
    return chosen


class CalibrationWarning(UserWarning):
    """Warns of labels that were calibrated with another checkpoint."""


class UnknownWordsWarning(UserWarning):
    """Warns of labels with words that a checkpoint was not trained with."""
