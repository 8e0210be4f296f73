"""Places on the report's plots: fronts, intervals, names beside dots."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from rankwright.study.report import words
from rankwright.study.report.environment import make_environment
from rankwright.study.report.plots.curves import average_curves, plot_curves
from rankwright.study.report.plots.labels import box_of, place_labels
from rankwright.study.report.plots.panel import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Label,
    Panel,
    Span,
    metric_bounds,
)
from rankwright.study.report.plots.strips import place_differences, place_values
from rankwright.study.report.plots.trade_offs import COSTS, pareto_front, plot_trade_offs
from rankwright.study.report.plots.tuning import plot_tuning
from rankwright.study.report.results import POINTS, UNITS, StudyResults
from rankwright.study.statistics import Difference
from rankwright.tasks.metrics import METRICS


def test_the_front_has_the_methods_that_none_beats(found: StudyResults) -> None:
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
                assert (method in front) == (not beaten)


CROWDED = {
    "in a heap": [(100.0 + 3 * (k % 5), 90.0 + 2 * k) for k in range(20)],
    "in a column": [(300.0, 60.0 + 4 * k) for k in range(20)],
    "in a row on the edge": [(55.0 + 12 * k, 200.0) for k in range(20)],
    "in one place": [(200.0, 100.0)] * 12,
}


@pytest.mark.parametrize("where", CROWDED)
def test_names_do_not_overlap(where: str) -> None:
    """Boxes and lines are read from the SVG."""
    dots = CROWDED[where]
    names = [f"method-{k}" for k in range(len(dots))]
    labels = place_labels(dots, names)
    assert sorted(label.text for label in labels) == sorted(names)
    drawn = drawn_labels(labels)
    assert sorted(drawn) == sorted(names)
    for name, (left, top, right, bottom) in drawn.items():
        x, y = dots[names.index(name)]
        assert LEFT <= left < right <= WIDTH
        assert 0 <= top < bottom <= BOTTOM
        for other, box in drawn.items():
            if other != name:
                assert right <= box[0] or box[2] <= left or bottom <= box[1] or box[3] <= top
        for a, b in dots:
            assert right <= a - 4.5 or a + 4.5 <= left or bottom <= b - 4.5 or b + 4.5 <= top
        far = math.dist((x, y), (min(max(x, left), right), min(max(y, top), bottom))) > 12
        assert not far or (x, y) in [label.leader[0] for label in labels if label.leader]
    for label in labels:
        if label.leader:
            (a, b), box = label.leader[1], box_of(label)
            assert box[0] <= a <= box[2]
            assert box[1] - 1e-6 <= b <= box[3] + 1e-6


def drawn_labels(labels: list[Label]) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of every name in the SVG, at 7 by 16 pixels a letter."""
    panel = Panel("t", "d", "x", "y", [], [], labels=labels)
    macros = make_environment(autoescape=True).get_template("plots.html.j2").module
    svg = ElementTree.fromstring(macros.panel(panel, "id"))
    boxes = {}
    for text in svg.iter("text"):
        if text.get("class") == "name":
            words_, width = str(text.text), 7.0 * len(str(text.text))
            shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[str(text.get("text-anchor"))]
            left, base = float(text.get("x")) - shift * width, float(text.get("y"))
            boxes[words_] = (left, base - 12, left + width, base + 4)
    assert len(list(svg.iter("path"))) == sum(label.leader is not None for label in labels)
    return boxes


def test_a_name_with_room_beside_its_dot_has_no_line() -> None:
    (label,) = place_labels([(100.0, 100.0)], ["lora"])
    assert label == Label(108.0, 104.0, "lora", "start", None)


def test_a_name_too_long_for_the_plot_is_left_out() -> None:
    assert place_labels([(100.0, 100.0)], ["x" * 60]) == []


def test_dots_and_intervals_are_inside_their_plots(found: StudyResults) -> None:
    for task in found.tasks:
        curves = average_curves(task)
        panels = [
            *plot_trade_offs(task),
            *plot_curves(task, curves, found.study.against),
            *plot_tuning(task),
        ]
        assert len(panels) == 4 + 6 + 14
        for panel in panels:
            assert panel.description
            assert all(LEFT <= dot.x <= RIGHT and TOP <= dot.y <= BOTTOM for dot in panel.dots), (
                panel.title
            )
        strips = [*place_values(task).values(), *place_differences(task)[0].values()]
        assert len(strips) == 7 + 6
        for strip in strips:
            reaches = [reach for reach in (strip.ends, strip.outer) if reach is not None]
            places = [place for reach in reaches for place in (reach.low, reach.high)]
            assert all(0 <= place <= 100 for place in [strip.at, *strip.dots, *places])


def test_an_interval_that_continues_beyond_the_plot_has_arrowheads(found: StudyResults) -> None:
    task = replace(found.tasks[0], methods=found.tasks[0].methods[:5])  # all near 0.7
    first, *others = task.methods
    wide = replace(first, mean=replace(first.mean, error=20 * first.mean.error))
    wider = replace(task, methods=(wide, *others))
    reaches = {label: strip.ends for label, strip in place_values(wider).items()}
    cut = reaches.pop(wide.label)
    assert cut is not None
    assert (cut.below, cut.above, cut.low, cut.high) == (True, True, 0, 100)
    for reach in reaches.values():
        assert reach is not None
        assert not reach.below
        assert not reach.above
        assert 0 < reach.low < reach.high < 100
    macros = make_environment(autoescape=True).get_template("plots.html.j2").module
    drawn = [macros.strip(strip).count("more") for strip in place_values(wider).values()]
    assert drawn == [2] + [0] * len(others)
    heads = [stroke.path.count("l4") for stroke in plot_trade_offs(wider)[0].strokes]
    assert sorted(heads) == [0] * (len(task.methods)) + [2]


