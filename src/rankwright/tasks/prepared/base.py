"""The tokenised form of a task: all that training and evaluation need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from pyarrow import compute
from transformers import EvalPrediction, PreTrainedTokenizerBase

from rankwright.tasks.base import Task
from rankwright.tasks.drawing import drawn
from rankwright.tasks.errors import TaskError
from rankwright.tasks.metrics import Form, Metric, Outcome, get_metric, score
from rankwright.tasks.prepared.forward import forward_rows
from rankwright.tasks.sources import Splits

Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class PreparedTask(ABC):
    """A task tokenised for one model family: all that training and evaluation need.

    Attributes:
        task: What was prepared.
        tokenizer: The tokenizer used, with a padding token; save this one beside the model.
        rows: The raw rows; `rows[split][i]` became `dataset(split)[i]`.
        train: Tokenised rows with the keys `input_ids`, `attention_mask`, `labels` and, for some
            models, `token_type_ids`.
        validation: The same for validation.
        test: The same for test, where the task has one.
        collator: Pads a list of tokenised rows to one batch of `(rows, tokens)` tensors.
        notices: What the user should know about the preparation, such as rows that were cut.
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
    """The form of what one forward pass gives."""

    @property
    @abstractmethod
    def model_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained` of the `auto_class`."""

    @abstractmethod
    def check_model(self, model: torch.nn.Module) -> None:
        """Checks, before any training time is spent, that the model can do this task.

        Raises:
            TaskError: If it cannot.
        """

    @abstractmethod
    def preprocess_logits_for_metrics(
        self, logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor
    ) -> torch.Tensor:
        """Reduces a batch of logits to the few numbers a row that metrics need.

        Give it to the `Trainer` together with `compute_metrics`, which expects its results.
        """

    @abstractmethod
    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pairs predictions with references, from reduced logits and labels row by row."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notices, and a sentence for each split with inputs that are trained on."""
        seen = self.rows.seen(self.task.input_columns)
        return self.notices + tuple(
            f"{count} of the {len(self.rows[split])} {split} rows have the input of a training row"
            for split, count in seen.items()
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest row of all splits."""
        splits = [split for split in (self.train, self.validation, self.test) if split is not None]
        lengths = [compute.list_value_length(split.data["input_ids"]) for split in splits]
        return max(compute.max(length).as_py() or 0 for length in lengths)

    @cached_property
    def training_metric(self) -> Metric:
        """The first metric that `compute_metrics` reports: the one to choose checkpoints by.

        It differs from the primary metric where that needs more than one forward pass a row.
        """
        return next(m for m in map(get_metric, self.reported_metrics) if self.form in m.forms)

    @property
    def reported_metrics(self) -> tuple[str, ...]:
        """The names that `evaluate` reports, the primary one first."""
        return self.task.metrics

    def compute_metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        """Computes the metrics that one forward pass per row allows, for a `Trainer`."""
        outcome = self.outcome(list(evaluation.predictions), list(evaluation.label_ids))
        return score(self.reported_metrics, {self.form: outcome})

    def dataset(self, split: str) -> Dataset:
        """Returns the tokenised rows of `"train"`, `"validation"` or `"test"`.

        Raises:
            TaskError: If there is no such split.
        """
        if not len(self.rows[split]):
            raise TaskError(f"split {split!r} of task {self.task.name!r} is empty.")
        return getattr(self, split)

    def classes(self, split: str) -> Sequence[object]:
        """The class of every row, for a stratified draw; all equal without classes."""
        return [None] * len(self.dataset(split))

    def drawn(self, split: str, limit: int | None) -> list[int]:
        """Draw `limit` rows of a split, stratified by class; returns their indices, ascending.

        The draw depends on the split and the seed of the task's source, not on a model, a method or
        the seed of a run, so that outcomes can be compared row by row.
        """
        classes = self.classes(split)
        return drawn(classes, len(classes) if limit is None else limit, self.task.source.seed)

    def limit_notice(self, split: str, limit: int | None) -> str | None:
        """A sentence about the rows of a split that `limit` leaves; `None` if it leaves all."""
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

    def predict(
        self,
        model: torch.nn.Module,
        *,
        batch_size: int = 32,
        split: str = "validation",
        limit: int | None = None,
    ) -> dict[Form, Outcome]:
        """Lets a model answer the rows of a split, in plain torch and without gradients.

        Args:
            model: A model of the `auto_class`, bare or with an adapter, on any device. Its
                training mode is put back as it was.
            batch_size: Rows per forward pass.
            split: `"train"`, `"validation"` or `"test"`.
            limit: Only so many rows, those of `drawn`.

        Returns:
            Predictions and references in every form that the kind of task has, in row order.
        """
        data = self.dataset(split)
        if limit is not None:
            data = data.select(self.drawn(split, limit))
        reduced, labels = forward_rows(
            model, data, self.collator, self.preprocess_logits_for_metrics, batch_size
        )
        return {self.form: self.outcome(reduced, labels)}

    def evaluate(
        self,
        model: torch.nn.Module,
        batch_size: int = 32,
        *,
        split: str = "validation",
        limit: int | None = None,
    ) -> dict[str, float]:
        """Computes every metric of the task on a split; the arguments are those of `predict`."""
        outcomes = self.predict(model, batch_size=batch_size, split=split, limit=limit)
        return score(self.reported_metrics, outcomes)
