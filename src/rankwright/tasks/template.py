"""The prompt of a row: a template filled with the row's cells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from rankwright.tasks import cells
from rankwright.tasks.errors import TaskError, listing, suggestion
from rankwright.tasks.rows import Row

PROMPT = "prompt"
BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Template:
    """Text with placeholders: `{column}` for a cell, `{prompt}` for the main one.

    `{{` and `}}` are literal braces, as in Python's `str.format`. Braces within a cell are text.

    Attributes:
        text: The template.
        main: The column that `{prompt}` stands for. The text must name it, by either name.
    """

    text: str
    main: str

    def __post_init__(self) -> None:
        if self.main not in self.named:
            either = "" if self.main == PROMPT else f" or {{{self.main}}}"
            raise TaskError(
                f"prompt_template={self.text!r}: expected {{prompt}}{either} in it, where the "
                "prompt goes."
            )

    def check_hidden(self, columns: Iterable[str | None]) -> None:
        """Check that the template shows none of these columns, which hold the answer.

        Raises:
            TaskError: If it shows one.
        """
        for column in columns:
            if column in self.named:
                raise TaskError(
                    f"prompt_template={self.text!r}: {{{column}}} shows the model the answer. "
                    "Leave it out."
                )

    @cached_property
    def parts(self) -> tuple[tuple[str, bool], ...]:
        """Literal texts and names of columns in order, each with whether it is a column.

        Raises:
            TaskError: If a brace is unpaired, or a pair of braces is empty.
        """
        parts, end = [], 0
        for match in BRACES.finditer(self.text):
            parts.append((self.text[end : match.start()], False))
            end = match.end()
            if match[0] in ("{{", "}}"):
                parts.append((match[0][0], False))
            elif match[1]:
                parts.append((self.main if match[1] == PROMPT else match[1], True))
            else:
                raise TaskError(
                    f"prompt_template={self.text!r}: {match[0]!r} at character "
                    f"{match.start() + 1} names no column; expected {{prompt}} or {{column}}. "
                    "Write {{ and }} for braces that are text."
                )
        return (*parts, (self.text[end:], False))

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that are shown, the main one first."""
        shown = [name for name, is_column in self.parts if is_column]
        return tuple(dict.fromkeys(sorted(shown, key=lambda name: name != self.main)))

    def fill(self, row: Row) -> str:
        """Return the template with the cells of a row.

        Raises:
            TaskError: If the row lacks a column, its main cell is not a text or is empty, or
                another cell is a list or a mapping. Missing cells become empty.
        """
        return "".join(
            self._cell(row, part) if is_column else part for part, is_column in self.parts
        )

    def _cell(self, row: Row, column: str) -> str:
        if column == self.main:
            return cells.text(row, column)
        if column not in row.fields:
            raise TaskError(
                f"{row.where}: there is no column {column!r}, which prompt_template="
                f"{self.text!r} names; the columns are {listing(row.fields)}."
                f"{suggestion(column, row.fields)} Name one of them, or write {{{{ and }}}} for "
                "braces that are text."
            )
        return cells.shown(row, column)