LIMITS = {"accuracy": (0, 100), "matthews": (-100, 100), "loss_per_token": (0, math.inf)}


def test_axes_and_intervals_stay_within_the_bounds_of_the_metric(
    found: StudyResults,
) -> None:
    """Two seeds far apart: half of an interval is many times the range of the metric."""
    for task in found.tasks:
        low, high = LIMITS[task.task.metric]
        wide = [replace(m, mean=replace(m.mean, error=9.0, freedom=1)) for m in task.methods]
        wider = replace(task, methods=tuple(wide))
        for panel in [*plot_trade_offs(wider), *plot_tuning(wider)]:
            shown = [float(text.replace("−", "-")) for _, text in panel.y_ticks]
            assert all(low <= figure <= high for figure in shown)
        for panel in plot_trade_offs(wider):
            heads = [
                stroke.path.count("l4") for stroke in panel.strokes if stroke.css_class == "error"
            ]
            assert heads == [0] * len(wide)
        for strip in place_values(wider).values():
            assert strip.ends is not None
            assert not strip.ends.below
            assert not strip.ends.above
            assert strip.ends.low == 0
            assert math.isinf(high) or strip.ends.high == 100


def test_a_difference_is_no_larger_than_the_range_of_the_metric(found: StudyResults) -> None:
    task = found.tasks[0]
    wide = [
        replace(m, verdict=replace(m.verdict, difference=Difference.of([-0.9, 0.9])))
        for m in task.methods
        if m.verdict is not None
    ]
    strips, ticks = place_differences(replace(task, methods=tuple(wide)))
    assert [text for _, text in ticks] == ["−100", "−50", "0", "+50", "+100"]
    for strip in strips.values():
        assert strip.ends == Span(0, 100, below=False, above=False)


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_are_those_of_the_metric(metric: str) -> None:
    """Bounds are in the unit shown: shares and correlations times 100, BLEU unscaled."""
    low, high = metric_bounds(metric, UNITS.get(metric, POINTS).scale)
    correlation = metric in ("matthews", "pearson", "spearman")
    assert low == (1 if metric == "perplexity" else -100 if correlation else 0)
    assert high == (math.inf if metric in ("mse", "loss_per_token", "perplexity") else 100)


def test_axes_of_costs_start_at_zero_or_are_named_logarithmic(found: StudyResults) -> None:
    titles = []
    for panel in plot_trade_offs(found.tasks[0]):
        titles.append(panel.x_title)
        if "log scale" not in panel.x_title:
            assert panel.x_ticks[0] == (LEFT, "0")
    assert titles == [
        "training time, s", "peak memory, MiB", "trainable parameters, log scale",
        "stored parameters, log scale",
    ]  # fmt: skip


def test_tuning_without_a_finite_value_has_no_plot(found: StudyResults) -> None:
    """An example is the perplexity of a model that has diverged."""
    task = found.tasks[0]
    first, *others = task.methods
    assert first.tuning is not None
    trials = tuple(replace(trial, value=math.inf) for trial in first.tuning.trials)
    diverged = replace(first, tuning=replace(first.tuning, trials=trials))
    panels = plot_tuning(replace(task, methods=(diverged, *others)))
    assert len(panels) == 14 - 2
    assert not any(panel.title.startswith(f"{first.label}:") for panel in panels)


def test_every_trial_is_on_both_plots(found: StudyResults) -> None:
    """The plot by learning rate has to show where training diverges."""
    task = found.tasks[0]
    tuning = task.methods[0].tuning
    assert tuning is not None
    first, second, *others = tuning.trials
    failed = replace(first, value=None, state="failed", error="loss is NaN")
    diverged = replace(second, value=math.inf)
    record = replace(tuning, trials=(failed, diverged, *others))
    method = replace(task.methods[0], tuning=record)
    panels = plot_tuning(replace(task, methods=(method,)))
    assert len(panels) == 2
    for panel in panels:
        looks = [dot.css_class for dot in panel.dots]
        assert looks[:2] == ["failed", "failed"]
        assert "failed" not in looks[2:]
        assert f"{len(record.trials)} trials of {record.label}, 2 failed" in panel.description
    assert [len({dot.x for dot in panel.dots}) for panel in panels] == [len(record.trials)] * 2


def test_a_curve_is_the_mean_over_seeds(found: StudyResults) -> None:
    task = found.tasks[0]
    method = task.methods[0]
    curve = next(c for c in average_curves(task) if c.label == method.label)
    assert [passes for passes, _ in curve.points] == list(range(0, 401, 40))
    last = [run.curve[-1].metric for run in method.runs]
    assert curve.points[-1][1].mean == pytest.approx(100 * sum(last) / len(last))


def test_numbers_as_text() -> None:
    assert [words.count(n) for n in (770, 21_121, 359_425, 22_713_986)] == [
        "770", "21.1 k", "359 k", "22.7 M",
    ]  # fmt: skip
    assert [words.memory(n * 2**20) for n in (947.4, 9000, 20_480)] == [
        "947 MiB", "9000 MiB", "20.0 GiB",
    ]  # fmt: skip
    assert [words.seconds(n) for n in (0.01234, 0.09996, 74.61, 1234.5)] == [
        "0.0123 s", "0.100 s", "74.6 s", "1230 s",
    ]  # fmt: skip
