"""Questions and their choices, tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.multiple_choice import MultipleChoice
from rankwright.tasks.prepared.causal import CausalEncoder, PreparedCausal
from rankwright.tasks.prepared.forward import forward_rows
from rankwright.tasks.prepared.tokenizing import token_limit
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits


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
        """Score the right choices as completions, then choose among all choices."""
        self.check_model(model)
        outcomes = super().predict(model, batch_size=batch_size, split=split, limit=limit)
        some = [self.rows[split][row] for row in self.draw_rows(split, limit)]
        chosen = [int(np.argmax(s)) for s in self.log_likelihoods(model, some, batch_size)]
        outcomes["classes"] = Outcome(chosen, [self.task.answer(row) for row in some])
        return outcomes

    def log_likelihoods(
        self, model: torch.nn.Module, questions: Sequence[Row], batch_size: int = 32
    ) -> list[np.ndarray]:
        """Return for every question the log-likelihoods of its choices, `(choices,)`, in nats.

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


def prepare(
    task: MultipleChoice, tokenizer: PreTrainedTokenizerBase, splits: Splits
) -> PreparedMultipleChoice:
    """Tokenise every question with its right choice."""
    encoder = CausalEncoder(tokenizer, token_limit(tokenizer, task.max_length))

    def encode(split: Sequence[Row]) -> Dataset:
        prompts = encoder.pieces([task.shown(row) for row in split])
        answers = encoder.pieces([task.choices(row)[task.answer(row)] for row in split])
        return Dataset.from_list(
            list(map(encoder.row, [row.where for row in split], prompts, answers))
        )

    return PreparedMultipleChoice.from_encoder(task, splits, encoder, encode)
