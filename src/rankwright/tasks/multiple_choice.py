"""Multiple choice by likelihood: the answer is the choice that a causal model finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rankwright.tasks import rows
from rankwright.tasks.base import Task
from rankwright.tasks.causal import CausalEncoder, PreparedCausal
from rankwright.tasks.errors import cell_error
from rankwright.tasks.forward import forward_rows
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.rows import Row
from rankwright.tasks.template import Template
from rankwright.tasks.tokenizing import token_limit


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Task):
    """One of several choices per question.

    A model learns the right choice as a completion of the question. To answer, it scores every
    choice and takes the one of the greatest log-likelihood. Encoders have no likelihood of a
    completion: `check_model` and `evaluate` refuse them.

    Attributes:
        question_column: The question.
        prompt_template: What the model is shown, with `{prompt}` for the question and `{column}`
            for any other column; see `Template`.
        choices_column: A list of at least two texts.
        label_column: The index of the right one, counted from 0.
        length_normalised: Whether to compare the mean log-likelihood of a token rather than the
            sum, which favours short choices.
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
        """The question, what else the template shows, and the choices."""
        return (*self.template.named, self.choices_column)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The index of the right choice."""
        return (self.label_column,)

    @cached_property
    def template(self) -> Template:
        """What a question is put into."""
        return Template(self.prompt_template, self.question_column)

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> PreparedMultipleChoice:
        """Tokenises every question with its right choice."""
        encoder = CausalEncoder(tokenizer, token_limit(tokenizer, self.max_length))
        splits = self.load()

        def encode(split: Sequence[Row]) -> Dataset:
            prompts = encoder.pieces([self.shown(row) for row in split])
            answers = encoder.pieces([self.choices(row)[self.answer(row)] for row in split])
            return Dataset.from_list(
                list(map(encoder.row, [row.where for row in split], prompts, answers))
            )

        datasets = splits.map(encode)
        return PreparedMultipleChoice(
            task=self,
            tokenizer=encoder.tokenizer,
            rows=splits,
            collator=encoder.collator,
            notices=encoder.notices,
            encoder=encoder,
            **datasets,
        )

    def shown(self, row: Row) -> str:
        """Returns what the model is shown before a choice."""
        return self.template.fill(row)

    def choices(self, row: Row) -> list[str]:
        """Returns the choices of a row.

        Raises:
            TaskError: If there are fewer than two.
        """
        column = self.choices_column
        choices = rows.strings(row, column)
        if len(choices) < 2:
            raise cell_error(row.where, column, choices, "at least two choices", "Add the others.")
        return choices

    def answer(self, row: Row) -> int:
        """Returns the index of the right choice."""
        return rows.index(row, self.label_column, len(self.choices(row)))


@dataclass(frozen=True, kw_only=True)
class PreparedMultipleChoice(PreparedCausal):
    """Rows of a question and its right choice."""

    task: MultipleChoice

    def predict(
        self,
        model: torch.nn.Module,
        *,
        batch_size: int = 32,
        split: str = "validation",
        limit: int | None = None,
    ) -> dict[Form, Outcome]:
        """Scores the right choices as completions, then chooses among all."""
        self.check_model(model)
        outcomes = super().predict(model, batch_size=batch_size, split=split, limit=limit)
        some = [self.rows[split][row] for row in self.drawn(split, limit)]
        chosen = [int(np.argmax(s)) for s in self.log_likelihoods(model, some, batch_size)]
        outcomes["classes"] = Outcome(chosen, [self.task.answer(row) for row in some])
        return outcomes

    def log_likelihoods(
        self, model: torch.nn.Module, questions: Sequence[Row], batch_size: int = 32
    ) -> list[np.ndarray]:
        """Returns for every question the log-likelihoods of its choices, `(choices,)`, in nats.

        They are means over the tokens of a choice if the task is length-normalised, else sums; the
        end of text is not scored.
        """
        choices = [self.task.choices(row) for row in questions]
        prompts = self.encoder.pieces([self.task.shown(row) for row in questions])
        pairs = [
            self.encoder.row(row.where, prompt, ids, end=False)
            for row, prompt, texts in zip(questions, prompts, choices, strict=True)
            for ids in self.encoder.pieces(texts)
        ]
        reduced, _ = forward_rows(
            model,
            Dataset.from_list(pairs),
            self.collator,
            self.preprocess_logits_for_metrics,
            batch_size,
        )
        nats, tokens = np.array(reduced, dtype=np.float64).T
        scores = -nats / tokens if self.task.length_normalised else -nats
        return np.split(scores, np.cumsum([len(texts) for texts in choices])[:-1])
