"""Rows with one number, tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.prepared.forward import first
from rankwright.tasks.prepared.text import PreparedText, tokenise
from rankwright.tasks.regression import Regression
from rankwright.tasks.splits import Splits


@dataclass(frozen=True, kw_only=True)
class PreparedRegression(PreparedText):
    """Rows whose `labels` are floats."""

    form: ClassVar[Form] = "numbers"

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """A head of one output, and the padding token that decoders look for."""
        pad = self.tokenizer.pad_token_id
        return {"num_labels": 1, "problem_type": "regression", "pad_token_id": pad}

    def preprocess_logits_for_metrics(
        self,
        logits: torch.Tensor | tuple[torch.Tensor, ...],
        labels: torch.Tensor,  # noqa: ARG002 - the Trainer's signature
    ) -> torch.Tensor:
        """Return the predicted number of every row, `(rows,)`, in float32."""
        return first(logits).squeeze(-1).float()

    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pair numbers."""
        return Outcome(np.array(reduced).tolist(), np.array(labels).tolist())


def prepare(
    task: Regression, tokenizer: PreTrainedTokenizerBase, splits: Splits
) -> PreparedRegression:
    """Tokenise the texts, and read the numbers."""
    return PreparedRegression(**tokenise(task, tokenizer, splits, task.number))
