"""One class per text or pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rankwright.tasks import rows
from rankwright.tasks.errors import TaskError, listing
from rankwright.tasks.forward import first
from rankwright.tasks.labels import Labels
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.text import PreparedText, TextTask


@dataclass(frozen=True, kw_only=True)
class SequenceClassification(TextTask):
    """One class per text or pair.

    Attributes:
        label_names: The classes in the order of their indices. `None` takes those of the training
            rows: in numerical order if all are integers, else alphabetical.
    """

    label_names: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")

    kind: ClassVar[str] = "sequence_classification"
    forms: ClassVar[frozenset[Form]] = frozenset({"classes"})

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> PreparedSequenceClassification:
        """Tokenises the texts and turns class names into indices."""
        splits, column = self.load(), self.label_column
        labels = Labels.given_or_inferred(
            self.label_names, (rows.label(row, column) for row in self.source.naming(splits))
        )
        fields = self.tokenised(
            tokenizer,
            splits,
            lambda row: labels.index(rows.label(row, column), row.where, column),
        )
        self._check_classes(labels)
        return PreparedSequenceClassification(**fields, labels=labels)

    def _check_classes(self, labels: Labels) -> None:
        """Refuse classes that there is nothing to learn from, or that a metric does not fit."""
        count = len(labels.names)
        if count < 2:
            raise TaskError(
                f"column {self.label_column!r}: {labels.names[0]!r} is the only label; expected at "
                "least two. Name another label_column, or list every label in label_names."
            )
        if "binary_f1" in self.metrics and count != 2:
            raise TaskError(
                f"metric 'binary_f1': it is the F1 of class 1 of two, and there are {count}: "
                f"{listing(labels.names)}. Use macro_f1 or micro_f1."
            )


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
        """The index of the class of every row."""
        return list(self.dataset(split)["labels"])

    def preprocess_logits_for_metrics(
        self,
        logits: torch.Tensor | tuple[torch.Tensor, ...],
        labels: torch.Tensor,  # noqa: ARG002 - the Trainer's signature
    ) -> torch.Tensor:
        """Returns the most likely class of every row, `(rows,)`."""
        return first(logits).argmax(-1)

    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pairs class indices."""
        return Outcome(np.array(reduced).tolist(), np.array(labels).tolist())
