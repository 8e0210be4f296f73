"""How the optimizer steps of a run are divided, and how learning rates change over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FORWARD = 1 / 3
"""A forward pass in units of a forward-and-backward pass: backward takes twice the operations."""

Multiplier = Callable[[int], float]
"""Optimizer step (0-based) -> factor on the learning rate."""

Shape = Callable[[int], Multiplier]
"""Number of steps -> the user's schedule (linear, cosine, ...) stretched over that many steps."""


@dataclass(frozen=True)
class Phase:
    """A stretch of optimizer steps.

    Attributes:
        name: The name that a user sees ("search", "retrain").
        steps: Its length in optimizer steps.
    """

    name: str
    steps: int
