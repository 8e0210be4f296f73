"""A frozen dataclass that is one JSON file, with the names of its fields.

Numbers that JSON cannot write are the strings "inf", "-inf" and "nan".
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rankwright.errors import MethodError
from rankwright.job.files import write_text


@dataclass(frozen=True, kw_only=True)
class Record:
    """A frozen dataclass that is one JSON file."""

    def save(self, path: Path) -> None:
        """Write the file whole or not at all; folders on the way are made."""
        text = json.dumps(_encoded(dataclasses.asdict(self)), indent=1, allow_nan=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            MethodError: It does not hold such a record.
            OSError: It cannot be read.
        """
        return cls.parse(path.read_bytes(), str(path), "Delete it to have it made again")

    @classmethod
    def parse(cls, content: bytes, source: str, remedy: str) -> Self:
        """Read a record from the content of its file.

        Args:
            content: JSON in UTF-8.
            source: Its origin, for error messages.
            remedy: What to do if it is not such a record, for error messages.

        Raises:
            MethodError: It does not hold such a record.
        """
        try:
            return typing.cast(Self, _decoded(cls, json.loads(content.decode("utf-8"))))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MethodError(
                f"{source} is not a {cls.__name__} ({error}); expected the file as this version of "
                f"rankwright writes it. {remedy}"
            ) from error


def _encoded(value: Any) -> Any:
    """Tuples as lists, and numbers that JSON cannot write as strings."""
    if isinstance(value, dict):
        return {str(key): _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decoded(hint: Any, value: Any) -> Any:
    """Undo of `_encoded`, by the type that a field declares."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _decoded(hints[name], item) for name, item in value.items()})
    inner = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return None if value is None else _decoded(inner[0], value)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return tuple(_decoded(inner[0], item) for item in value)
    if origin is dict:
        return {key: _decoded(inner[1], item) for key, item in value.items()}
    return float(value) if hint is float else value
