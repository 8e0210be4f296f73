"""The metric against what it costs, with the Pareto front."""

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
    Reach,
    Stroke,
    bounds_of,
    ends,
    metric_axis,
    shown,
)
from rankwright.study.report.results import MethodResults, TaskResults
from rankwright.study.statistics import Unit


@dataclass(frozen=True)
class Cost:
    """A cost that the metric is plotted against.

    Attributes:
        name: What it is called.
        axis: What stands on its axis, with the unit.
        of: Its figure for a method, in that unit.
        text: The figure as text.
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


def trade_offs(task: TaskResults) -> list[Panel]:
    """The metric against each cost, with the Pareto front of the means."""
    return [_trade_off(task, cost) for cost in COSTS]


def pareto_front(
    methods: Sequence[MethodResults], cost: Callable[[MethodResults], float], greater: bool
) -> list[MethodResults]:
    """Methods that no other beats in metric without costing more, the cheapest first."""
    sign = 1 if greater else -1

    def beats(other: MethodResults, method: MethodResults) -> bool:
        ahead = sign * (other.mean.mean - method.mean.mean)
        return ahead > 0 or (ahead == 0 and cost(other) < cost(method))

    front: list[MethodResults] = []
    for method in sorted(methods, key=lambda m: (cost(m), -sign * m.mean.mean)):
        if not (front and beats(front[-1], method)):
            front.append(method)
    return front


def _trade_off(task: TaskResults, cost: Cost) -> Panel:
    unit, methods = task.unit, task.methods
    front = pareto_front(methods, cost.of, task.task.greater_is_better)
    x = _cost_axis([cost.of(method) for method in methods])
    bounds = bounds_of(task.task.metric, unit.scale)
    means = [shown(method.mean, unit) for method in methods]
    y = metric_axis(means, BOTTOM, TOP, bounds=bounds)
    dots, strokes = [], [_edge(front, x, y, cost, unit)]
    for method in methods:
        place = x.at(cost.of(method)), y.at(method.mean.mean * unit.scale)
        look = "front" if method in front else "dominated"
        title = (
            f"{method.label}: {words.plus_minus(method.mean, unit)} at {cost.text(cost.of(method))}"
        )
        dots.append(Dot(*place, title, look))
        if (reach := ends(y, shown(method.mean, unit))) is not None:
            strokes.append(_error(place[0], reach))
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
    """An axis from 0; a logarithmic one if costs differ by a factor of 8 or more."""
    axis = Axis.over(costs, LEFT, RIGHT, log=None, room=0.1)
    if axis.log:
        return axis
    return Axis.over([0.0, *costs], LEFT, RIGHT, room=0.1, bounds=(0.0, math.inf))


def _error(x: float, reach: Reach) -> Stroke:
    """An interval as a vertical line, with an arrowhead where it goes on beyond the plot."""
    path = f"M{x} {reach.low}V{reach.high}"
    if reach.below:
        path += f"M{x - 4} {reach.low - 5}L{x} {reach.low}l4 -5"
    if reach.above:
        path += f"M{x - 4} {reach.high + 5}L{x} {reach.high}l4 5"
    return Stroke(path, "error")


def _edge(front: Sequence[MethodResults], x: Axis, y: Axis, cost: Cost, unit: Unit) -> Stroke:
    """The best metric that can be had for at most so much cost."""
    places = [(x.at(cost.of(m)), y.at(m.mean.mean * unit.scale)) for m in front]
    path = f"M{places[0][0]} {places[0][1]}" + "".join(f"H{a}V{b}" for a, b in places[1:])
    return Stroke(f"{path}H{RIGHT}", "front")
