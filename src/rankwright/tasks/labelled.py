"""Common parts of tasks whose rows name classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from rankwright.tasks.base import Task
from rankwright.tasks.errors import listing
from rankwright.tasks.labels import Labels
from rankwright.tasks.rows import Row
from rankwright.tasks.spelling import Found, doubts, occurrences
from rankwright.tasks.splits import Splits


@dataclass(frozen=True, kw_only=True)
class LabelledTask(Task):
    """A task whose one target column names classes.

    Attributes:
        label_names: The classes in the order of their indices. `None` takes those of the training
            rows: in numerical order if all are integers, else alphabetical.
    """

    label_names: tuple[str, ...] | None = None

    noun: ClassVar[str] = "labels"
    """The word for the classes in messages."""

    @abstractmethod
    def named(self, row: Row) -> list[str]:
        """Returns the classes that a row names.

        Raises:
            TaskError: If its cell does not name classes.
        """

    def labels(self, splits: Splits) -> Labels:
        """Returns the classes of the task.

        Args:
            splits: The result of `load`.

        Raises:
            TaskError: If names in the training rows differ in case or white space alone, or are
                numbers with fractions.
        """
        if self.label_names is None:
            return Labels.inferred(self.found(self.source.naming(splits)))
        return Labels(self.label_names)

    def found(self, rows: Iterable[Row]) -> dict[str, Found]:
        """Returns the names in some rows, with their number and first place."""
        return occurrences((name, row.where) for row in rows for name in self.named(row))

    def load(self) -> Splits:
        """Reads and checks all rows, and adds notices about doubtful class names."""
        splits = super().load()
        if self.label_names is None:
            doubtful = doubts(self.apart(self.found(self.source.naming(splits))))
        else:
            missing = [name for name, count in self.counts(splits).items() if not count]
            sentence = f"label_names that no training row has: {listing(missing)}"
            doubtful = [sentence] if missing else []
        return replace(splits, notices=(*splits.notices, *doubtful))

    def counts(self, splits: Splits) -> dict[str, int]:
        """Returns how often each class occurs in the training rows, in the order of the classes."""
        labels = self.labels(splits)
        counts = dict.fromkeys(labels.names, 0)
        for name, found in self.found(self.source.naming(splits)).items():
            counts[labels.names[labels.ids[name]]] += found.count
        return counts

    def summary(self, splits: Splits) -> tuple[str, ...]:
        """Returns one sentence: the classes with their counts, the most frequent first."""
        each = sorted(self.counts(splits).items(), key=lambda item: -item[1])
        shares = listing(f"{name} {count:,}" for name, count in each)
        rows = len(self.source.naming(splits))
        return (f"{self.noun} of the {rows:,} training rows: {shares}",)

    def apart(self, found: dict[str, Found]) -> dict[str, Found]:
        """Returns the names that may be misspellings of each other."""
        return found

    def indices(self, row: Row, labels: Labels) -> list[int]:
        """Returns the indices of the classes that a row names.

        Raises:
            TaskError: If one of them is not known.
        """
        (column,) = self.target_columns
        return [labels.index(name, row.where, column) for name in self.named(row)]

    def check_among(self, splits: Splits) -> Callable[[Row], object]:
        """Returns a check that every class of a row is known.

        Raises:
            TaskError: If indices of given labels seem to count from 1.
        """
        labels = self.labels(splits)
        if labels.given:
            for rows in splits.by_file.values():
                labels.check_indices(self.found(rows), *self.target_columns)
        return lambda row: self.indices(row, labels)
