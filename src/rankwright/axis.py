"""Axes of plots: the range that an axis shows, the place of a value on it, ticks and their labels.

The report draws SVG by hand (`study/report/plots`) and `rankwright plot` draws with matplotlib
(`cli/drawing.py`). Both take scales, ticks and labels from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_LOG_FROM = 8.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)

Bounds = tuple[float, float]
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Axis:
    """A range of values mapped to a range of places.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: A place, in pixels, percent or any other unit.
        end: A place; smaller than `start` on an SVG axis that points up.
        log: Whether equal distances are equal ratios.
        bounds: The smallest and the largest possible value; the axis stays within them.
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
        start: float = 0.0,
        end: float = 1.0,
        *,
        log: bool | None = False,
        room: float = 0.06,
        bounds: Bounds = UNBOUNDED,
    ) -> Axis:
        """Return an axis that has a place for all finite values.

        Args:
            values: The values to show.
            start: Place of the low end.
            end: Place of the high end.
            log: Whether the axis is logarithmic; None: if the values are positive and span a factor
                of 8.
            room: Share of the axis left free at either end, as far as `bounds` allow.
            bounds: The smallest and the largest possible value.
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
        """Return the place of a value; a value outside the axis is put on its edge."""
        forward = math.log if self.log else float
        low, high = forward(self.low), forward(self.high)
        share = (forward(min(max(value, self.low), self.high)) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(
        self, label: Callable[[float], str], most: int = 5, *, whole: bool = False
    ) -> list[tuple[float, str]]:
        """Return place and label of every tick; see `tick_values` for the other arguments."""
        return [(self.at(value), label(value)) for value in self.tick_values(most, whole=whole)]

    def tick_values(self, most: int = 5, *, whole: bool = False) -> list[float]:
        """Return round values on the axis.

        Args:
            most: The largest number of values.
            whole: Whether to return whole numbers only, on a linear axis.
        """
        values = self._decades(most) if self.log else self._steps(most, whole)
        if len(values) < 2:  # the axis lies between two values of the decades
            values = self._steps(most, whole)
        return values

    def _steps(self, most: int, whole: bool) -> list[float]:
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        if whole:
            power = max(power, 1.0)
        for step in (digits * power for digits in _STEPS):
            if whole and not step.is_integer():
                continue
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


def format_tick(value: float) -> str:
    """Format a round value beside an axis: `0.5`, `20`, `100 k`."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / size:.6g} {letter}"
    return f"{value:.6g}".replace("-", "−")


def format_signed_tick(value: float) -> str:
    """Format a round difference beside an axis: `+20`, `0`, `−0.5`."""
    return f"{value:+.6g}".replace("-", "−") if abs(value) > 1e-12 else "0"
