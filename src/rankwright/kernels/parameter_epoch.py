"""While parameters stand still, what follows from them alone is computed once.

The engine says when: from `before_step` to `after_backward`, and inside `Run.gradients`. Nobody
else edits a parameter there, by whatever way, so a layer may keep what it made of its parameters
for all micro-batches and recomputed forwards. Outside there is no such promise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_period: object | None = None


def period() -> object | None:
    """A key that is the same as long as parameters stand still; None where nobody has said so."""
    return _period


def begin() -> None:
    """From now on parameters stand still."""
    global _period
    _period = object()


def end() -> None:
    """From now on they may move."""
    global _period
    _period = None


@contextmanager
def within() -> Iterator[None]:
    """What stands still inside may move after it, also if it fails in the middle of a step."""
    try:
        yield
    finally:
        end()


@contextmanager
def still() -> Iterator[None]:
    """Parameters stand still inside; what held outside is forgotten."""
    begin()
    with within():
        yield
