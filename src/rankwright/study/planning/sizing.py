"""The size of a study: search spaces, trials, optimizer steps and runs that follow from a plan."""

from __future__ import annotations

import dataclasses

from rankwright.core.search_space import SearchSpace, points
from rankwright.study.planning.plan import Plan
from rankwright.study.planning.specs import LEARNING_RATES, MethodSpec
from rankwright.study.records.records import PlannedRun

HEADLESS_KINDS = ("causal_lm", "multiple_choice")
"""Kinds of tasks whose models have no new head, and so no learning rate of a head."""


def search_space(plan: Plan, task: str, spec: MethodSpec) -> SearchSpace:
    """Return the method's search space on a task.

    Options that the task sets are left out, and so is the head's learning rate if there is no head.

    Args:
        plan: The plan.
        task: Label of the task.
        spec: The method before tuning.
    """
    known = plan.record.task(task)
    given = {*known.options}
    rate, head_rate = LEARNING_RATES
    if known.kind in HEADLESS_KINDS and rate in spec.space:
        given.add(head_rate)
    return {name: choice for name, choice in spec.space.items() if name not in given}


def trial_count(plan: Plan, task: str, spec: MethodSpec) -> int:
    """Return the trials of a method on a task; no point of its space is tried twice."""
    return int(min(plan.config.tune, points(search_space(plan, task, spec))))


def step_count(plan: Plan, task: str, spec: MethodSpec) -> int:
    """Return the optimizer steps of a method on a task within the budget.

    Raises:
        MethodError: The budget is too small, or is in seconds and the method was not measured.
    """
    measured = plan.record.measurement(task, spec.label)
    seconds = None if measured is None else measured.seconds_per_pass
    budget = plan.config.budget_of(plan.config.task_spec(task))
    return budget.steps(spec.method, seconds)


def schedule_runs(plan: Plan) -> Plan:
    """Return the plan with all runs, seed by seed, so that methods advance side by side.

    Raises:
        MethodError: The budget is not enough for a method.
    """
    steps = {
        (task, label): step_count(plan, task, spec) for (task, label), spec in plan.specs.items()
    }
    runs = tuple(
        PlannedRun(
            task=task,
            label=label,
            seed=seed,
            steps=steps[task, label],
            passes=float(spec.method.made_of().passes(steps[task, label])),
        )
        for seed in plan.config.parsed_seeds
        for (task, label), spec in plan.specs.items()
    )
    return dataclasses.replace(plan, record=dataclasses.replace(plan.record, runs=runs))
