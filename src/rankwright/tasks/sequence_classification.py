"""One class per text or pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.tasks import cells
from rankwright.tasks.errors import TaskError, listing
from rankwright.tasks.labelled import LabelledTask
from rankwright.tasks.labels import Labels
from rankwright.tasks.metrics import Form
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits
from rankwright.tasks.text import TextTask


@dataclass(frozen=True, kw_only=True)
class SequenceClassification(TextTask, LabelledTask):
    """One class per text or pair."""

    metrics: tuple[str, ...] = ("accuracy", "macro_f1")

    kind: ClassVar[str] = "sequence_classification"
    forms: ClassVar[frozenset[Form]] = frozenset({"classes"})

    def named(self, row: Row) -> list[str]:
        """Return the one class of a row."""
        return [cells.label(row, self.label_column, self.label_names)]

    def check(self, row: Row) -> None:
        """Check the texts and the class name."""
        super().check(row)
        self.named(row)

    def load(self) -> Splits:
        """Read and checks all rows, and that there are at least two classes."""
        splits = super().load()
        self._check_classes(self.labels(splits))
        return splits

    def _check_classes(self, labels: Labels) -> None:
        """Refuse a single class, and a number of classes that a metric does not fit."""
        count = len(labels.names)
        if count < 2:
            raise TaskError(
                f"column {self.label_column!r}: {labels.names[0]!r} is the only label; expected at "
                "least two. Name another label_column, or list every label in label_names."
            )
        if "binary_f1" in self.metrics and count != 2:
            raise TaskError(
                f"metric 'binary_f1': it is the F1 of class 1 of two, and there are {count}: "
                f"{listing(labels.names)}. Use macro_f1 or micro_f1."
            )
