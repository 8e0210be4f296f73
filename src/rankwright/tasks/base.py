"""The base classes of every kind of task: as rows, and tokenised.

A kind is a module with a subclass of `Task`, and a module of the same name in `prepared` with a
subclass of `PreparedTask` and the function `prepare` that makes one. `Task` knows the data and no
tokenizer; nothing here imports torch, so that data is checked in the first second of a run.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rankwright.tasks.bad_rows import BadRows
from rankwright.tasks.drawing import draw_rows
from rankwright.tasks.errors import TaskError
from rankwright.tasks.metrics import METRICS, Form, Metric, Outcome, get_metric, score
from rankwright.tasks.rows import Row
from rankwright.tasks.sources import Source
from rankwright.tasks.splits import Splits

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Data, columns and metrics of one kind of problem.

    Attributes:
        name: Its name in reports.
        source: The source of its rows.
        max_length: Maximum number of tokens of a row. `None` is the tokenizer's own limit, at most
            512.
        metrics: Names of metrics; the first is the primary one.
        skip_bad_rows: Whether to leave out rows that the task cannot use; otherwise they are an
            error.
    """

    name: str
    source: Source
    max_length: int | None = None
    metrics: tuple[str, ...] = ()
    skip_bad_rows: bool = False

    kind: ClassVar[str]
    """Name of the kind, and of its module in `prepared`."""
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
        """The columns that a model learns to predict."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the training rows must have."""
        return self.input_columns + self.target_columns

    @property
    def primary_metric(self) -> str:
        """The metric that results are judged by."""
        return self.metrics[0]

    @property
    def greater_is_better(self) -> bool:
        """Whether greater values of the primary metric are better."""
        return METRICS[self.primary_metric].greater_is_better

    @abstractmethod
    def check(self, row: Row) -> None:
        """Check the cells of a row on its own.

        Raises:
            TaskError: If the task cannot use the row.
        """

    def check_among(self, splits: Splits) -> Callable[[Row], object] | None:  # noqa: ARG002
        """Return a second check of every row, which depends on all of them; `None` for none.

        Args:
            splits: All rows. Each has passed `check`.
        """
        return None

    def load(self) -> Splits:
        """Read and check the rows of every split, without a tokenizer.

        Raises:
            TaskError: If a file is missing, or rows do not parse or are not what the task declares;
                the message has the first ten of them, and how many there are.
        """
        return self._load(self.input_columns)

    def _load(self, key_columns: tuple[str, ...]) -> Splits:
        """Load the rows; where a share is held out, rows equal in `key_columns` stay together.

        Raises:
            EqualInputsError: If a share is to be held out and all rows are equal in them.
        """
        bad = BadRows(self.check, skip=self.skip_bad_rows)
        splits = self.source.load(key_columns, bad)
        again = self.check_among(splits)
        if again is not None:
            splits = splits.sift(lambda rows: bad.sift_again(rows, again))
            bad.refuse()
        return replace(splits, notices=splits.notices + bad.notices)

    def summary(self, splits: Splits) -> tuple[str, ...]:  # noqa: ARG002
        """Return sentences about the training rows, to look over before training.

        Args:
            splits: The result of `load`.
        """
        return ()

    def prepare(
        self, tokenizer: PreTrainedTokenizerBase, splits: Splits | None = None
    ) -> PreparedTask:
        """Read, check and tokenise every row.

        Args:
            tokenizer: The tokenizer of the model to train. It is not changed.
            splits: The result of `load`, if the rows have been read.

        Raises:
            TaskError: If a file or a row is not what the task declares, or the tokenizer does not
                suit this kind of task.
        """
        # By name, since the module imports torch, and this one's classes.
        module = importlib.import_module(f"rankwright.tasks.prepared.{self.kind}")
        prepared: PreparedTask = module.prepare(self, tokenizer, splits or self.load())
        return prepared


