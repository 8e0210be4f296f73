"""Epochs: periods in which parameters do not change, so that values derived from them are kept.

The engine delimits them: one lasts from `before_step` to `after_backward`, another is opened inside
`Run.gradients`. No other code may edit a parameter during an epoch, by any means, so a layer may
keep what it derived from its parameters for all micro-batches and recomputed forwards. Outside an
epoch there is no such guarantee.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_epoch: object | None = None


def current_epoch() -> object | None:
    """Return a key that stays the same until parameters may change; None outside an epoch."""
    return _epoch


def begin_epoch() -> None:
    """Declare that parameters do not change from now on."""
    global _epoch
    _epoch = object()


def end_epoch() -> None:
    """Declare that parameters may change from now on."""
    global _epoch
    _epoch = None


@contextmanager
def end_epoch_on_exit() -> Iterator[None]:
    """End the current epoch on exit, also when a step fails halfway."""
    try:
        yield
    finally:
        end_epoch()


@contextmanager
def fixed_parameters() -> Iterator[None]:
    """Open an epoch for the body; it ends the one outside, which is not reopened."""
    begin_epoch()
    with end_epoch_on_exit():
        yield
