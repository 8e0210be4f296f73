"""One tag per word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

from rankwright.tasks import rows
from rankwright.tasks.base import PreparedTask, Task
from rankwright.tasks.checks import check_head, check_positions
from rankwright.tasks.errors import TaskError, Where, cell_error
from rankwright.tasks.forward import first
from rankwright.tasks.labels import Labels
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.rows import Row
from rankwright.tasks.tokenizing import IGNORED, token_limit, with_padding

BIO = re.compile(r"O|[BI]-\S+")


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Task):
    """One tag per word of a text that is already split into words.

    The metric `entity_f1` needs BIO tags, which say where an entity starts and ends; without it, as
    for parts of speech under `tag_accuracy`, a tag may be any name.

    Attributes:
        tokens_column: The list of words.
        tags_column: The list of tags, `O`, `B-type` or `I-type` for entities, one a word; or of
            their indices in `label_names`.
        label_names: The tags in the order of their indices. `None` takes those of the training
            rows, alphabetically.
    """

    tokens_column: str = "tokens"
    tags_column: str = "tags"
    label_names: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("entity_f1",)

    kind: ClassVar[str] = "token_classification"
    forms: ClassVar[frozenset[Form]] = frozenset({"tags"})

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The words."""
        return (self.tokens_column,)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The tags."""
        return (self.tags_column,)

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> PreparedTokenClassification:
        """Tokenises the words; the first piece of a word gets its tag, all else is ignored."""
        tokenizer, notices = with_padding(tokenizer)
        limit = token_limit(tokenizer, self.max_length)
        splits = self.load()
        labels = Labels.given_or_inferred(
            self.label_names,
            (tag for row in self.source.naming(splits) for tag in self.tags(row)),
        )
        before = before_words(tokenizer)
        lost = 0

        def encode(split: Sequence[Row]) -> Dataset:
            nonlocal lost
            words = [
                [before + word for word in rows.strings(row, self.tokens_column)] for row in split
            ]
            encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
            targets = []
            for number, row in enumerate(split):
                tags = self.tags(row)
                ids = [labels.index(tag, row.where, self.tags_column) for tag in tags]
                aligned = align(ids, encoded.word_ids(number))
                lost += len(ids) - sum(label != IGNORED for label in aligned)
                targets.append(aligned)
            return Dataset.from_dict({**encoded, "labels": targets})

        datasets = splits.map(encode)
        if lost:
            notices += (
                f"{lost} words are left out of training and of {', '.join(self.metrics)}: they lie "
                f"beyond max_length={limit} tokens, or the tokenizer has no piece for them",
            )
        return PreparedTokenClassification(
            task=self,
            tokenizer=tokenizer,
            rows=splits,
            collator=DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED),
            notices=notices,
            labels=labels,
            **datasets,
        )

    def tags(self, row: Row) -> list[str]:
        """Returns the tags of a row, checked.

        Raises:
            TaskError: If there are not as many tags as words; under `entity_f1` also if a tag is
                not BIO, or an `I-` does not go on with the entity before it.
        """
        column = self.tags_column
        words = rows.strings(row, self.tokens_column)
        tags = [self._named(tag) for tag in rows.labels(row, column)]
        if len(words) != len(tags):
            raise TaskError(
                f"{row.where}: column {column!r} has {len(tags)} tags for the {len(words)} words "
                f"of {self.tokens_column!r}; expected one tag a word. Correct the row."
            )
        if "entity_f1" in self.metrics:
            self._check_entities(row.where, tags)
        return tags

    def _check_entities(self, where: Where, tags: Sequence[str]) -> None:
        """Refuses tags that do not say where an entity starts and ends."""
        column = self.tags_column
        for tag in tags:
            if not BIO.fullmatch(tag):
                fix = self._fix_for(tag)
                raise cell_error(where, column, tag, "O, B-type or I-type, for entity_f1", fix)
        for before, tag in pairwise(["O", *tags]):
            if tag.startswith("I-") and before[2:] != tag[2:]:
                raise cell_error(
                    where,
                    column,
                    tag,
                    f"B-{tag[2:]} or I-{tag[2:]} before it, but found {before}",
                    "The first word of an entity is tagged B- (IOB1 files must be converted).",
                )

    def _fix_for(self, tag: str) -> str:
        if not tag.isdecimal():
            return (
                "Write entities in BIO form. For tags that are no entities, such as parts of "
                "speech, choose the metric tag_accuracy."
            )
        if self.label_names is None:
            return "If the tags are indices, list their names in label_names, in their order."
        return f"label_names has {len(self.label_names)} names, with the indices from 0."

    def _named(self, tag: str) -> str:
        """The tag behind an index, as data sets of the hub hold them; any other tag as it is."""
        names = self.label_names or ()
        return names[int(tag)] if tag.isdecimal() and int(tag) < len(names) else tag


def before_words(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns what a word needs before it to become the pieces that it has within a text.

    That is a space where the tokenizer takes it into the piece (GPT-2, RoBERTa and other byte-level
    ones), and nothing elsewhere.
    """

    def pieces(*words: str) -> list[int]:
        encoded = tokenizer([words], is_split_into_words=True, add_special_tokens=False)
        ids: list[int] = encoded["input_ids"][0]
        return ids

    in_text = tokenizer("of of", add_special_tokens=False)["input_ids"]
    return " " if pieces("of", "of") != in_text == pieces("of", " of") else ""


def align(labels: Sequence[int], word_ids: Sequence[int | None]) -> list[int]:
    """Gives the first piece of every word the word's label, and every other piece -100.

    Args:
        labels: One index per word.
        word_ids: The word that a piece belongs to, `None` for special tokens.
    """
    return [
        IGNORED if word is None or word == before else labels[word]
        for before, word in pairwise([None, *word_ids])
    ]


@dataclass(frozen=True, kw_only=True)
class PreparedTokenClassification(PreparedTask):
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
        """Checks the size of the head, and that every token has a position."""
        check_positions(model, self.longest)
        check_head(model, len(self.labels.names), self.auto_class)

    def preprocess_logits_for_metrics(
        self,
        logits: torch.Tensor | tuple[torch.Tensor, ...],
        labels: torch.Tensor,  # noqa: ARG002 - the Trainer's signature
    ) -> torch.Tensor:
        """Returns the most likely tag of every piece, `(rows, tokens)`."""
        return first(logits).argmax(-1)

    def outcome(self, reduced: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Outcome:
        """Pairs the tags of the words that were seen."""
        seen = [label != IGNORED for label in labels]
        return Outcome(
            [self._names(row[mask]) for row, mask in zip(reduced, seen, strict=True)],
            [self._names(row[mask]) for row, mask in zip(labels, seen, strict=True)],
        )

    def _names(self, indices: np.ndarray) -> list[str]:
        return [self.labels.names[index] for index in indices]
