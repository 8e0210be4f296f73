"""Learning curves: the mean over seeds with a band, in front of the curve of the baseline."""

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
    join_places,
    make_metric_axis,
    metric_bounds,
)
from rankwright.study.report.results import POINTS, UNITS, MethodResults, TaskResults
from rankwright.study.statistics import Estimate, estimate
from rankwright.tasks.metrics import METRICS

LOSS = "training loss"


@dataclass(frozen=True)
class Curve:
    """A learning curve over seeds: passes, and the estimate at each, in the unit shown."""

    label: str
    points: tuple[tuple[float, Estimate], ...]


def average_curves(task: TaskResults) -> list[Curve]:
    """Return the learning curve of every method that has one."""
    name, figure = _choose_metric(task)
    scale = UNITS.get(name, POINTS).scale if name != LOSS else 1.0
    curves = [_average(method, figure, scale) for method in task.methods]
    return [curve for curve in curves if curve.points]


def plot_curves(
    task: TaskResults, curves: Sequence[Curve], against: Mapping[str, str]
) -> list[Panel]:
    """Return a panel for every method with a baseline, whose curve is behind; all on one scale.

    Args:
        task: The task.
        curves: Its learning curves.
        against: Baselines by method.
    """
    if not curves:
        return []
    x = Axis.over([p for c in curves for p, _ in c.points], LEFT, RIGHT, room=0.02)
    name, _ = _choose_metric(task)
    y = make_metric_axis(
        [e for c in curves for _, e in c.points], BOTTOM, TOP, bounds=_bounds(name)
    )
    by_label = {curve.label: curve for curve in curves}
    return [
        Panel(
            title=curve.label,
            description=_describe(curve, name),
            x_title="passes through the model",
            y_title=_y_title(name),
            x_ticks=x.ticks(format_tick),
            y_ticks=y.ticks(format_tick),
            strokes=[
                *(_draw(behind, x, y, "base") if behind is not None else ()),
                *_draw(curve, x, y, "ours"),
            ],
        )
        for curve in [curve for curve in curves if curve.label in against] or curves
        for behind in [by_label.get(against.get(curve.label, ""))]
    ]


def _choose_metric(task: TaskResults) -> tuple[str, Callable[[CurvePoint], float | None]]:
    """Return name and getter of the metric on the curves; the training loss if none was logged."""
    runs = [run for method in task.methods for run in method.runs]
    if any(point.metric is not None for run in runs for point in run.curve):
        return runs[0].curve_metric, lambda point: point.metric
    return LOSS, lambda point: point.loss


def caption_curves(task: TaskResults) -> str:
    """Return a sentence that says which rows the curves are measured on."""
    name, _ = _choose_metric(task)
    return "Loss on training rows." if name == LOSS else "On validation rows while training."


def _bounds(name: str) -> Bounds:
    """Return the smallest and the largest possible value; a loss is at least 0."""
    return (0.0, math.inf) if name == LOSS else metric_bounds(name, UNITS.get(name, POINTS).scale)


def _y_title(name: str) -> str:
    if name == LOSS:
        return LOSS
    return words.axis(name, UNITS.get(name, POINTS), METRICS[name].greater_is_better)


def _average(
    method: MethodResults, figure: Callable[[CurvePoint], float | None], scale: float
) -> Curve:
    at: dict[float, list[float]] = {}
    for run in method.runs:
        for point in run.curve:
            value = figure(point)
            if value is not None and math.isfinite(value):
                at.setdefault(point.passes, []).append(value * scale)
    return Curve(method.label, tuple((passes, estimate(at[passes])) for passes in sorted(at)))


def _draw(curve: Curve, x: Axis, y: Axis, css_class: str) -> Iterable[Stroke]:
    bands = [(p, e) for p, e in curve.points if math.isfinite(e.half_width)]
    if len(bands) > 1:
        upper = [(x.at(p), y.at(e.high)) for p, e in bands]
        lower = [(x.at(p), y.at(e.low)) for p, e in reversed(bands)]
        yield Stroke(join_places([*upper, *lower]) + "Z", f"{css_class} band")
    yield Stroke(join_places([(x.at(p), y.at(e.mean)) for p, e in curve.points]), css_class)


def _describe(curve: Curve, name: str) -> str:
    (start, first), (end, last) = curve.points[0], curve.points[-1]
    means = [e.mean for _, e in curve.points]
    return (
        f"{name} of {curve.label}: {first.mean:.4g} after {start:g} passes, {last.mean:.4g} after "
        f"{end:g}, between {min(means):.4g} and {max(means):.4g}."
    )
