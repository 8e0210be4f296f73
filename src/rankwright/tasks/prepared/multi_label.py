"""Rows with any number of classes, tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rankwright.tasks.labels import Labels
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.multi_label import MultiLabel
from rankwright.tasks.prepared.forward import first
from rankwright.tasks.prepared.text import PreparedText, tokenise
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits


@dataclass(frozen=True, kw_only=True)
class PreparedMultiLabel(PreparedText):
    """Rows whose `labels` are 0.0 or 1.0 for every class.

    Attributes:
        labels: The classes.
    """

    labels: Labels
    form: ClassVar[Form] = "sets"

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Size and names of the head, and the padding token that decoders look for."""
        return {
            "num_labels": len(self.labels.names),
            "id2label": self.labels.id2label,
            "label2id": self.labels.label2id,
            "problem_type": "multi_label_classification",
            "pad_token_id": self.tokenizer.pad_token_id,
        }

    def classes(self, split: str) -> Sequence[object]:
        """Return the set of classes of every row, as zeros and ones."""
        return list(map(tuple, self.dataset(split)["labels"]))

    def preprocess_logits_for_metrics(
        self,
        logits: torch.Tensor | tuple[torch.Tensor, ...],
        labels: torch.Tensor,  # noqa: ARG002 - the Trainer's signature
    ) -> torch.Tensor:
        """Return 1 for every class with a probability above one half, `(rows, classes)`."""
        return (first(logits) > 0).int()

    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pair 0/1 matrices."""
        return Outcome(np.array(reduced).tolist(), np.array(labels).astype(int).tolist())


def prepare(
    task: MultiLabel, tokenizer: PreTrainedTokenizerBase, splits: Splits
) -> PreparedMultiLabel:
    """Tokenise the texts, and turn lists of names into rows of zeros and ones."""
    labels = task.labels(splits)

    def target(row: Row) -> list[float]:
        named = task.indices(row, labels)
        return [float(index in named) for index in range(len(labels.names))]

    return PreparedMultiLabel(**tokenise(task, tokenizer, splits, target), labels=labels)
