"""Errors a user can act on: what, where, what was expected, what to do."""

import difflib
from collections.abc import Iterable


class MethodError(ValueError):
    """A field, a combination or a model that a method cannot work with; raised before training."""


class FieldError(MethodError):
    """A field of a method or part that is out of its range.

    Args:
        owner: Class of the method or part.
        name: The field.
        value: The value given.
        expected: A description of the values that are allowed.
    """

    def __init__(self, owner: str, name: str, value: object, expected: str) -> None:
        super().__init__(owner, name, value, expected)
        self.owner, self.name, self.value, self.expected = owner, name, value, expected

    def __str__(self) -> str:
        return f"{self.place} = {self.value!r}: expected {self.expected}"

    @property
    def place(self) -> str:
        """The field as the message names it: `Owner.name`."""
        return f"{self.owner}.{self.name}"


class TrainingError(RuntimeError):
    """Training cannot go on or did not do what the method needs."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known names that are spelt like an unknown one, to be put at the end of a message."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
