"""Places on plots: axes, fronts, names beside dots."""

from __future__ import annotations

import math

import pytest

from rankwright.study.figures import StudyFigures
from rankwright.study.report import words
from rankwright.study.report.axis import Axis
from rankwright.study.report.curves import curve_panels, learning_curves
from rankwright.study.report.panel import BOTTOM, LEFT, RIGHT, TOP, WIDTH
from rankwright.study.report.strips import forest, value_strips
from rankwright.study.report.trade_offs import COSTS, pareto_front, place_labels, trade_offs
from rankwright.study.report.tuning import tuning_panels


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([0.0, 100.0], False, ["0", "20", "40", "60", "80", "100"]),
        ([0.61, 0.64], False, ["0.61", "0.62", "0.63", "0.64"]),
        ([770, 22_713_986], None, ["1000", "10 k", "100 k", "1 M", "10 M"]),
        ([-3.0, 5.0], None, ["−2", "0", "2", "4"]),
        ([5.0], None, ["4.8", "5", "5.2"]),
    ],
)
def test_ticks_are_round_and_on_the_axis(
    values: list[float], log: bool | None, ticks: list[str]
) -> None:
    axis = Axis.over(values, 0, 100, log=log)
    shown = axis.ticks(words.tick, most=6)
    assert [text for _, text in shown] == ticks
    assert all(0 <= place <= 100 for place, _ in shown)
    assert all(0 < axis.at(value) < 100 for value in values)


def test_what_lies_outside_is_on_the_edge() -> None:
    axis = Axis.over([0.0, 1.0], 10, 20, room=0.0)
    assert (axis.at(-math.inf), axis.at(0.5), axis.at(7.0)) == (10, 15, 20)


def test_the_front_holds_what_nothing_beats(found: StudyFigures) -> None:
    for task in found.tasks:
        sign = 1 if task.task.greater_is_better else -1
        for cost in COSTS:
            front = pareto_front(task.methods, cost.of, task.task.greater_is_better)
            for method in task.methods:
                beaten = any(
                    cost.of(other) <= cost.of(method)
                    and sign * other.mean.mean >= sign * method.mean.mean
                    and (cost.of(other), other.mean.mean) != (cost.of(method), method.mean.mean)
                    for other in task.methods
                )
                twin = method.label in ("dora", "dora_again")
                assert (method in front) == (not beaten) or twin


def test_names_stand_apart() -> None:
    dots = [(100.0 + 3 * k, 100.0) for k in range(6)]
    labels = place_labels(dots, [f"method-{k}" for k in range(6)])
    assert 3 <= len(labels) < 6  # what finds no room is in the table
    for label in labels:
        left = label.x - {"start": 0, "end": 1, "middle": 0.5}[label.anchor] * 6.4 * 8
        assert left >= LEFT
        assert left + 6.4 * 8 <= WIDTH
    places = [(label.x, label.y) for label in labels]
    assert len(set(places)) == len(places)


def test_all_is_inside_its_plot(found: StudyFigures) -> None:
    for task in found.tasks:
        curves = learning_curves(task)
        panels = [
            *trade_offs(task),
            *curve_panels(task, curves, "dora"),
            *tuning_panels(task),
        ]
        assert len(panels) == 4 + 6 + 14
        for panel in panels:
            assert panel.description
            assert all(LEFT <= dot.x <= RIGHT and TOP <= dot.y <= BOTTOM for dot in panel.dots), (
                panel.title
            )
        strips = [*value_strips(task).values(), *forest(task)[0].values()]
        assert len(strips) == 7 + 6
        for strip in strips:
            ends = [e for pair in (strip.ends, strip.outer) if pair for e in pair]
            assert all(0 <= place <= 100 for place in [strip.at, *strip.dots, *ends])


def test_a_curve_is_the_mean_over_seeds(found: StudyFigures) -> None:
    task = found.tasks[0]
    method = task.methods[0]
    curve = next(c for c in learning_curves(task) if c.label == method.label)
    assert [passes for passes, _ in curve.points] == list(range(0, 401, 40))
    last = [run.curve[-1].metric for run in method.runs]
    assert curve.points[-1][1].mean == pytest.approx(100 * sum(last) / len(last))


def test_figures_as_text() -> None:
    assert [words.count(n) for n in (770, 21_121, 359_425, 22_713_986)] == [
        "770", "21.1 k", "359 k", "22.7 M",
    ]  # fmt: skip
    assert [words.memory(n * 2**20) for n in (947.4, 9000, 20_480)] == [
        "947 MiB", "9000 MiB", "20.0 GiB",
    ]  # fmt: skip
    assert [words.seconds(n) for n in (0.01234, 0.09996, 74.61, 1234.5)] == [
        "0.0123 s", "0.100 s", "74.6 s", "1230 s",
    ]  # fmt: skip
