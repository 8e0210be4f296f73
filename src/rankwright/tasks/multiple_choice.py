"""Multiple choice by likelihood: the answer is the most likely choice under a causal model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from rankwright.tasks import cells
from rankwright.tasks.base import Task
from rankwright.tasks.choices import answer, choices
from rankwright.tasks.errors import cell_error
from rankwright.tasks.metrics import Form
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits
from rankwright.tasks.template import Template

ENOUGH = 10
"""From this number of rows on, a file in which no answer is the first choice is suspicious."""


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Task):
    """One of several choices per question.

    A model learns the right choice as a completion of the question. To answer, it scores every
    choice and takes the one with the greatest log-likelihood. Encoders have no likelihood of a
    completion: `check_model` and `evaluate` refuse them.

    Attributes:
        question_column: The question.
        prompt_template: The text before a choice, with `{prompt}` for the question and `{column}`
            for any other column; see `Template`.
        choices_column: A list of at least two texts; or texts with labels, see `choices`.
        label_column: The right choice: its index, counted from 0, its label or letter, or its text.
        length_normalised: Whether to compare the mean log-likelihood per token instead of the sum,
            which favours short choices.
    """

    question_column: str = "question"
    prompt_template: str = "Question: {prompt}\nAnswer:\n"
    choices_column: str = "choices"
    label_column: str = "label"
    length_normalised: bool = True
    metrics: tuple[str, ...] = ("accuracy",)

    kind: ClassVar[str] = "multiple_choice"
    forms: ClassVar[frozenset[Form]] = frozenset({"classes", "nats"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.template.check_hidden((self.label_column,))

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The question, other columns in the template, and the choices."""
        return (*self.template.named, self.choices_column)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The index of the right choice."""
        return (self.label_column,)

    @cached_property
    def template(self) -> Template:
        """The template of a question."""
        return Template(self.prompt_template, self.question_column)

    def check(self, row: Row) -> None:
        """Check the question, its choices and the answer; `check_among` finds counts from 1."""
        self.shown(row)
        if not self._is_last_from_1(row):
            self.answer(row)

    def check_among(self, splits: Splits) -> Callable[[Row], object]:
        """Return a check of the answers, once all rows of every file show that they count from 0.

        Raises:
            TaskError: If the answers of a file count from 1.
        """
        for every in splits.by_file.values():
            last = next(filter(self._is_last_from_1, every), None)
            if last is not None and not any(map(self._is_first, every)):
                raise cell_error(
                    last.where,
                    self.label_column,
                    last[self.label_column],
                    f"an index from 0 to {len(self.choices(last)) - 1}, and no row holds 0",
                    "The answers seem to count from 1: subtract 1 from all.",
                )
        return self.answer

    def load(self) -> Splits:
        """Read and checks all rows, and adds a notice if no answer is the first choice."""
        splits = super().load()
        doubts = tuple(
            f"no answer in {path} is 0, the first choice; if they count from 1, subtract 1"
            for path, every in splits.by_file.items()
            if len(every) >= ENOUGH
            and not any(map(self._is_first, every))
            and all(map(self._is_index, every))
        )
        return replace(splits, notices=splits.notices + doubts)

    def _is_last_from_1(self, row: Row) -> bool:
        """Whether the answer is the number of choices, which is the last one counted from 1."""
        cell, every = row[self.label_column], choices(row, self.choices_column)
        is_count = cells.is_integer(cell) and str(cell).strip() == str(len(every.texts))
        return is_count and not every.labels and str(cell).strip() not in every.texts

    def _is_first(self, row: Row) -> bool:
        return not self._is_last_from_1(row) and self.answer(row) == 0

    def _is_index(self, row: Row) -> bool:
        return self._is_last_from_1(row) or self._answer(row)[1] == "index"

    def shown(self, row: Row) -> str:
        """Return the text before a choice."""
        return self.template.fill(row)

    def choices(self, row: Row) -> list[str]:
        """Return the choices of a row.

        Raises:
            TaskError: If there are fewer than two.
        """
        return choices(row, self.choices_column).texts

    def answer(self, row: Row) -> int:
        """Return the index of the right choice.

        Raises:
            TaskError: If the row names no choice, or is ambiguous.
        """
        return self._answer(row)[0]

    def summary(self, splits: Splits) -> tuple[str, ...]:
        """Return a sentence about the form of the answers, unless they are indices."""
        forms = sorted({self._answer(row)[1] for row in splits.train} - {"index"})
        every = f"the {' or '.join(forms)} of a choice"
        return (f"answers in {self.label_column!r} are read as {every}",) if forms else ()

    def _answer(self, row: Row) -> tuple[int, str]:
        return answer(row, self.label_column, choices(row, self.choices_column))
