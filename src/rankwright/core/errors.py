"""Errors a user can act on: what, where, what was expected, what to do."""

import difflib
from collections.abc import Iterable


class MethodError(ValueError):
    """A field, a combination or a model that a method cannot work with; raised before training."""


class TrainingError(RuntimeError):
    """Training cannot go on or did not do what the method needs."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known names that are spelt like an unknown one, to be put at the end of a message."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
