"""Intervals on a line: the values of each seed, and the forest of differences to the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rankwright.axis import Axis, format_signed_tick
from rankwright.study.report.plots.panel import Reach, bounds_of, ends, metric_axis, middle
from rankwright.study.report.results import TaskResults
from rankwright.study.statistics import Difference
from rankwright.study.statistics.verdict import Finding


@dataclass(frozen=True)
class Strip:
    """An interval on a horizontal line, in percent of its width.

    Attributes:
        at: The mean.
        ends: The interval over seeds; None where there is none.
        outer: The interval over seeds and rows; None where there is none.
        dots: One place a seed.
        zero: Where there is no difference; None on a strip of values.
        look: How it looks.
        description: The text alternative.
    """

    at: float
    ends: Reach | None
    outer: Reach | None
    dots: tuple[float, ...]
    zero: float | None
    look: str
    description: str


def value_strips(task: TaskResults) -> dict[str, Strip]:
    """The metric of every seed, its mean and interval, by method on one scale."""
    values = [run.value for method in task.methods for run in method.runs]
    means, bounds = [method.mean for method in task.methods], bounds_of(task.task.metric, 1.0)
    axis = metric_axis(means, 0, 100, values, bounds)
    return {
        method.label: Strip(
            axis.at(method.mean.mean),
            ends(axis, method.mean),
            None,
            tuple(axis.at(run.value) for run in method.runs),
            None,
            "base" if method.verdict is None else "ours",
            "seeds: " + ", ".join(task.unit.number(run.value) for run in method.runs),
        )
        for method in task.methods
    }


def forest(task: TaskResults) -> tuple[dict[str, Strip], list[tuple[float, str]]]:
    """Differences to the baseline by method, and the ticks of their common scale."""
    found = {m.label: m.verdict for m in task.methods if m.verdict is not None}
    low, high = bounds_of(task.task.metric, 1.0)
    differences = [verdict.difference for verdict in found.values()]
    axis = _forest_axis(differences, least=1 / task.unit.scale, most=high - low)
    strips = {
        label: Strip(
            axis.at(verdict.difference.over_seeds.mean),
            ends(axis, verdict.difference.over_seeds),
            ends(axis, verdict.difference.over_rows),
            tuple(axis.at(value) for value in verdict.difference.by_seed),
            axis.at(0.0),
            look(verdict.finding),
            verdict.words(task.unit),
        )
        for label, verdict in found.items()
    }
    return strips, axis.ticks(lambda value: format_signed_tick(value * task.unit.scale))


def look(finding: Finding) -> str:
    """Classes of a finding: `better`, `worse`, with `part` for "on these rows", or `not`."""
    if finding in ("not distinguishable", "one seed"):
        return "not"
    return finding.replace(" on these rows", " part")


def _forest_axis(differences: Sequence[Difference], least: float, most: float) -> Axis:
    """As far to the left of 0 as to the right; an interval far wider than the others is cut.

    If nothing differs it reaches to `least`, and never beyond `most`, the largest possible
    difference.
    """
    intervals = [i for d in differences for i in (d.over_seeds, d.over_rows) if i is not None]
    intervals = [interval for interval in intervals if math.isfinite(interval.half_width)]
    wide = 3 * middle(sorted(i.half_width for i in intervals)) if intervals else 0.0
    reaches = [abs(i.mean) + min(i.half_width, wide) for i in intervals]
    reach = max(reaches + [abs(value) for d in differences for value in d.by_seed], default=0.0)
    reach = reach or least
    return Axis.over([-reach, reach], 0, 100, room=0.08, bounds=(-most, most))
