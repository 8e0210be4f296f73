"""Texts and pairs of texts, tokenised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from rankwright.tasks import cells
from rankwright.tasks.prepared.base import ForwardTask
from rankwright.tasks.prepared.checks import check_head, check_positions
from rankwright.tasks.prepared.tokenizing import token_limit, with_padding
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits
from rankwright.tasks.text import TextTask


def tokenise(
    task: TextTask,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    target: Callable[[Row], object],
) -> dict[str, Any]:
    """Tokenise all rows to the fields of a prepared task; of a pair, the longer text is cut first.

    Args:
        task: The task.
        tokenizer: The tokenizer of the model.
        splits: The rows.
        target: Returns the entry of `labels` for a row.
    """
    tokenizer, notices = with_padding(tokenizer)
    limit = token_limit(tokenizer, task.max_length)
    cut = 0

    def encode(split: Sequence[Row]) -> Dataset:
        nonlocal cut
        texts = [[cells.text(row, column) for row in split] for column in task.input_columns]
        targets = [target(row) for row in split]
        encoded = tokenizer(*texts, verbose=False)
        too_long = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) > limit]
        if too_long:  # tokenise only these again, truncated
            cut += len(too_long)
            longest = [[column[row] for row in too_long] for column in texts]
            shorter = tokenizer(*longest, truncation="longest_first", max_length=limit)
            for name, values in shorter.items():
                for row, value in zip(too_long, values, strict=True):
                    encoded[name][row] = value
        return Dataset.from_dict({**encoded, "labels": targets})

    datasets = splits.map(encode)
    if cut:
        notices += (f"{cut} rows were cut to fit max_length={limit} tokens",)
    return {
        "task": task,
        "tokenizer": tokenizer,
        "rows": splits,
        "collator": DataCollatorWithPadding(tokenizer),
        "notices": splits.notices + notices,
        **datasets,
    }


@dataclass(frozen=True, kw_only=True)
class PreparedText(ForwardTask):
    """A text task for a model with a classification head of `(rows, num_labels)` logits."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"

    def check_model(self, model: torch.nn.Module) -> None:
        """Check the size of the head, and that every token has a position."""
        check_positions(model, self.longest)
        check_head(model, self.model_kwargs["num_labels"], self.auto_class)
