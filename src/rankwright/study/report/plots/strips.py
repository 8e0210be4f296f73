"""Strips in tables: the values of each seed, and the forest plot of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rankwright.axis import Axis, format_signed_tick
from rankwright.study.report.plots.panel import (
    Span,
    make_metric_axis,
    metric_bounds,
    place_interval,
    upper_median,
)
from rankwright.study.report.results import TaskResults
from rankwright.study.statistics import Difference
from rankwright.study.statistics.verdict import Finding


@dataclass(frozen=True)
class Strip:
    """A mean with its intervals on a horizontal line; places are in percent of its width.

    Attributes:
        at: The mean.
        ends: The interval over seeds; None if there is none.
        outer: The interval over seeds and rows; None if there is none.
        dots: One place per seed.
        zero: The place of no difference; None on a strip of values.
        css_class: Its CSS class.
        description: The text alternative.
    """

    at: float
    ends: Span | None
    outer: Span | None
    dots: tuple[float, ...]
    zero: float | None
    css_class: str
    description: str


def place_values(task: TaskResults) -> dict[str, Strip]:
    """Return a strip of every method: the metric of each seed, the mean, and its interval."""
    values = [run.value for method in task.methods for run in method.runs]
    means, bounds = [method.mean for method in task.methods], metric_bounds(task.task.metric, 1.0)
    axis = make_metric_axis(means, 0, 100, values, bounds)
    return {
        method.label: Strip(
            axis.at(method.mean.mean),
            place_interval(axis, method.mean),
            None,
            tuple(axis.at(run.value) for run in method.runs),
            None,
            "base" if method.verdict is None else "ours",
            "seeds: " + ", ".join(task.unit.format(run.value) for run in method.runs),
        )
        for method in task.methods
    }


def place_differences(task: TaskResults) -> tuple[dict[str, Strip], list[tuple[float, str]]]:
    """Return a strip of every method's difference, and the ticks of their common scale."""
    verdicts = {m.label: m.verdict for m in task.methods if m.verdict is not None}
    low, high = metric_bounds(task.task.metric, 1.0)
    differences = [verdict.difference for verdict in verdicts.values()]
    axis = _forest_axis(differences, least=1 / task.unit.scale, most=high - low)
    strips = {
        label: Strip(
            axis.at(verdict.difference.over_seeds.mean),
            place_interval(axis, verdict.difference.over_seeds),
            place_interval(axis, verdict.difference.over_rows),
            tuple(axis.at(value) for value in verdict.difference.by_seed),
            axis.at(0.0),
            finding_class(verdict.finding),
            verdict.describe(task.unit),
        )
        for label, verdict in verdicts.items()
    }
    return strips, axis.ticks(lambda value: format_signed_tick(value * task.unit.scale))


def finding_class(finding: Finding) -> str:
    """Return CSS classes: `better` or `worse`, with `part` for "on these rows"; else `not`."""
    if finding in ("not distinguishable", "one seed"):
        return "not"
    return finding.replace(" on these rows", " part")


def _forest_axis(differences: Sequence[Difference], least: float, most: float) -> Axis:
    """Return an axis that is symmetric about 0; an interval far wider than the others is cut off.

    It reaches to `least` if nothing differs, and never beyond `most`, the largest possible
    difference.
    """
    intervals = [i for d in differences for i in (d.over_seeds, d.over_rows) if i is not None]
    intervals = [interval for interval in intervals if math.isfinite(interval.half_width)]
    wide = 3 * upper_median(sorted(i.half_width for i in intervals)) if intervals else 0.0
    reaches = [abs(i.mean) + min(i.half_width, wide) for i in intervals]
    reach = max(reaches + [abs(value) for d in differences for value in d.by_seed], default=0.0)
    reach = reach or least
    return Axis.over([-reach, reach], 0, 100, room=0.08, bounds=(-most, most))
