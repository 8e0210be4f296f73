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
        label_names: The classes in the order of their indices. With `None` they are the classes of
            the training rows, in numerical order if all are integers, otherwise alphabetical.
    """

    label_names: tuple[str, ...] | None = None

    noun: ClassVar[str] = "labels"
    """The word for the classes in messages."""

    @abstractmethod
    def named(self, row: Row) -> list[str]:
        """Return the classes that a row names.

        Raises:
            TaskError: If the cell does not name classes.
        """

    def labels(self, splits: Splits) -> Labels:
        """Return the classes of the task.

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
        """Return the names in the rows, with the number and the first place of each."""
        return occurrences((name, row.where) for row in rows for name in self.named(row))

    def load(self) -> Splits:
        """Read and checks all rows, and adds notices about doubtful class names."""
        splits = super().load()
        if self.label_names is None:
            doubtful = doubts(self.spelling_groups(self.found(self.source.naming(splits))))
        else:
            missing = [name for name, count in self.counts(splits).items() if not count]
            sentence = f"label_names that no training row has: {listing(missing)}"
            doubtful = [sentence] if missing else []
        return replace(splits, notices=(*splits.notices, *doubtful))

    def counts(self, splits: Splits) -> dict[str, int]:
        """Return how often each class occurs in the training rows, in the order of the classes."""
        labels = self.labels(splits)
        counts = dict.fromkeys(labels.names, 0)
        for name, found in self.found(self.source.naming(splits)).items():
            counts[labels.names[labels.ids[name]]] += found.count
        return counts

    def summary(self, splits: Splits) -> tuple[str, ...]:
        """Return one sentence: the classes with their counts, the most frequent first."""
        each = sorted(self.counts(splits).items(), key=lambda item: -item[1])
        shares = listing(f"{name} {count:,}" for name, count in each)
        rows = len(self.source.naming(splits))
        return (f"{self.noun} of the {rows:,} training rows: {shares}",)

    def spelling_groups(self, found: dict[str, Found]) -> dict[str, Found]:
        """Return the names that may be misspellings of each other."""
        return found

    def indices(self, row: Row, labels: Labels) -> list[int]:
        """Return the indices of the classes that a row names.

        Raises:
            TaskError: If one of them is not known.
        """
        (column,) = self.target_columns
        return [labels.index(name, row.where, column) for name in self.named(row)]

    def check_among(self, splits: Splits) -> Callable[[Row], object]:
        """Return a check that every class of a row is known.

        Raises:
            TaskError: If indices of given labels seem to count from 1.
        """
        labels = self.labels(splits)
        if labels.given:
            for rows in splits.by_file.values():
                labels.check_indices(self.found(rows), *self.target_columns)
        return lambda row: self.indices(row, labels)
