"""Any number of classes per text or pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.tasks import cells
from rankwright.tasks.labelled import LabelledTask
from rankwright.tasks.metrics import Form
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits
from rankwright.tasks.text import TextTask


@dataclass(frozen=True, kw_only=True)
class MultiLabel(TextTask, LabelledTask):
    """A set of classes per text or pair.

    The label column holds a list, which may be empty, or names with `;` or `|` between them.
    """

    label_column: str = "labels"
    metrics: tuple[str, ...] = ("micro_f1", "macro_f1")

    kind: ClassVar[str] = "multi_label"
    forms: ClassVar[frozenset[Form]] = frozenset({"sets"})

    def named(self, row: Row) -> list[str]:
        """Return the classes of a row."""
        return cells.label_set(row, self.label_column, self.label_names)

    def summary(self, splits: Splits) -> tuple[str, ...]:
        """Return the classes with their counts, and the separators found in cells."""
        values = (cells.decode(row[self.label_column]) for row in splits.train)
        texts = (value for value in values if isinstance(value, str))
        found = {mark for text in texts for mark in cells.separators_in(text)}
        marks = " and ".join(f"'{mark}'" for mark in sorted(found))
        said = f"labels in one cell of {self.label_column!r} are separated by {marks}"
        return (*super().summary(splits), *([said] if found else []))

    def check(self, row: Row) -> None:
        """Check the texts and the list of classes."""
        super().check(row)
        self.named(row)
