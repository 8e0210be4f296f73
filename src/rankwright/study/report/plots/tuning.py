"""Trials of tuning, in their order with the best so far, and by learning rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

from rankwright.axis import Axis, format_tick
from rankwright.study.records.tuning import TrialRecord, TuningRecord
from rankwright.study.report import words
from rankwright.study.report.plots.panel import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Dot,
    Panel,
    Stroke,
    join_steps,
    metric_bounds,
)
from rankwright.study.report.results import TaskResults
from rankwright.study.statistics import Unit


def plot_tuning(task: TaskResults) -> list[Panel]:
    """Return panels of every tuned method: its trials in order, and by learning rate."""
    tunings = [method.tuning for method in task.methods if method.tuning is not None]
    records = [tuning for tuning in tunings if _trial_values(tuning)]
    values = [v for record in records for v in _trial_values(record).values()]
    if not values:
        return []
    bounds = metric_bounds(task.task.metric, task.unit.scale)
    y = Axis.over([v * task.unit.scale for v in values], BOTTOM, TOP, bounds=bounds)
    panels = []
    for record in records:
        panels.append(_plot_trials(record, task.unit, y))
        if "learning_rate" in record.space:
            panels.append(_plot_rates(record, task.unit, y))
    return panels


def _trial_values(record: TuningRecord) -> dict[int, float]:
    """Return the values of complete trials by number."""
    return {
        trial.number: trial.value
        for trial in record.trials
        if trial.value is not None and math.isfinite(trial.value)
    }


def _plot_trials(record: TuningRecord, unit: Unit, y: Axis) -> Panel:
    values = _trial_values(record)
    x = Axis.over([0, *(trial.number for trial in record.trials)], LEFT, RIGHT, room=0.04)
    better = max if record.greater_is_better else min
    best = list(itertools.accumulate(values.values(), better))
    places = [(x.at(n), y.at(b * unit.scale)) for n, b in zip(values, best, strict=True)]
    panel = _make_panel(record, unit, y, f"{record.label}: best so far", "trial")
    return replace(
        panel,
        x_ticks=x.ticks(format_tick, whole=True),
        strokes=[Stroke(join_steps(places), "ours")],
        dots=_draw_trials(record, unit, y, lambda trial: x.at(trial.number)),
    )


def _plot_rates(record: TuningRecord, unit: Unit, y: Axis) -> Panel:
    rates = [trial.parameters["learning_rate"] for trial in record.trials]
    x = Axis.over(rates, LEFT, RIGHT, log=min(rates) > 0, room=0.06)
    title = "learning rate" + (", log scale" if x.log else "")
    panel = _make_panel(record, unit, y, f"{record.label}: by learning rate", title)
    return replace(
        panel,
        x_ticks=x.ticks(_format_rate, most=6),
        dots=_draw_trials(record, unit, y, lambda trial: x.at(trial.parameters["learning_rate"])),
    )


def _format_rate(rate: float) -> str:
    """Format a learning rate beside an axis: `5e-4`, `2.5e-3`."""
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _make_panel(record: TuningRecord, unit: Unit, y: Axis, title: str, x_title: str) -> Panel:
    failed = len(record.trials) - len(_trial_values(record))
    best = ", ".join(f"{name} {words.parameter(value)}" for name, value in record.best.items())
    return Panel(
        title=title,
        description=(
            f"{len(record.trials)} trials of {record.label}, {failed} failed. Best: "
            f"{unit.format(record.best_value)} with {best}."
        ),
        x_title=x_title,
        y_title=words.axis(record.metric, unit, record.greater_is_better),
        x_ticks=[],
        y_ticks=y.ticks(format_tick),
    )


def _draw_trials(
    record: TuningRecord, unit: Unit, y: Axis, x: Callable[[TrialRecord], float]
) -> list[Dot]:
    """Return a dot for every trial; a cross on the axis for one without a finite value."""
    values = _trial_values(record)
    return [
        _draw_trial(record, trial, unit, x(trial), y.at(values[trial.number] * unit.scale))
        if trial.number in values
        else Dot(x(trial), BOTTOM, f"trial {trial.number} failed: {trial.error}", "failed")
        for trial in record.trials
    ]


def _draw_trial(record: TuningRecord, trial: TrialRecord, unit: Unit, x: float, y: float) -> Dot:
    assert trial.value is not None
    parameters = ", ".join(f"{k} {words.parameter(v)}" for k, v in trial.parameters.items())
    title = f"trial {trial.number}: {unit.format(trial.value)} with {parameters}"
    return Dot(x, y, title, "front" if trial.parameters == record.best else "dominated")
