"""Rows with one class, tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rankwright.tasks.labels import Labels
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.prepared.forward import first
from rankwright.tasks.prepared.text import PreparedText, tokenise
from rankwright.tasks.sequence_classification import SequenceClassification
from rankwright.tasks.splits import Splits


@dataclass(frozen=True, kw_only=True)
class PreparedSequenceClassification(PreparedText):
    """Rows whose `labels` are class indices.

    Attributes:
        labels: The classes.
    """

    labels: Labels
    form: ClassVar[Form] = "classes"

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Size and names of the head, and the padding token that decoders look for."""
        return {
            "num_labels": len(self.labels.names),
            "id2label": self.labels.id2label,
            "label2id": self.labels.label2id,
            "problem_type": "single_label_classification",
            "pad_token_id": self.tokenizer.pad_token_id,
        }

    def classes(self, split: str) -> Sequence[object]:
        """Return the index of the class of every row."""
        return list(self.dataset(split)["labels"])

    def preprocess_logits_for_metrics(
        self,
        logits: torch.Tensor | tuple[torch.Tensor, ...],
        labels: torch.Tensor,  # noqa: ARG002 - the Trainer's signature
    ) -> torch.Tensor:
        """Return the most likely class of every row, `(rows,)`."""
        return first(logits).argmax(-1)

    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pair class indices."""
        return Outcome(np.array(reduced).tolist(), np.array(labels).tolist())


def prepare(
    task: SequenceClassification, tokenizer: PreTrainedTokenizerBase, splits: Splits
) -> PreparedSequenceClassification:
    """Tokenise the texts, and turn class names into indices."""
    labels = task.labels(splits)
    fields = tokenise(task, tokenizer, splits, lambda row: task.indices(row, labels)[0])
    return PreparedSequenceClassification(**fields, labels=labels)
