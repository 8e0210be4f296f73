"""A plot as places of lines, dots and names, which `templates/plots.html.j2` writes as SVG.

A plot has one method in colour and the baseline in grey, or names at its dots: no reader has to
tell more than two colours apart. Each has a text alternative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from rankwright.axis import UNBOUNDED, Axis, Bounds
from rankwright.study.statistics import Estimate, Unit
from rankwright.tasks.metrics import METRICS

# Pixels of the drawing, and the edges of the plot in it.
WIDTH, HEIGHT = 360, 248
LEFT, RIGHT, TOP, BOTTOM = 50, 350, 12, 204

Place = tuple[float, float]


@dataclass(frozen=True)
class Dot:
    """A dot, with the text shown under a pointer."""

    x: float
    y: float
    title: str
    css_class: str


@dataclass(frozen=True)
class Label:
    """A text beside a dot, or at the end of a leader line; `anchor` is SVG's text-anchor."""

    x: float
    y: float
    text: str
    anchor: str
    leader: tuple[Place, Place] | None = None


@dataclass(frozen=True)
class Stroke:
    """A line, or an area if its CSS class fills it; `path` is SVG's path data."""

    path: str
    css_class: str


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: The caption above it.
        description: The text alternative.
        x_title: Title of the horizontal axis.
        y_title: Title of the vertical axis.
        x_ticks: Places and texts on the horizontal axis.
        y_ticks: Places and texts on the vertical axis.
        strokes: Areas and lines, in the order in which they are drawn.
        dots: The dots.
        labels: Texts beside dots.
    """

    title: str
    description: str
    x_title: str
    y_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    strokes: list[Stroke] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    left: ClassVar[int] = LEFT
    right: ClassVar[int] = RIGHT
    top: ClassVar[int] = TOP
    bottom: ClassVar[int] = BOTTOM


@dataclass(frozen=True)
class Span:
    """An interval on an axis: the places of its ends, and whether it continues beyond the axis."""

    low: float
    high: float
    below: bool
    above: bool


def metric_bounds(metric: str, scale: float) -> Bounds:
    """Return the smallest and the largest possible value of a metric, as it is shown."""
    return METRICS[metric].low * scale, METRICS[metric].high * scale


def place_interval(axis: Axis, interval: Estimate | None) -> Span | None:
    """Return the span of an interval on an axis, within the axis's bounds; None for no interval."""
    if interval is None or math.isinf(interval.half_width):
        return None
    low, high = max(interval.low, axis.bounds[0]), min(interval.high, axis.bounds[1])
    return Span(axis.at(low), axis.at(high), below=low < axis.low, above=high > axis.high)


def make_metric_axis(
    estimates: Sequence[Estimate],
    start: float,
    end: float,
    values: Iterable[float] = (),
    bounds: Bounds = UNBOUNDED,
) -> Axis:
    """Return an axis for means with intervals and single values, within the metric's bounds.

    An interval far wider than the others is cut off.
    """
    means = [e.mean for e in estimates]
    widths = sorted(e.half_width for e in estimates if math.isfinite(e.half_width)) or [0.0]
    reach = min(widths[-1], 2 * upper_median(widths) + (max(means) - min(means)))
    shown = [min(means) - reach, max(means) + reach, *means, *values]
    return Axis.over(shown, start, end, bounds=bounds)


def upper_median(ordered: Sequence[float]) -> float:
    """Return the upper median of sorted values."""
    return ordered[len(ordered) // 2]


def scale_estimate(estimate: Estimate, unit: Unit) -> Estimate:
    """Return the estimate in the unit in which it is shown."""
    return replace(estimate, mean=estimate.mean * unit.scale, error=estimate.error * unit.scale)


def join_steps(places: Sequence[Place]) -> str:
    """Return SVG path data of a staircase through places, up to the right edge."""
    (x, y), *others = places
    return f"M{x} {y}" + "".join(f"H{a}V{b}" for a, b in others) + f"H{RIGHT}"


def join_places(places: Iterable[Place]) -> str:
    """Return SVG path data of a line through places."""
    return "M" + "L".join(f"{x} {y}" for x, y in places)
