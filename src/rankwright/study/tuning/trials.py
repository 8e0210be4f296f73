"""Optuna's trials in the order that they would have without a kill.

Optuna gives a retried trial a new, higher number. Here it keeps the place of the original, so that
neither the choice between equal values nor the messages depend on what was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from rankwright.study.records.tuning import TrialRecord


def original(trial: FrozenTrial) -> int:
    """Optuna's number of a trial, or of the original of a retried one."""
    number: int | None = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


def place(study: optuna.Study, trial: FrozenTrial) -> int:
    """Position of a trial in its study, from 0; a retried one has that of its original."""
    trials = study.get_trials(deepcopy=False)
    return sum(t.number == original(t) < original(trial) for t in trials)


def in_order(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials by their places, each followed by its retries."""
    return sorted(trials, key=lambda trial: (original(trial), trial.number))


def once_each(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials by their places, one for each place: the first that counts, if one does.

    A machine that dies while it returns a trial may cause two retries.
    """
    first: dict[int, FrozenTrial] = {}
    for trial in sorted(in_order(trials), key=counts, reverse=True):
        first.setdefault(original(trial), trial)
    return in_order(first.values())


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial counts among those of its method; not if its machine died or was stopped."""
    return complete(trial) or "error" in trial.user_attrs


def complete(trial: FrozenTrial) -> bool:
    """Whether a trial has a value."""
    return trial.state is TrialState.COMPLETE


def waits(trial: FrozenTrial) -> bool:
    """Whether a trial waits for a machine."""
    return trial.state is TrialState.WAITING


def alive(trial: FrozenTrial) -> bool:
    """Whether a trial runs, or waits for a machine."""
    return trial.state in (TrialState.RUNNING, TrialState.WAITING)


def best_of(trials: Sequence[FrozenTrial], *, greater_is_better: bool) -> FrozenTrial:
    """The best trial with a value; the first by place of equal ones."""
    sign = -1 if greater_is_better else 1
    return min(
        filter(complete, trials), key=lambda trial: (sign * (trial.value or 0.0), original(trial))
    )


def trial_record(study: optuna.Study, trial: FrozenTrial) -> TrialRecord:
    """The record of a trial that counts."""
    state: Literal["complete", "failed"] = "complete" if complete(trial) else "failed"
    return TrialRecord(
        number=place(study, trial),
        parameters=trial.params,
        value=trial.value if state == "complete" else None,
        state=state,
        passes=trial.user_attrs.get("passes", 0.0),
        seconds=trial.user_attrs.get("seconds", 0.0),
        error=trial.user_attrs.get("error", ""),
    )
