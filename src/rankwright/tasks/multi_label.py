"""Any number of classes per text or pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rankwright.tasks import rows
from rankwright.tasks.forward import first
from rankwright.tasks.labels import Labels
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.rows import Row
from rankwright.tasks.text import PreparedText, TextTask


@dataclass(frozen=True, kw_only=True)
class MultiLabel(TextTask):
    """A set of classes per text or pair; the label column holds a list, which may be empty.

    Attributes:
        label_names: The classes in the order of their indices. `None` takes those of the training
            rows: in numerical order if all are integers, else alphabetical.
    """

    label_column: str = "labels"
    label_names: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("micro_f1", "macro_f1")

    kind: ClassVar[str] = "multi_label"
    forms: ClassVar[frozenset[Form]] = frozenset({"sets"})

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> PreparedMultiLabel:
        """Tokenises the texts and turns lists of names into rows of zeros and ones."""
        splits, column = self.load(), self.label_column
        labels = Labels.given_or_inferred(
            self.label_names,
            (n for row in self.source.naming(splits) for n in rows.labels(row, column)),
        )

        def target(row: Row) -> list[float]:
            named = [labels.index(n, row.where, column) for n in rows.labels(row, column)]
            return [float(index in named) for index in range(len(labels.names))]

        return PreparedMultiLabel(**self.tokenised(tokenizer, splits, target), labels=labels)


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
        """The set of classes of every row, as zeros and ones."""
        return list(map(tuple, self.dataset(split)["labels"]))

    def preprocess_logits_for_metrics(
        self,
        logits: torch.Tensor | tuple[torch.Tensor, ...],
        labels: torch.Tensor,  # noqa: ARG002 - the Trainer's signature
    ) -> torch.Tensor:
        """Returns 1 for every class of probability above one half, `(rows, classes)`."""
        return (first(logits) > 0).int()

    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pairs 0/1 matrices."""
        return Outcome(np.array(reduced).tolist(), np.array(labels).astype(int).tolist())
