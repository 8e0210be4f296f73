"""Words and their tags, tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

from rankwright.tasks import cells
from rankwright.tasks.labels import Labels
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.prepared.base import ForwardTask
from rankwright.tasks.prepared.checks import check_head, check_positions
from rankwright.tasks.prepared.forward import first
from rankwright.tasks.prepared.tokenizing import IGNORED, token_limit, with_padding
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits
from rankwright.tasks.token_classification import TokenClassification


def before_words(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text to put before a word to get the pieces that the word has within a text.

    It is a space for tokenizers that include it in the piece (GPT-2, RoBERTa and other byte-level
    ones), and empty for others.
    """

    def pieces(*words: str) -> list[int]:
        encoded = tokenizer([words], is_split_into_words=True, add_special_tokens=False)
        ids: list[int] = encoded["input_ids"][0]
        return ids

    in_text = tokenizer("of of", add_special_tokens=False)["input_ids"]
    return " " if pieces("of", "of") != in_text == pieces("of", " of") else ""


def align(labels: Sequence[int], word_ids: Sequence[int | None]) -> list[int]:
    """Return the word's label for the first piece of every word, and -100 for every other piece.

    Args:
        labels: One index per word.
        word_ids: The index of the word that a piece belongs to; `None` for special tokens.
    """
    return [
        IGNORED if word is None or word == before else labels[word]
        for before, word in pairwise([None, *word_ids])
    ]


@dataclass(frozen=True, kw_only=True)
class PreparedTokenClassification(ForwardTask):
    """Rows whose `labels` are tag indices on first pieces and -100 elsewhere.

    Attributes:
        labels: The tags.
    """

    labels: Labels
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    form: ClassVar[Form] = "tags"

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Size and names of the head."""
        return {
            "num_labels": len(self.labels.names),
            "id2label": self.labels.id2label,
            "label2id": self.labels.label2id,
        }

    def check_model(self, model: torch.nn.Module) -> None:
        """Check the size of the head, and that every token has a position."""
        check_positions(model, self.longest)
        check_head(model, len(self.labels.names), self.auto_class)

    def preprocess_logits_for_metrics(
        self,
        logits: torch.Tensor | tuple[torch.Tensor, ...],
        labels: torch.Tensor,  # noqa: ARG002 - the Trainer's signature
    ) -> torch.Tensor:
        """Return the most likely tag of every piece, `(rows, tokens)`."""
        return first(logits).argmax(-1)

    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pair the tags of the words that were seen."""
        seen = [label != IGNORED for label in labels]
        return Outcome(
            [self._names(row[mask]) for row, mask in zip(reduced, seen, strict=True)],
            [self._names(row[mask]) for row, mask in zip(labels, seen, strict=True)],
        )

    def _names(self, indices: np.ndarray) -> list[str]:
        return [self.labels.names[index] for index in indices]


def prepare(
    task: TokenClassification, tokenizer: PreTrainedTokenizerBase, splits: Splits
) -> PreparedTokenClassification:
    """Tokenise the words; the first piece of a word gets its tag, all else is ignored."""
    tokenizer, notices = with_padding(tokenizer)
    limit = token_limit(tokenizer, task.max_length)
    labels = task.labels(splits)
    before = before_words(tokenizer)
    lost = 0

    def encode(split: Sequence[Row]) -> Dataset:
        nonlocal lost
        words = [
            [before + word for word in cells.strings(row, task.tokens_column)] for row in split
        ]
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
        targets = []
        for number, row in enumerate(split):
            ids = task.indices(row, labels)
            aligned = align(ids, encoded.word_ids(number))
            lost += len(ids) - sum(label != IGNORED for label in aligned)
            targets.append(aligned)
        return Dataset.from_dict({**encoded, "labels": targets})

    datasets = splits.map(encode)
    if lost:
        notices += (
            f"{lost} words are left out of training and of {', '.join(task.metrics)}: they lie "
            f"beyond max_length={limit} tokens, or the tokenizer has no piece for them",
        )
    return PreparedTokenClassification(
        task=task,
        tokenizer=tokenizer,
        rows=splits,
        collator=DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED),
        notices=splits.notices + notices,
        labels=labels,
        **datasets,
    )
