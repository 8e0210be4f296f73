"""Optuna's trials in the order that they would have without interruptions.

Optuna gives a retried trial a new, higher number. Here it keeps the place of the original, so that
neither the choice between equal values nor the messages depend on which processes were killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from rankwright.study.records.tuning import TrialRecord


def original_number(trial: FrozenTrial) -> int:
    """Return Optuna's number of a trial, or of the original of a retried one."""
    number: int | None = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


def place(study: optuna.Study, trial: FrozenTrial) -> int:
    """Return the position of a trial in its study, from 0; a retried one has its original's."""
    trials = study.get_trials(deepcopy=False)
    return sum(t.number == original_number(t) < original_number(trial) for t in trials)


def sort_by_place(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials by place, each followed by its retries."""
    return sorted(trials, key=lambda trial: (original_number(trial), trial.number))


def keep_one_per_place(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return one trial for each place, in order: the first that counts, if one does.

    A machine that dies while it hands a trial back may cause two retries.
    """
    first: dict[int, FrozenTrial] = {}
    for trial in sorted(sort_by_place(trials), key=counts, reverse=True):
        first.setdefault(original_number(trial), trial)
    return sort_by_place(first.values())


def counts(trial: FrozenTrial) -> bool:
    """Return whether a trial has ended with a value or an error, rather than been interrupted."""
    return is_complete(trial) or "error" in trial.user_attrs


def is_complete(trial: FrozenTrial) -> bool:
    """Return whether a trial has a value."""
    return trial.state is TrialState.COMPLETE


def is_waiting(trial: FrozenTrial) -> bool:
    """Return whether a trial waits for a machine."""
    return trial.state is TrialState.WAITING


def is_open(trial: FrozenTrial) -> bool:
    """Return whether a trial runs or waits for a machine."""
    return trial.state in (TrialState.RUNNING, TrialState.WAITING)


def best_trial(trials: Sequence[FrozenTrial], *, greater_is_better: bool) -> FrozenTrial:
    """Return the best trial with a value; among equal ones, the first by place."""
    sign = -1 if greater_is_better else 1
    return min(
        filter(is_complete, trials),
        key=lambda trial: (sign * (trial.value or 0.0), original_number(trial)),
    )


def freeze(trial: optuna.Trial) -> FrozenTrial:
    """Return the present state of a running trial."""
    trials = trial.study.get_trials(deepcopy=False)
    return next(t for t in trials if t.number == trial.number)


def record_trial(study: optuna.Study, trial: FrozenTrial) -> TrialRecord:
    """Return the record of a trial that counts."""
    return TrialRecord(
        number=place(study, trial),
        parameters=trial.params,
        value=trial.value if is_complete(trial) else None,
        state="complete" if is_complete(trial) else "failed",
        passes=trial.user_attrs.get("passes", 0.0),
        seconds=trial.user_attrs.get("seconds", 0.0),
        error=trial.user_attrs.get("error", ""),
    )
