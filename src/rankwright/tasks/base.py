"""The base class of every kind of task: rows, columns and metrics.

A kind is a module with a subclass of `Task`, and a module of the same name in `prepared` with the
tokenised form. `Task` knows the data and no tokenizer; nothing here imports torch, so that data is
checked in the first second of a run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from rankwright.tasks.bad_rows import BadRows
from rankwright.tasks.errors import TaskError
from rankwright.tasks.metrics import METRICS, Form, get_metric
from rankwright.tasks.rows import Row
from rankwright.tasks.sources import Source, Splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rankwright.tasks.prepared.base import PreparedTask


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Data, columns and metrics of one kind of problem.

    Attributes:
        name: What reports call it.
        source: Where its rows come from.
        max_length: Most tokens of a row. `None` is the tokenizer's own limit, at most 512.
        metrics: Names of metrics; the first is the primary one.
        skip_bad_rows: Whether to leave out rows that the task cannot use, rather than to refuse
            all.
    """

    name: str
    source: Source
    max_length: int | None = None
    metrics: tuple[str, ...] = ()
    skip_bad_rows: bool = False

    kind: ClassVar[str]
    forms: ClassVar[frozenset[Form]]
    """The forms of predictions that models of this kind give."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 8:
            raise TaskError(f"max_length={self.max_length}: expected at least 8 tokens.")
        if not self.metrics:
            raise TaskError(f"task {self.name!r}: no metrics. Leave them out for the default.")
        for metric in map(get_metric, self.metrics):
            if not metric.forms & self.forms:
                fitting = [name for name, other in METRICS.items() if other.forms & self.forms]
                raise TaskError(
                    f"metric {metric.name!r} does not fit a task of kind {self.kind}; "
                    f"expected one of {', '.join(fitting)}."
                )

    @property
    @abstractmethod
    def input_columns(self) -> tuple[str, ...]:
        """The columns that a model sees."""

    @property
    @abstractmethod
    def target_columns(self) -> tuple[str, ...]:
        """The columns that it learns to give."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the training rows must have."""
        return self.input_columns + self.target_columns

    @property
    def primary_metric(self) -> str:
        """The metric to choose by."""
        return self.metrics[0]

    @property
    def greater_is_better(self) -> bool:
        """Whether the primary metric is to be large."""
        return METRICS[self.primary_metric].greater_is_better

    @abstractmethod
    def check(self, row: Row) -> None:
        """Checks the cells of a row, without a look at other rows.

        Raises:
            TaskError: If the row is not one that the task can use.
        """

    def check_among(self, splits: Splits) -> Callable[[Row], object] | None:  # noqa: ARG002
        """Returns a second check of every row, which depends on all of them; `None` for none.

        Args:
            splits: All rows. Each has passed `check`.
        """
        return None

    def load(self) -> Splits:
        """Reads and checks the rows of every split. No tokenizer is needed.

        Raises:
            TaskError: If a file is missing, or rows do not parse or are not what the task declares;
                the message has the first ten of them, and how many there are.
        """
        return self._loaded(self.input_columns)

    def _loaded(self, key_columns: tuple[str, ...]) -> Splits:
        """Loads the rows; where a share is held out, rows equal in `key_columns` stay together.

        Raises:
            EqualInputsError: If a share is to be held out and all rows are equal in them.
        """
        bad = BadRows(self.check, skip=self.skip_bad_rows)
        splits = self.source.load(key_columns, bad)
        again = self.check_among(splits)
        if again is not None:
            splits = splits.sifted(lambda rows: bad.sift_again(rows, again))
            bad.refuse()
        return replace(splits, notices=splits.notices + bad.notices)

    def summary(self, splits: Splits) -> tuple[str, ...]:  # noqa: ARG002
        """Returns sentences about the training rows, to look over before training.

        Args:
            splits: What `load` gave.
        """
        return ()

    @abstractmethod
    def prepare(
        self, tokenizer: PreTrainedTokenizerBase, splits: Splits | None = None
    ) -> PreparedTask:
        """Reads, checks and tokenises every row.

        Args:
            tokenizer: The tokenizer of the model to train. It is not changed.
            splits: The result of `load`, if the rows have been read.

        Raises:
            TaskError: If a file or a row is not what the task declares, or the tokenizer does not
                suit this kind of task.
        """
