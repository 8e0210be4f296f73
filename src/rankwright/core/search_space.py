"""Search spaces of hyperparameters, which a method declares beside its fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rankwright.errors import MethodError


@dataclass(frozen=True)
class LogRange:
    """Numbers between two positive ends, uniform on a logarithmic scale.

    Attributes:
        low: The lower end.
        high: The upper end.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise MethodError(f"{self!r}: expected 0 < low < high, both finite")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}, log scale"

    @property
    def ends(self) -> tuple[Any, ...]:
        """The extreme values."""
        return self.low, self.high

    @property
    def middle(self) -> float:
        """The geometric mean of the ends, rounded to two digits."""
        return float(f"{math.sqrt(self.low * self.high):.1e}")


@dataclass(frozen=True)
class OneOf:
    """One of a few values.

    Attributes:
        values: The values; numbers, strings, booleans or None.
    """

    values: tuple[float | int | str | bool | None, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise MethodError(f"{self!r}: expected at least one value")

    def __str__(self) -> str:
        return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.values


SearchSpace = Mapping[str, LogRange | OneOf]
"""Values to try, by field of the method, `learning_rate` or `head_learning_rate`."""

RATES: SearchSpace = {
    "learning_rate": LogRange(1e-4, 1e-2),
    "head_learning_rate": LogRange(1e-3, 1e-1),
}
"""Learning rates of the factors and of a new head; tune every method over both."""

LOW_RANK: SearchSpace = {**RATES, "r": OneOf((4, 8, 16))}
"""Rates and rank."""

LARGE_STEPS: SearchSpace = {**LOW_RANK, "learning_rate": LogRange(3e-5, 3e-3)}
"""Lower rates, for methods that move W farther than LoRA does at the same rate."""


def points(space: SearchSpace) -> float:
    """Return the number of points of a search space: infinite with a range, 0 if empty."""
    sizes = [
        len({*choice.values}) if isinstance(choice, OneOf) else math.inf
        for choice in space.values()
    ]
    return math.prod(sizes) if sizes else 0
