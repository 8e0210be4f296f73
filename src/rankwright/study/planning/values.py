"""Values from YAML and the command line: names, mappings, and checks of their types."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any

from rankwright.errors import MethodError


def split_names(option: str, value: Any) -> list[Any]:
    """Return the entries of an option that takes comma-separated names or a list.

    Args:
        option: Name of the option, for the error message.
        value: Its value.

    Raises:
        MethodError: The value is neither, or is empty.
    """
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not entries:
        raise MethodError(f"{option} = {value!r}: expected names, comma separated or in a list")
    return [entry.strip() if isinstance(entry, str) else entry for entry in entries]


def to_mapping(key: str, given: Any) -> dict[str, Any]:
    """Return a YAML entry as a mapping: a name under `key`, a mapping as a copy.

    Anything else gives an empty mapping, which the caller refuses for what it lacks.
    """
    if isinstance(given, str):
        return {key: given}
    return dict(given) if isinstance(given, Mapping) else {}


def first_file(data: str | Sequence[str] | None) -> str | None:
    """Return the name of a file, or of the first of several."""
    return data if data is None or isinstance(data, str) else str(data[0])


def check_types(values: Mapping[str, Any], types: Mapping[str, Any], where: str) -> None:
    """Refuse a string in place of a number and the like, which YAML and Python let pass.

    Args:
        values: Values by name.
        types: Declared types by name.
        where: Start of the error message.

    Raises:
        MethodError: A value does not have its declared type.
    """
    for name, value in values.items():
        if not _fits(value, types[name]):
            expected = getattr(types[name], "__name__", None) or types[name]
            raise MethodError(f"{where}{name} = {value!r}: expected {expected}")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has a simple type; True for other types, which check themselves."""
    if isinstance(hint, UnionType):
        return any(_fits(value, alternative) for alternative in typing.get_args(hint))
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint) if hint in (int, str, bool, NoneType) else True
