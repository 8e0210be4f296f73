"""Tokenised tasks whose predictions are those of one forward pass per row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyarrow import compute

from rankwright.tasks.base import PreparedTask
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.prepared.forward import forward_rows


@dataclass(frozen=True, kw_only=True)
class ForwardTask(PreparedTask):
    """A tokenised task that is predicted by one forward pass per row."""

    @property
    def longest(self) -> int:
        """Number of tokens of the longest row of all splits."""
        splits = [split for split in (self.train, self.validation, self.test) if split is not None]
        lengths = [compute.list_value_length(split.data["input_ids"]) for split in splits]
        return max(compute.max(length).as_py() or 0 for length in lengths)

    def predict(
        self,
        model: torch.nn.Module,
        *,
        batch_size: int = 32,
        split: str = "validation",
        limit: int | None = None,
    ) -> dict[Form, Outcome]:
        """Reduce the logits of every row, and pair them with the labels."""
        data = self.dataset(split)
        if limit is not None:
            data = data.select(self.draw_rows(split, limit))
        reduced, labels = forward_rows(
            model, data, self.collator, self.preprocess_logits_for_metrics, batch_size
        )
        return {self.form: self.outcome(reduced, labels)}
