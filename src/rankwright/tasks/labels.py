"""Class names and their indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rankwright.tasks.cells import NUMBER
from rankwright.tasks.errors import TaskError, Where, cell_error, listing, suggestion
from rankwright.tasks.spelling import Found, folded

LONGEST_INTEGER = 20
"""Maximum number of characters of an index; Python refuses to read thousands of digits."""


@dataclass(frozen=True)
class Labels:
    """The classes of a task, in the order of their indices.

    A cell names its class. If the user gave the names, and none is an integer, it may hold an index
    instead: with the names `("entailment", "not_entailment")` the cell `1` is `not_entailment`.

    Attributes:
        names: The classes.
        given: Whether the user gave them, so that an index has a meaning.
    """

    names: tuple[str, ...]
    given: bool = True

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise TaskError(f"labels: {listing(self.names)}: a name occurs more than once.")
        if not self.names:
            raise TaskError("labels: there is none. Is the label column the right one?")

    @classmethod
    def inferred(cls, found: Mapping[str, Found]) -> Labels:
        """Return the labels with the names that occur.

        They are in numerical order if all of them are integers, otherwise in alphabetical order.

        Args:
            found: The names and their places.

        Raises:
            TaskError: If they are numbers with fractions, or two differ in case or white space
                alone.
        """
        names = set(found)
        _check_spelling(found)
        key = int if all(map(_is_integer, names)) else str
        return cls(tuple(sorted(names, key=lambda name: (key(name), name))), given=False)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Index by name, and by the index as a text if that has a meaning."""
        by_name = {name: index for index, name in enumerate(self.names)}
        if not self.given or any(map(_is_integer, self.names)):
            return by_name
        return {str(index): index for index in range(len(self.names))} | by_name

    def index(self, name: str, where: Where, column: str) -> int:
        """Return the index of the class that a cell names.

        Raises:
            TaskError: If the class is unknown, or an integer occurs among inferred names.
        """
        if not self.given and _is_integer(name) and self._words:
            fix = "Write the name, or list label_names in the order of the indices."
            raise cell_error(where, column, name, f"a name, as are {listing(self._words)}", fix)
        if name not in self.ids:
            raise cell_error(
                where,
                column,
                name,
                f"one of the {len(self.names)} labels {listing(self.names)}",
                "Correct the cell, or list every label in label_names "
                f"(without it the training rows decide).{suggestion(name, self.names)}",
            )
        return self.ids[name]

    def check_indices(self, found: Mapping[str, Found], column: str) -> None:
        """Check that indices among the cells count from 0.

        Args:
            found: The values of the cells.
            column: Their column.

        Raises:
            TaskError: If none is 0 and the largest is the number of names, so they count from 1.
        """
        indices = {int(name) for name in found if _is_integer(name) and name not in self.names}
        size = len(self.names)
        if indices and 0 not in indices and max(indices) == size:
            last = found[str(size)]
            raise cell_error(
                last.first,
                column,
                last.name,
                f"an index from 0 to {size - 1}, and no row holds 0",
                f"The labels seem to count from 1, and label_names ({listing(self.names)}) from 0: "
                "write names, or subtract 1 from all labels.",
            )

    @cached_property
    def _words(self) -> list[str]:
        return [name for name in self.names if not _is_integer(name)]

    @property
    def id2label(self) -> dict[int, str]:
        """Name by index, as model configurations want it."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Index by name, as model configurations want it."""
        return {name: index for index, name in enumerate(self.names)}


def _check_spelling(found: Mapping[str, Found]) -> None:
    """Refuse names that differ in case or white space alone, and numbers with fractions."""
    alike: dict[str, Found] = {}
    for label in sorted(found.values(), key=lambda label: label.name):
        other = alike.setdefault(folded(label.name), label)
        if other is not label:
            truth = " JSON's true and false are read as True and False."
            raise TaskError(
                f"labels: {other} and {label} differ in case or white space alone. Write them "
                "alike, or list every label in label_names if they are classes of their own."
                + (truth if folded(label.name) in ("true", "false") else "")
            )
    if all(map(_is_number, found)) and not all(map(_is_digits, found)):
        raise TaskError(
            f"labels: {listing(sorted(found))} are numbers; expected names. Choose kind "
            "regression, or list every label in label_names."
        )


def _is_number(name: str) -> bool:
    return NUMBER.fullmatch(name.strip()) is not None


def _is_integer(name: str) -> bool:
    return _is_digits(name) and len(name) <= LONGEST_INTEGER


def _is_digits(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdecimal()
