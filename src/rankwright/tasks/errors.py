"""The exception of this package, and the place in a file that its messages name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class TaskError(ValueError):
    """A task, a data file or a row of it is not what was declared; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Where:
    """The place that a row came from.

    Attributes:
        path: The file as the user named it, or a hub data set with its split.
        number: The 1-based line at which the row starts, or the 1-based row.
        unit: The unit of `number`: lines in text formats, rows in parquet and on the hub.
    """

    path: str
    number: int
    unit: Literal["line", "row"] = "line"

    def __str__(self) -> str:
        return (
            f"{self.path}:{self.number}"
            if self.unit == "line"
            else f"{self.path}, row {self.number}"
        )


def shorten(value: object, limit: int = 60) -> str:
    """Return `repr(value)`, cut to about `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def listing(names: Iterable[str], limit: int = 12) -> str:
    """Return up to `limit` names, comma separated, and the number of further ones."""
    every = list(names)
    shown = ", ".join(every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name closest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def cell_error(where: Where, column: str, value: object, expected: str, fix: str) -> TaskError:
    """Return the error about a cell: its place, its value, the expected value and the remedy."""
    return TaskError(
        f"{where}: column {column!r} holds {shorten(value)}; expected {expected}. {fix}"
    )


def no_such_file(path: Path) -> TaskError:
    """Return the error about a missing file, with the folder that a relative path starts at."""
    start = "" if path.is_absolute() else f"; it is relative to {Path.cwd()}"
    return TaskError(f"{path}: no such file. Check the path{start}.")
