"""Axes of a plot: from a figure to a place, and which figures to write beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_LOG_FROM = 8.0  # largest over smallest figure, from where an axis is logarithmic
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)

Bounds = tuple[float, float]
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Axis:
    """A range of figures laid on a range of places.

    Attributes:
        low: Figure at `start`.
        high: Figure at `end`.
        start: A place, in pixels or percent.
        end: Another; the smaller one on an axis that points up.
        log: Whether equal distances are equal ratios.
        bounds: The smallest and the largest possible figure; the axis stays within them.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    bounds: Bounds = UNBOUNDED

    @classmethod
    def over(
        cls,
        values: Iterable[float],
        start: float,
        end: float,
        *,
        log: bool | None = False,
        room: float = 0.06,
        bounds: Bounds = UNBOUNDED,
    ) -> Axis:
        """An axis on which all finite values have a place.

        Args:
            values: What is to be shown.
            start: Place of the low end.
            end: Place of the high end.
            log: Whether it is logarithmic; None for: if the values are positive and span a factor
                of 8.
            room: Share of the axis to leave free at either end, as far as `bounds` go.
            bounds: The smallest and the largest possible figure.
        """
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if log is None:
            log = low > 0 and high / low >= _LOG_FROM
        forward, back = (math.log, math.exp) if log else (float, float)
        a, b = forward(low), forward(high)
        margin = (b - a) * room or abs(a) * room or 1.0
        low, high = max(back(a - margin), bounds[0]), min(back(b + margin), bounds[1])
        return cls(low, high, start, end, log, bounds)

    def at(self, value: float) -> float:
        """Place of a figure; what lies outside is put on the edge."""
        forward = math.log if self.log else float
        low, high = forward(self.low), forward(self.high)
        share = (forward(min(max(value, self.low), self.high)) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, text: Callable[[float], str], most: int = 5) -> list[tuple[float, str]]:
        """Round figures on the axis, each with its place and its text."""
        values = self._decades(most) if self.log else self._steps(most)
        if len(values) < 2:  # an axis within one step of the decades
            values = self._steps(most)
        return [(self.at(value), text(value)) for value in values]

    def _steps(self, most: int) -> list[float]:
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        for step in (digits * power for digits in _STEPS):
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            if last - first < most:
                break
        return [number * step for number in range(first, last + 1)]

    def _decades(self, most: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [d * 10.0**power for power in powers for d in digits]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= most:
                return inside
        return inside[:: -(-len(inside) // most)]
