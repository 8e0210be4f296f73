"""Learning curves: mean over seeds with a band, behind each that of what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rankwright.axis import Axis, Bounds, format_tick
from rankwright.study.records.records import CurvePoint
from rankwright.study.report import words
from rankwright.study.report.plots.panel import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Panel,
    Stroke,
    bounds_of,
    line,
    metric_axis,
)
from rankwright.study.report.results import POINTS, UNITS, MethodResults, TaskResults
from rankwright.study.statistics import Estimate, estimate
from rankwright.tasks.metrics import METRICS

LOSS = "training loss"


@dataclass(frozen=True)
class Curve:
    """A learning curve over seeds: passes, and the figure there as it is shown."""

    label: str
    points: tuple[tuple[float, Estimate], ...]


def learning_curves(task: TaskResults) -> list[Curve]:
    """The curve of every method that has one."""
    name, figure = _shown(task)
    scale = UNITS.get(name, POINTS).scale if name != LOSS else 1.0
    curves = [_curve(method, figure, scale) for method in task.methods]
    return [curve for curve in curves if curve.points]


def curve_panels(
    task: TaskResults, curves: Sequence[Curve], against: Mapping[str, str]
) -> list[Panel]:
    """A panel for each curve that is compared with another, which is behind it; all on one scale.

    Args:
        task: The task.
        curves: Its learning curves.
        against: Method -> what it is compared with.
    """
    if not curves:
        return []
    x = Axis.over([p for c in curves for p, _ in c.points], LEFT, RIGHT, room=0.02)
    name, _ = _shown(task)
    y = metric_axis([e for c in curves for _, e in c.points], BOTTOM, TOP, bounds=_bounds(name))
    by_label = {curve.label: curve for curve in curves}
    return [
        Panel(
            title=curve.label,
            description=_description(curve, name),
            x_title="passes through the model",
            y_title=_y_title(name),
            x_ticks=x.ticks(format_tick),
            y_ticks=y.ticks(format_tick),
            strokes=[
                *(_strokes(behind, x, y, "base") if behind is not None else ()),
                *_strokes(curve, x, y, "ours"),
            ],
        )
        for curve in [curve for curve in curves if curve.label in against] or curves
        for behind in [by_label.get(against.get(curve.label, ""))]
    ]


def _shown(task: TaskResults) -> tuple[str, Callable[[CurvePoint], float | None]]:
    """The curve's metric, or the training loss where there are no points of it."""
    runs = [run for method in task.methods for run in method.runs]
    if any(point.metric is not None for run in runs for point in run.curve):
        return runs[0].curve_metric, lambda point: point.metric
    return LOSS, lambda point: point.loss


def curve_caption(task: TaskResults) -> str:
    """What the curves are of."""
    name, _ = _shown(task)
    return "Loss on training rows." if name == LOSS else "On validation rows while training."


def _bounds(name: str) -> Bounds:
    """The smallest and the largest possible figure; a loss is at least 0."""
    return (0.0, math.inf) if name == LOSS else bounds_of(name, UNITS.get(name, POINTS).scale)


def _y_title(name: str) -> str:
    if name == LOSS:
        return LOSS
    return words.axis(name, UNITS.get(name, POINTS), METRICS[name].greater_is_better)


def _curve(
    method: MethodResults, figure: Callable[[CurvePoint], float | None], scale: float
) -> Curve:
    at: dict[float, list[float]] = {}
    for run in method.runs:
        for point in run.curve:
            value = figure(point)
            if value is not None and math.isfinite(value):
                at.setdefault(point.passes, []).append(value * scale)
    return Curve(method.label, tuple((passes, estimate(at[passes])) for passes in sorted(at)))


def _strokes(curve: Curve, x: Axis, y: Axis, look: str) -> Iterable[Stroke]:
    bands = [(p, e) for p, e in curve.points if math.isfinite(e.half_width)]
    if len(bands) > 1:
        upper = [(x.at(p), y.at(e.high)) for p, e in bands]
        lower = [(x.at(p), y.at(e.low)) for p, e in reversed(bands)]
        yield Stroke(line([*upper, *lower]) + "Z", f"{look} band")
    yield Stroke(line([(x.at(p), y.at(e.mean)) for p, e in curve.points]), look)


def _description(curve: Curve, name: str) -> str:
    (start, first), (end, last) = curve.points[0], curve.points[-1]
    means = [e.mean for _, e in curve.points]
    return (
        f"{name} of {curve.label}: {first.mean:.4g} after {start:g} passes, {last.mean:.4g} after "
        f"{end:g}, between {min(means):.4g} and {max(means):.4g}."
    )
