"""Trials as Optuna keeps them, in the order in which they would have been made without a kill.

Optuna gives a trial that is tried again a new, higher number. Its place is that of the original, so
that neither the choice between equal values nor what a user is told depends on what was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from rankwright.study.records import TrialRecord


def original(trial: FrozenTrial) -> int:
    """Optuna's number of a trial, or of the one that it takes up again."""
    number: int | None = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


def place(study: optuna.Study, trial: FrozenTrial) -> int:
    """Which of the study's trials it is, from 0; one that takes another up again is that one."""
    trials = study.get_trials(deepcopy=False)
    return sum(t.number == original(t) < original(trial) for t in trials)


def in_order(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials by their places, those that take another up again after it."""
    return sorted(trials, key=lambda trial: (original(trial), trial.number))


def once_each(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials by their places, one of every place: the first that counts, if one does.

    A machine that dies while it gives a trial back leaves it to be tried again twice.
    """
    first: dict[int, FrozenTrial] = {}
    for trial in sorted(in_order(trials), key=counts, reverse=True):
        first.setdefault(original(trial), trial)
    return in_order(first.values())


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those a method gets: not if its machine died or was stopped."""
    return complete(trial) or "error" in trial.user_attrs


def complete(trial: FrozenTrial) -> bool:
    """Whether a trial has a value."""
    return trial.state is TrialState.COMPLETE


def waits(trial: FrozenTrial) -> bool:
    """Whether a trial is to be had."""
    return trial.state is TrialState.WAITING


def alive(trial: FrozenTrial) -> bool:
    """Whether a trial is at work or to be had."""
    return trial.state in (TrialState.RUNNING, TrialState.WAITING)


def best_of(trials: Sequence[FrozenTrial], *, greater_is_better: bool) -> FrozenTrial:
    """The best of the trials with a value; of equal ones the first by place."""
    sign = -1 if greater_is_better else 1
    return min(
        filter(complete, trials), key=lambda trial: (sign * (trial.value or 0.0), original(trial))
    )


def trial_record(study: optuna.Study, trial: FrozenTrial) -> TrialRecord:
    """What is kept of a trial that counts."""
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