@dataclass(frozen=True, kw_only=True)
class PreparedTask(ABC):
    """A task tokenised for one model family: all that training and evaluation need.

    Attributes:
        task: The task.
        tokenizer: The tokenizer used, with a padding token; save this one beside the model.
        rows: The raw rows; `rows[split][i]` became `dataset(split)[i]`.
        train: Tokenised rows with the keys `input_ids`, `attention_mask`, `labels` and, for some
            models, `token_type_ids`.
        validation: The same for validation.
        test: The same for test, where the task has one.
        collator: Pads a list of tokenised rows to one batch of `(rows, tokens)` tensors.
        notices: Notices for the user about the preparation, such as rows that were truncated.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    rows: Splits
    train: Dataset
    validation: Dataset
    test: Dataset | None
    collator: Collator
    notices: tuple[str, ...] = ()

    auto_class: ClassVar[str]
    """Name of the `transformers` class that loads a model for this task."""
    form: ClassVar[Form]
    """The form of the predictions of one forward pass."""

    @property
    @abstractmethod
    def model_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained` of the `auto_class`."""

    @abstractmethod
    def check_model(self, model: torch.nn.Module) -> None:
        """Check that the model can do this task, before any training time is spent.

        Raises:
            TaskError: If it cannot.
        """

    @abstractmethod
    def preprocess_logits_for_metrics(
        self, logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor
    ) -> torch.Tensor:
        """Reduce a batch of logits to the few numbers per row that metrics need.

        Give it to the `Trainer` together with `compute_metrics`, which expects its results.
        """

    @abstractmethod
    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pair predictions with references, from reduced logits and labels row by row."""

    @abstractmethod
    def predict(
        self,
        model: torch.nn.Module,
        *,
        batch_size: int = 32,
        split: str = "validation",
        limit: int | None = None,
    ) -> dict[Form, Outcome]:
        """Predict the rows of a split, in plain torch and without gradients.

        Args:
            model: A model of the `auto_class`, bare or with an adapter, on any device. Its training
                mode is restored afterwards.
            batch_size: Rows per forward pass.
            split: `"train"`, `"validation"` or `"test"`.
            limit: Number of rows, those of `draw_rows`; `None` for all.

        Returns:
            Predictions and references in every form that the kind of task has, in row order.
        """

    def evaluate(
        self,
        model: torch.nn.Module,
        batch_size: int = 32,
        *,
        split: str = "validation",
        limit: int | None = None,
    ) -> dict[str, float]:
        """Compute every metric of the task on a split; the arguments are those of `predict`."""
        outcomes = self.predict(model, batch_size=batch_size, split=split, limit=limit)
        return score(self.reported_metrics, outcomes)

    @property
    def reported_metrics(self) -> tuple[str, ...]:
        """The names that `evaluate` reports, the primary one first."""
        return self.task.metrics

    @cached_property
    def training_metric(self) -> Metric:
        """The first metric that `compute_metrics` reports, by which checkpoints are chosen.

        It differs from the primary metric if that needs more than one forward pass per row.
        """
        return next(m for m in map(get_metric, self.reported_metrics) if self.form in m.forms)

    def compute_metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        """Compute the metrics that one forward pass per row allows, for a `Trainer`."""
        outcome = self.outcome(list(evaluation.predictions), list(evaluation.label_ids))
        return score(self.reported_metrics, {self.form: outcome})

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notices, and a sentence for each split with inputs that are trained on."""
        seen = self.rows.seen(self.task.input_columns)
        return self.notices + tuple(
            f"{count} of the {len(self.rows[split])} {split} rows have the input of a training row"
            for split, count in seen.items()
        )

    def dataset(self, split: str) -> Dataset:
        """Return the tokenised rows of `"train"`, `"validation"` or `"test"`.

        Raises:
            TaskError: If there is no such split.
        """
        if not len(self.rows[split]):
            raise TaskError(f"split {split!r} of task {self.task.name!r} is empty.")
        return getattr(self, split)

    def classes(self, split: str) -> Sequence[object]:
        """Return the class of every row, for a stratified draw; all equal without classes."""
        return [None] * len(self.dataset(split))

    def draw_rows(self, split: str, limit: int | None) -> list[int]:
        """Draw `limit` rows of a split, stratified by class; return their indices, ascending.

        The draw depends on the split and the seed of the task's source, not on a model, a method or
        the seed of a run, so that outcomes can be compared row by row.
        """
        classes = self.classes(split)
        size = len(classes) if limit is None else limit
        return draw_rows(classes, size, self.task.source.seed)

    def limit_notice(self, split: str, limit: int | None) -> str | None:
        """Return a sentence about the rows of a split that `limit` leaves; `None` for all rows."""
        size = len(self.rows[split])
        if limit is None or limit == size:
            return None
        if limit > size:
            return f"all {size:,} {split} rows are reported on; {limit:,} were asked for"
        by_class = " by class" if len(set(self.classes(split))) > 1 else ""
        return (
            f"{limit:,} of the {size:,} {split} rows are reported on, drawn{by_class} with seed "
            f"{self.task.source.seed}"
        )
