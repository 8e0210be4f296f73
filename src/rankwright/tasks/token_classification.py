"""One tag per word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from rankwright.tasks import cells
from rankwright.tasks.errors import TaskError, Where, cell_error
from rankwright.tasks.labelled import LabelledTask
from rankwright.tasks.metrics import Form
from rankwright.tasks.rows import Row
from rankwright.tasks.spelling import Found

BIO = re.compile(r"O|[BI]-\S+")


@dataclass(frozen=True, kw_only=True)
class TokenClassification(LabelledTask):
    """One tag per word of a text that is already split into words.

    The metric `entity_f1` needs BIO tags, which mark where an entity starts and ends. With other
    metrics, such as `tag_accuracy` for parts of speech, a tag may be any name.

    Attributes:
        tokens_column: The list of words.
        tags_column: The list of tags, one per word: `O`, `B-type` or `I-type` for entities; or of
            their indices in `label_names`.
        label_names: The tags in the order of their indices. With `None` they are the tags of the
            training rows, in alphabetical order.
    """

    tokens_column: str = "tokens"
    tags_column: str = "tags"
    label_names: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("entity_f1",)

    kind: ClassVar[str] = "token_classification"
    forms: ClassVar[frozenset[Form]] = frozenset({"tags"})
    noun: ClassVar[str] = "tags"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The words."""
        return (self.tokens_column,)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The tags."""
        return (self.tags_column,)

    def named(self, row: Row) -> list[str]:
        """Return the tags of a row."""
        return self.tags(row)

    def spelling_groups(self, found: dict[str, Found]) -> dict[str, Found]:
        """Return the types of entities with the words of each; B-LOC and I-LOC are one type."""
        types: dict[str, Found] = {}
        for tag in found.values():
            name = tag.name[2:] if tag.name[:2] in ("B-", "I-") else tag.name
            count = types[name].count if name in types else 0
            types[name] = replace(types.get(name, tag), name=name, count=count + tag.count)
        return types

    def check(self, row: Row) -> None:
        """Check the words and their tags."""
        self.tags(row)

    def tags(self, row: Row) -> list[str]:
        """Return the tags of a row, checked.

        Raises:
            TaskError: If the numbers of tags and words differ; under `entity_f1` also if a tag is
                not BIO, or an `I-` tag does not continue the entity before it.
        """
        column = self.tags_column
        words = cells.strings(row, self.tokens_column)
        tags = [self._tag_name(tag) for tag in cells.labels(row, column, self.label_names)]
        if len(words) != len(tags):
            raise TaskError(
                f"{row.where}: column {column!r} has {len(tags)} tags for the {len(words)} words "
                f"of {self.tokens_column!r}; expected one tag per word. Correct the row."
            )
        if "entity_f1" in self.metrics:
            self._check_entities(row.where, tags)
        return tags

    def _check_entities(self, where: Where, tags: Sequence[str]) -> None:
        """Refuse tags that do not mark where an entity starts and ends."""
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

    def _tag_name(self, tag: str) -> str:
        """Return the tag that an index stands for, as in data sets on the hub; others unchanged."""
        names = self.label_names or ()
        return names[int(tag)] if tag.isdecimal() and int(tag) < len(names) else tag
