"""The metric plotted against costs, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rankwright.axis import Axis, format_tick
from rankwright.study.report import words
from rankwright.study.report.plots.labels import place_labels
from rankwright.study.report.plots.panel import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Dot,
    Panel,
    Span,
    Stroke,
    join_steps,
    make_metric_axis,
    metric_bounds,
    place_interval,
    scale_estimate,
)
from rankwright.study.report.results import MethodResults, TaskResults
from rankwright.study.statistics import Unit


@dataclass(frozen=True)
class Cost:
    """A cost that the metric is plotted against.

    Attributes:
        name: Its name.
        axis: Title of its axis, with the unit.
        of: The cost of a method, in that unit.
        text: A cost as text.
    """

    name: str
    axis: str
    of: Callable[[MethodResults], float]
    text: Callable[[float], str]


COSTS = (
    Cost("training time", "training time, s", lambda m: m.training_seconds, words.seconds),
    Cost(
        "peak memory", "peak memory, MiB",
        lambda m: m.peak_memory_bytes / 2**20, lambda size: words.memory(size * 2**20),
    ),
    Cost(
        "trainable parameters", "trainable parameters",
        lambda m: m.trainable_parameters, words.count,
    ),
    Cost("stored parameters", "stored parameters", lambda m: m.stored_parameters, words.count),
)  # fmt: skip


def plot_trade_offs(task: TaskResults) -> list[Panel]:
    """Return a panel of the metric against every cost, with the Pareto front of the means."""
    return [_plot_trade_off(task, cost) for cost in COSTS]


def pareto_front(
    methods: Sequence[MethodResults], cost: Callable[[MethodResults], float], greater: bool
) -> list[MethodResults]:
    """Return the methods that no cheaper or equally cheap one beats, the cheapest first."""
    sign = 1 if greater else -1

    def beats(other: MethodResults, method: MethodResults) -> bool:
        ahead = sign * (other.mean.mean - method.mean.mean)
        return ahead > 0 or (ahead == 0 and cost(other) < cost(method))

    front: list[MethodResults] = []
    for method in sorted(methods, key=lambda m: (cost(m), -sign * m.mean.mean)):
        if not (front and beats(front[-1], method)):
            front.append(method)
    return front


def _plot_trade_off(task: TaskResults, cost: Cost) -> Panel:
    unit, methods = task.unit, task.methods
    front = pareto_front(methods, cost.of, task.task.greater_is_better)
    x = _cost_axis([cost.of(method) for method in methods])
    bounds = metric_bounds(task.task.metric, unit.scale)
    means = [scale_estimate(method.mean, unit) for method in methods]
    y = make_metric_axis(means, BOTTOM, TOP, bounds=bounds)
    dots, strokes = [], [_draw_front(front, x, y, cost, unit)]
    for method in methods:
        place = x.at(cost.of(method)), y.at(method.mean.mean * unit.scale)
        css_class = "front" if method in front else "dominated"
        title = (
            f"{method.label}: {words.plus_minus(method.mean, unit)} at {cost.text(cost.of(method))}"
        )
        dots.append(Dot(*place, title, css_class))
        if (span := place_interval(y, scale_estimate(method.mean, unit))) is not None:
            strokes.append(_draw_interval(place[0], span))
    named = "; ".join(
        f"{m.label} with {words.plus_minus(m.mean, unit)} at {cost.text(cost.of(m))}" for m in front
    )
    return Panel(
        title=cost.name,
        description=f"{task.task.metric} against {cost.name}. On the Pareto front: {named}.",
        x_title=cost.axis + (", log scale" if x.log else ""),
        y_title=words.axis(task.task.metric, unit, task.task.greater_is_better),
        x_ticks=x.ticks(format_tick),
        y_ticks=y.ticks(format_tick),
        strokes=strokes,
        dots=dots,
        labels=place_labels([(dot.x, dot.y) for dot in dots], [m.label for m in methods]),
    )


def _cost_axis(costs: Sequence[float]) -> Axis:
    """Return an axis from 0, or a logarithmic one if costs differ by a factor of 8 or more."""
    axis = Axis.over(costs, LEFT, RIGHT, log=None, room=0.1)
    if axis.log:
        return axis
    return Axis.over([0.0, *costs], LEFT, RIGHT, room=0.1, bounds=(0.0, math.inf))


def _draw_interval(x: float, span: Span) -> Stroke:
    """Return an interval as a vertical line, with an arrowhead where it continues."""
    path = f"M{x} {span.low}V{span.high}"
    if span.below:
        path += f"M{x - 4} {span.low - 5}L{x} {span.low}l4 -5"
    if span.above:
        path += f"M{x - 4} {span.high + 5}L{x} {span.high}l4 5"
    return Stroke(path, "error")


def _draw_front(front: Sequence[MethodResults], x: Axis, y: Axis, cost: Cost, unit: Unit) -> Stroke:
    """Return the best mean of the methods up to each cost, as a staircase."""
    places = [(x.at(cost.of(m)), y.at(m.mean.mean * unit.scale)) for m in front]
    return Stroke(join_steps(places), "front")
