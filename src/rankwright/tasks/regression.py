"""One number per text or pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.tasks import cells
from rankwright.tasks.metrics import Form
from rankwright.tasks.rows import Row
from rankwright.tasks.text import TextTask


@dataclass(frozen=True, kw_only=True)
class Regression(TextTask):
    """One number per text or pair; models learn it in its own unit, by squared error."""

    metrics: tuple[str, ...] = ("pearson", "spearman")

    kind: ClassVar[str] = "regression"
    forms: ClassVar[frozenset[Form]] = frozenset({"numbers"})

    def number(self, row: Row) -> float:
        """Return the number of a row."""
        return cells.number(row, self.label_column)

    def check(self, row: Row) -> None:
        """Check the texts and the number."""
        super().check(row)
        self.number(row)
