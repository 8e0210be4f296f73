"""The table of a dry run: the size and the estimated time of a study."""

from __future__ import annotations

import rich.box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rankwright.cli.live import format_duration
from rankwright.study.planning.plan import Plan
from rankwright.study.planning.sizing import trial_count
from rankwright.study.records.records import Measurement
from rankwright.study.report import words


def plan_table(plan: Plan) -> Group:
    """Return the table of a dry run: steps, passes, time and memory of every method.

    Args:
        plan: The plan, with its runs and a measurement of every method on every task.
    """
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    total = tuning = 0.0
    record, jobs = plan.record, plan.config.jobs
    for column in ("task", "method"):
        table.add_column(column, overflow="fold")
    for column in ("runs", "steps", "passes", "trainable", "a pass", "a run", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for measured in record.measurements:
        runs = [r for r in record.runs if (r.task, r.label) == (measured.task, measured.label)]
        trained = measured.setup_seconds + measured.seconds_per_pass * runs[0].passes
        seconds = trained + _evaluation_seconds(plan, measured)
        total += len(runs) * seconds
        trials = trial_count(plan, measured.task, plan.specs[measured.task, measured.label])
        tuning += trials * (trained + measured.evaluation_seconds)
        table.add_row(
            measured.task,
            measured.label,
            str(len(runs)),
            f"{runs[0].steps:,}",
            f"{runs[0].passes:,g}",
            words.count(measured.trainable_parameters),
            words.seconds(measured.seconds_per_pass),
            format_duration(seconds),
            words.memory(measured.peak_memory_bytes),
        )
    also = f", {format_duration(tuning / jobs)} of tuning before" if record.trials else ""
    text = f"about {format_duration(total / jobs)} with {jobs} at a time{also}"
    return Group(table, Text(text, style="bold"))


def _evaluation_seconds(plan: Plan, measured: Measurement) -> float:
    """Return the time of a run's evaluations: before and after it, and those of its curve."""
    points = plan.config.curve_points
    if plan.record.task(measured.task).reported_split == "validation":
        points -= 1  # the last point is the reported figure
    reported = 2 * (measured.evaluation_seconds + measured.held_seconds)
    return points * measured.curve_seconds + reported
