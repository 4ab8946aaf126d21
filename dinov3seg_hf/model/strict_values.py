# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Errors of values that the library checks by their type hints, in our words and as `ValueError`."""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassError

from .checks import first_line

Class = TypeVar("Class", bound=type)

_UNION = re.compile(r"Field '([^']*)' with value (.*?) doesn't match any type in \((.*?)\)\. Errors: .*", re.DOTALL)
_SINGLE = re.compile(r"Field '([^']*)' expected (.*?, got \S+) \(value: (.*)\)", re.DOTALL)
_CHOICE = re.compile(r"Field '([^']*)' expected one of \((.*?)\), got (.*)", re.DOTALL)


@contextmanager
def strict_errors_as_value_errors() -> Iterator[None]:
    """Converts the errors of `@strict` classes and typed options inside the `with` block.

    Raises:
        ValueError: If a value has another type than its field, or a check of several fields fails.
    """
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(reason_of(error)) from error
    except RecursionError as error:  # the message of the library contains the value
        raise ValueError("A value is nested too deeply; expected a plain value. Change it.") from error
    except (ValueError, RuntimeError) as error:  # numpy's and torch's, of an array that is compared with a choice
        if "ambiguous" not in str(error):
            raise
        raise ValueError("A value is an array; expected a plain value, such as text or a number. Change it.") from error


def with_value_errors(cls: Class) -> Class:
    """Decorates a `@strict` class: creating, changing and validating an object raise `ValueError` in our words."""

    def converted(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def convert(self: Any, *args: Any, **kwargs: Any) -> Any:
            with strict_errors_as_value_errors():
                return method(self, *args, **kwargs)

        return convert

    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, converted(getattr(cls, name)))
    # `@strict` of a subclass checks this mark
    cls.validate.__is_defined_by_strict_decorator__ = True  # type: ignore[attr-defined]
    return cls


def reason_of(error: Exception) -> str:
    """Returns the error of a value in our words: what came, and what was expected."""
    cause = error
    while isinstance(cause, StrictDataclassError) and isinstance(cause.__cause__, Exception):
        if isinstance(cause, StrictDataclassClassValidationError):
            text = str(cause.__cause__)  # of `validate_architecture`, ours or that of a part
            return text if "expected" in text else f"{text.rstrip('.')}; expected values that fit. Change one of them."
        cause = cause.__cause__
    while isinstance(cause.__cause__, TypeError):  # an item of a list
        cause = cause.__cause__
    text = str(cause)
    if match := _UNION.fullmatch(text):
        name, value, types = match.groups()
    elif match := _CHOICE.fullmatch(text):
        name, types, value = match.groups()
    elif match := _SINGLE.fullmatch(text):
        name, types, value = match.groups()
    else:
        nested = re.match(r"Validation error for field '([^']*)'", str(error))
        return f"{nested[1] if nested else 'A value'} is invalid: {first_line(cause)}. Expected a value of its type."
    value = " ".join(value.split())
    value = value if len(value) <= 80 else f"{value[:70]}...{value[-7:]}"
    return f"{name} is {value}; expected {_plain(types)}. Change {name}."


def _plain(types: str) -> str:
    """Formats types as people write them: "int or None", "int, got str"."""
    types = re.sub(r"<(?:class|enum) '(?:\w+\.)*(\w+)'>", r"\1", types).replace("NoneType", "None")
    types, got, found = types.partition(", got ")
    names = [name for name in re.split(r", (?![^\[]*\])", types) if name]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) + got + found
