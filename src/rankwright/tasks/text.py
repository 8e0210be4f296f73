"""Common parts of tasks with one answer per text or pair of texts."""

from __future__ import annotations

from dataclasses import dataclass

from rankwright.tasks import cells
from rankwright.tasks.base import Task
from rankwright.tasks.rows import Row


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """One text or a pair in, the cell of one column out.

    Attributes:
        text_column: The text.
        text_pair_column: The second text of a pair.
        label_column: The answer.
    """

    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The text, or both texts in their order."""
        pair = self.text_pair_column
        return (self.text_column,) if pair is None else (self.text_column, pair)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The answer."""
        return (self.label_column,)

    def check(self, row: Row) -> None:
        """Check the texts."""
        for column in self.input_columns:
            cells.text(row, column)
