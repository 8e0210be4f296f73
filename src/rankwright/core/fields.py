"""Checks of the types and ranges of dataclass fields, with clear errors."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Literal, Union

from rankwright.errors import FieldError

_WORDS = {int: "an integer", float: "a number", bool: "True or False", str: "a text"}


def check_field(
    owner: object, name: str, holds: bool, expected: str, value: Any = dataclasses.MISSING
) -> None:
    """Raise a `FieldError` with field, value and expectation, unless `holds`.

    Args:
        owner: The dataclass instance.
        name: Name of the field, for the message.
        holds: Whether the value is allowed.
        expected: Description of allowed values.
        value: The value; by default the field's.

    Raises:
        FieldError: `holds` is False.
    """
    if not holds:
        given = getattr(owner, name) if value is dataclasses.MISSING else value
        raise FieldError(type(owner).__name__, name, given, expected)


def check_types(owner: Any) -> None:
    """Check every field of a dataclass against its annotation.

    Raises:
        FieldError: A field has another type.
    """
    hints = _hints(owner.__class__)
    for name in (field.name for field in dataclasses.fields(owner) if field.name in hints):
        if not is_of_type(getattr(owner, name), hints[name]):
            check_field(owner, name, False, describe_type(hints[name]))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Annotations by name; none if some of them resolve only under a type checker."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return {}


def is_of_type(value: object, hint: Any) -> bool:
    """Return whether a value has the annotated type; True for unknown annotations."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, Union):
        return any(is_of_type(value, argument) for argument in arguments)
    if kind is Literal:
        return value in arguments
    if kind in (list, tuple):  # YAML has no tuples
        return isinstance(value, list | tuple) and all(
            is_of_type(item, arguments[0]) for item in value
        )
    if kind in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            is_of_type(key, arguments[0]) and is_of_type(item, arguments[1])
            for key, item in value.items()
        )
    if kind is Callable:
        return callable(value)
    if kind in (int, float):
        wanted = Real if kind is float else int
        return isinstance(value, wanted) and not isinstance(value, bool)
    return kind not in (bool, str, types.NoneType) or isinstance(value, kind)


def describe_type(hint: Any) -> str:
    """Return an annotation in words, for an error message."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, Union):
        return " or ".join(map(describe_type, arguments))
    if kind is Literal:
        return " or ".join(map(str, arguments))
    if kind in (list, tuple):
        return f"a list, each {describe_type(arguments[0])}"
    if kind in (dict, Mapping):
        return f"a mapping from {describe_type(arguments[0])} to {describe_type(arguments[1])}"
    if kind is types.NoneType:
        return "None"
    return _WORDS.get(kind) or str(getattr(kind, "__name__", hint))


def is_count(value: object) -> bool:
    """Return whether a value is an integer of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def none_or_at_least(value: float | None, least: float) -> bool:
    """Return whether a value is None or not below `least`."""
    return value is None or value >= least


def is_regex(pattern: str) -> bool:
    """Return whether a text compiles as a regular expression."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
