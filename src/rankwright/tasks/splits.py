"""The rows of a task by split, and a validation part held out of the training rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rankwright.tasks.drawing import position
from rankwright.tasks.errors import TaskError, listing, shorten
from rankwright.tasks.rows import Row

T = TypeVar("T")


@dataclass(frozen=True)
class Splits:
    """The rows of a task, in the order of their source.

    Attributes:
        train: The training rows.
        validation: The validation rows.
        test: The test rows, if the source has them.
        notices: Notices for the user about how they were read.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...] | None = None
    notices: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, tuple[Row, ...] | None]:
        """The rows of every split; `None` for a split that does not exist."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def __getitem__(self, split: str) -> tuple[Row, ...]:
        """Return the rows of `"train"`, `"validation"` or `"test"`.

        Raises:
            TaskError: If there is no such split.
        """
        rows = self.by_name.get(split)
        if rows is None:
            known = [name for name, value in self.by_name.items() if value is not None]
            raise TaskError(f"split {split!r}: the task has none; it has {listing(known)}.")
        return rows

    def seen(self, columns: Sequence[str]) -> dict[str, int]:
        """Count the rows of other splits that equal a training row in these columns."""
        known = {_key(row, columns) for row in self.train}
        counts = self.map(lambda rows: sum(_key(row, columns) in known for row in rows))
        return {name: count for name, count in counts.items() if count and name != "train"}

    @property
    def by_file(self) -> dict[str, list[Row]]:
        """The rows of every file."""
        files: dict[str, list[Row]] = {}
        for rows in self.by_name.values():
            for row in rows or ():
                files.setdefault(row.where.path, []).append(row)
        return files

    def sift(self, sift: Callable[[Sequence[Row]], Sequence[Row]]) -> Splits:
        """Return the splits with the rows that `sift` returns for each."""
        train, validation = tuple(sift(self.train)), tuple(sift(self.validation))
        test = None if self.test is None else tuple(sift(self.test))
        return replace(self, train=train, validation=validation, test=test)

    def map(self, function: Callable[[Sequence[Row]], T]) -> dict[str, T | None]:
        """Apply a function to the rows of every split; `None` for a split that does not exist."""
        return {
            name: None if rows is None else function(rows) for name, rows in self.by_name.items()
        }


class EqualInputsError(TaskError):
    """All rows have the same input, so no share of them can be held out."""


def hold_out(
    rows: Sequence[Row], key_columns: Sequence[str], share: float, seed: int
) -> dict[str, tuple[Row, ...]]:
    """Divide rows into `"train"` and `"validation"`.

    Args:
        rows: The rows.
        key_columns: The columns of the input. Rows that are equal in them stay on one side, so that
            no validation input was trained on.
        share: Share of the rows that becomes the validation part, between 0 and 1.
        seed: Seed of the division.

    Raises:
        EqualInputsError: If all rows are equal in `key_columns`.
        TaskError: If one side would be empty.
    """
    parts: dict[str, list[Row]] = {"train": [], "validation": []}
    for row in rows:
        held_out = position([row[column] for column in key_columns], seed) < share
        parts["validation" if held_out else "train"].append(row)
    if not parts["train"] or not parts["validation"]:
        raise _one_sided(rows, key_columns, share)
    return {name: tuple(part) for name, part in parts.items()}


def _one_sided(rows: Sequence[Row], key_columns: Sequence[str], share: float) -> TaskError:
    """Return the error about a share of the rows that leaves one side of a split empty."""
    remedy = "or name a validation file (--validation-data; validation in a task file)."
    inputs = {_key(row, key_columns) for row in rows}
    if len(rows) == 1 or len(inputs) > 1:
        return TaskError(
            f"a share of {share} of {len(rows)} rows with {len(inputs)} different inputs leaves "
            "one side empty. Add rows with other inputs, change the share (--validation-share, "
            f"--tuning-share), {remedy}"
        )
    names = ", ".join(map(repr, key_columns))
    cells = ", ".join(shorten(rows[0].fields.get(column)) for column in key_columns)
    others = (name for name in rows[0].fields if name not in key_columns)
    differing = [name for name in others if len({_key(row, [name]) for row in rows}) > 1]
    advice = (
        f"Rows differ in {listing(differing)}: name an input column among these,"
        if differing
        else "Add rows with other inputs,"
    )
    return EqualInputsError(
        f"all {len(rows)} rows hold the same {names}: {cells}, and rows of equal input stay on one "
        f"side of a split. {advice} {remedy}"
    )


def _key(row: Row, columns: Sequence[str]) -> str:
    cells = [row.fields.get(column) for column in columns]
    return json.dumps(cells, ensure_ascii=False, default=str)
