"""Any number of classes per text or pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankwright.tasks import rows
from rankwright.tasks.labelled import LabelledTask
from rankwright.tasks.metrics import Form
from rankwright.tasks.rows import Row
from rankwright.tasks.sources import Splits
from rankwright.tasks.text import TextTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rankwright.tasks.prepared.multi_label import PreparedMultiLabel


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
        """Returns the classes of a row."""
        return rows.label_set(row, self.label_column, self.label_names)

    def summary(self, splits: Splits) -> tuple[str, ...]:
        """Returns the classes with their counts, and the separators found in cells."""
        cells = (rows.decoded(row[self.label_column]) for row in splits.train)
        texts = (cell for cell in cells if isinstance(cell, str))
        found = {mark for text in texts for mark in rows.separators_in(text)}
        marks = " and ".join(f"'{mark}'" for mark in sorted(found))
        said = f"labels in one cell of {self.label_column!r} are separated by {marks}"
        return (*super().summary(splits), *([said] if found else []))

    def check(self, row: Row) -> None:
        """Checks the texts and the list of classes."""
        super().check(row)
        self.named(row)

    def prepare(
        self, tokenizer: PreTrainedTokenizerBase, splits: Splits | None = None
    ) -> PreparedMultiLabel:
        """Tokenises the texts and turns lists of names into rows of zeros and ones."""
        from rankwright.tasks.prepared.multi_label import PreparedMultiLabel  # which imports torch

        return PreparedMultiLabel.of(self, tokenizer, splits or self.load())
