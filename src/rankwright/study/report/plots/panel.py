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
    """A dot, with what a pointer over it shows and how it looks."""

    x: float
    y: float
    title: str
    look: str


@dataclass(frozen=True)
class Label:
    """A text beside a dot, or at the end of a line from it; `anchor` is SVG's text-anchor."""

    x: float
    y: float
    text: str
    anchor: str
    leader: tuple[Place, Place] | None = None


@dataclass(frozen=True)
class Stroke:
    """A line or, if closed by the look, an area: SVG's path data."""

    path: str
    look: str


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: What stands above it.
        description: The text alternative.
        x_title: What is on the horizontal axis.
        y_title: What is on the vertical axis.
        x_ticks: Places and texts on the horizontal axis.
        y_ticks: Places and texts on the vertical axis.
        strokes: Areas and lines, those behind first.
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
class Reach:
    """An interval on an axis: the places of its ends, and whether it goes on beyond the axis."""

    low: float
    high: float
    below: bool
    above: bool


def bounds_of(metric: str, scale: float) -> Bounds:
    """The smallest and the largest possible value of a metric, as it is shown."""
    return METRICS[metric].low * scale, METRICS[metric].high * scale


def ends(axis: Axis, interval: Estimate | None) -> Reach | None:
    """Where an interval lies on an axis, within its bounds; None where there is none."""
    if interval is None or math.isinf(interval.half_width):
        return None
    low, high = max(interval.low, axis.bounds[0]), min(interval.high, axis.bounds[1])
    return Reach(axis.at(low), axis.at(high), below=low < axis.low, above=high > axis.high)


def metric_axis(
    estimates: Sequence[Estimate],
    start: float,
    end: float,
    values: Iterable[float] = (),
    bounds: Bounds = UNBOUNDED,
) -> Axis:
    """An axis for means with intervals and single values, within the bounds of the metric.

    An interval far wider than the others is cut.
    """
    means = [e.mean for e in estimates]
    widths = sorted(e.half_width for e in estimates if math.isfinite(e.half_width)) or [0.0]
    reach = min(widths[-1], 2 * middle(widths) + (max(means) - min(means)))
    figures = [min(means) - reach, max(means) + reach, *means, *values]
    return Axis.over(figures, start, end, bounds=bounds)


def middle(ordered: Sequence[float]) -> float:
    """The upper median of figures in order."""
    return ordered[len(ordered) // 2]


def shown(estimate: Estimate, unit: Unit) -> Estimate:
    """The estimate in the figures that are shown."""
    return replace(estimate, mean=estimate.mean * unit.scale, error=estimate.error * unit.scale)


def line(places: Iterable[Place]) -> str:
    """Path data of a line through places."""
    return "M" + "L".join(f"{x} {y}" for x, y in places)
