"""Heartbeats of trials, and retries of those whose machine died or was stopped."""

from __future__ import annotations

from datetime import datetime, timedelta

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from rankwright.study.tuning.storage import Storage

STARTED = "begun"
"""User attribute of a trial with a heartbeat: its number, which a retry's copy does not match."""


def start_heartbeat(storage: Storage, study: optuna.Study, trial: optuna.Trial) -> None:
    """Record the first heartbeat of a trial, and then that there was one."""
    study_id = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    storage.record_heartbeat(trial_id)
    trial.set_user_attr(STARTED, trial.number)


def fail_lost_trials(storage: Storage, study: optuna.Study) -> None:
    """Fail and enqueue again the trials whose heartbeat stopped or never started.

    Optuna finds those whose heartbeat stopped; a machine may also die before its first heartbeat.
    """
    optuna.storages.fail_stale_trials(study)
    assert storage.grace_period is not None
    late = datetime.now() - timedelta(seconds=storage.grace_period)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        assert trial.datetime_start is not None
        if trial.user_attrs.get(STARTED) != trial.number and trial.datetime_start < late:
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, UpdateFinishedTrialError):  # another machine was faster
                continue
            retry(study, trial)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue a trial again, with the same values and at the same place."""
    RetryHeartbeatStaleTrialCallback()(study, trial)
