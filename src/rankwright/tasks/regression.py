"""One number per text or pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rankwright.tasks import rows
from rankwright.tasks.forward import first
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.text import PreparedText, TextTask


@dataclass(frozen=True, kw_only=True)
class Regression(TextTask):
    """One number per text or pair; models learn it in its own unit, by squared error."""

    metrics: tuple[str, ...] = ("pearson", "spearman")

    kind: ClassVar[str] = "regression"
    forms: ClassVar[frozenset[Form]] = frozenset({"numbers"})

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> PreparedRegression:
        """Tokenises the texts and reads the numbers."""
        target = self.label_column
        fields = self.tokenised(tokenizer, self.load(), lambda row: rows.number(row, target))
        return PreparedRegression(**fields)


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
        """Returns the predicted number of every row, `(rows,)`, in float32."""
        return first(logits).squeeze(-1).float()

    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pairs numbers."""
        return Outcome(np.array(reduced).tolist(), np.array(labels).tolist())
