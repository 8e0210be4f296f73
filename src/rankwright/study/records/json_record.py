"""A frozen dataclass kept as one JSON object, under the names of its fields.

Numbers that JSON cannot express are the strings "inf", "-inf" and "nan".
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
    """A frozen dataclass kept as one JSON file."""

    def save(self, path: Path) -> None:
        """Write the file atomically; missing folders are made."""
        text = json.dumps(_encode(dataclasses.asdict(self)), indent=1, allow_nan=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            MethodError: The file does not hold such a record.
            OSError: The file cannot be read.
        """
        return cls.parse(path.read_bytes(), str(path), "Delete it to have it made again")

    @classmethod
    def parse(cls, content: bytes, source: str, remedy: str) -> Self:
        """Read a record from the content of its file.

        Args:
            content: JSON in UTF-8.
            source: Origin of the content, for error messages.
            remedy: Advice in the error message of content that is no such record.

        Raises:
            MethodError: The content is no such record.
        """
        try:
            return typing.cast(Self, _decode(cls, json.loads(content.decode("utf-8"))))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MethodError(
                f"{source} is not a {cls.__name__} ({error}); expected the file as this version of "
                f"rankwright writes it. {remedy}"
            ) from error


def _encode(value: Any) -> Any:
    """Turn tuples into lists, and numbers that JSON cannot express into strings."""
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decode(hint: Any, value: Any) -> Any:
    """Invert `_encode`, guided by the type that a field declares."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _decode(hints[name], item) for name, item in value.items()})
    inner = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return None if value is None else _decode(inner[0], value)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return tuple(_decode(inner[0], item) for item in value)
    if origin is dict:
        return {key: _decode(inner[1], item) for key, item in value.items()}
    return float(value) if hint is float else value
