# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Checks of values that people pass in, and how errors quote them: one wording for all rooms."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Choice = TypeVar("Choice")


def quoted(value: Any) -> str:
    """A value as error messages show it: its `repr`, cut in the middle if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:70]}...{text[-7:]}"


def first_line(error: BaseException) -> str:
    """The first line of an error that a library raised, without a full stop; its class if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def checked_integer(value: Any, what: str) -> int:
    """The value, if it is an integer (a bool is none).

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{what} is {quoted(value)} of type {type(value).__name__}; expected an integer.")
    return int(value)


def checked_flag(value: Any, what: str) -> bool:
    """The value, if it is `True` or `False`.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {quoted(value)}; expected true or false.")
    return value


def checked_choice(value: Any, what: str, choices: Sequence[Choice]) -> Choice:
    """The value, if it is one of the choices.

    Raises:
        ValueError: It is something else.
    """
    if value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"{what} is {quoted(value)}; choose {', '.join(others)} or {last}.")
    chosen: Choice = value
    return chosen
