"""The stage that measures what a pass of each method takes, before any run."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rankwright.core.method import Method
from rankwright.errors import MethodError, TrainingError
from rankwright.study.errors import StoppedError
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.processes import Exit, Processes, error_message
from rankwright.study.execution.protocol import OUTCOME
from rankwright.study.execution.requests import prepare
from rankwright.study.planning.plan import Pair, Plan
from rankwright.study.records.records import Measurement

MEASURED_STEPS = (6, 12, 24, 48, 96)
"""Steps of a measurement: the first of these numbers that gives every phase a step."""


def pairs_in_seconds(plan: Plan) -> list[Pair]:
    """Return the (task, method) pairs whose budget is in seconds, and so has to be measured."""
    config = plan.config
    timed = {t.label for t in config.parsed_tasks if config.budget_of(t).unit == "seconds"}
    return [(task, label) for task, label in plan.specs if task in timed]


def measure(plan: Plan, pairs: Iterable[Pair], processes: Processes, observer: Observer) -> Plan:
    """Return the plan with a measurement of each pair; existing ones are kept.

    Args:
        plan: The plan.
        pairs: Labels of task and method.
        processes: Carries the steps out.
        observer: Is told what is measured.

    Raises:
        StoppedError: The study was asked to stop.
        TrainingError: The measured steps failed.
    """
    found = list(plan.record.measurements)
    for task, label in [pair for pair in pairs if plan.record.measurement(*pair) is None]:
        observer.notify(f"measuring a few steps of {label} on {task}")
        found.append(_measure_one(plan, (task, label), processes))
    return dataclasses.replace(
        plan, record=dataclasses.replace(plan.record, measurements=tuple(found))
    )


def _measure_one(plan: Plan, pair: Pair, processes: Processes) -> Measurement:
    """Measure in a temporary folder, which is kept only if the process died, for its log."""
    path = Path(tempfile.mkdtemp(prefix="rankwright-"))
    spec = plan.specs[pair]
    steps = steps_to_measure(spec.method)
    prepare(plan, path, "measure", pair[0], spec, min(plan.record.seeds), steps)
    end = processes.run(path)
    try:
        if end is Exit.STOPPED:
            raise StoppedError
        if end is not Exit.DONE:
            raise TrainingError(error_message(path, end))
        return Measurement.load(path / OUTCOME)
    finally:
        if end is not Exit.DIED:
            shutil.rmtree(path)


def steps_to_measure(method: Method) -> int:
    """Return the number of steps that shows what a pass of the method takes.

    Raises:
        MethodError: The method needs more steps than are worth measuring.
    """
    for steps in MEASURED_STEPS:
        try:
            method.made_of().passes(steps)
        except MethodError as error:
            refusal = error
        else:
            return steps
    raise refusal
