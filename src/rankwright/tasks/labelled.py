"""What tasks whose rows name classes share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from rankwright.tasks.base import Task
from rankwright.tasks.labels import Labels
from rankwright.tasks.rows import Row
from rankwright.tasks.sources import Splits


@dataclass(frozen=True, kw_only=True)
class LabelledTask(Task):
    """A task whose one target column names classes.

    Attributes:
        label_names: The classes in the order of their indices. `None` takes those of the training
            rows: in numerical order if all are integers, else alphabetical.
    """

    label_names: tuple[str, ...] | None = None

    @abstractmethod
    def named(self, row: Row) -> list[str]:
        """Returns the classes that a row names.

        Raises:
            TaskError: If its cell does not name classes.
        """

    def labels(self, splits: Splits) -> Labels:
        """Returns the classes of the task.

        Args:
            splits: What `load` gave.

        Raises:
            TaskError: If the names in the training rows are hardly meant as classes.
        """
        naming = self.source.naming(splits)
        return Labels.given_or_inferred(
            self.label_names, (name for row in naming for name in self.named(row))
        )

    def indices(self, row: Row, labels: Labels) -> list[int]:
        """Returns the indices of the classes that a row names.

        Raises:
            TaskError: If one of them is not known.
        """
        (column,) = self.target_columns
        return [labels.index(name, row.where, column) for name in self.named(row)]

    def check_among(self, splits: Splits) -> Callable[[Row], object]:
        """Every class that a row names has to be known."""
        labels = self.labels(splits)
        return lambda row: self.indices(row, labels)
