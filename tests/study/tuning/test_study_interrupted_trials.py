"""Trials whose process or machine dies are retried at their place, and change no result."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from fake_trials import FakeTrials, open_search, run_search
from rankwright.study.errors import StoppedError
from rankwright.study.execution.processes import Exit
from rankwright.study.planning.plan import Plan, make_plan
from rankwright.study.records.tuning import TuningRecord
from rankwright.study.tuning import storage
from rankwright.study.tuning.heartbeats import start_heartbeat
from rankwright.study.tuning.trials import best_trial, keep_one_per_place, place
from studies import ConfigOf


def test_a_trial_that_diverges_counts_and_one_that_is_killed_does_not(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=3), "c")
    dying = FakeTrials(lambda call: Exit.DIED if call == 2 else call)
    record = run_search(open_search(planned, dying))
    assert [trial.state for trial in record.trials] == ["complete", "failed", "complete"]
    left = planned.folder.path / "tuning" / "trials" / dying.folders[1]
    assert (left / "log.txt").exists()
    assert not (left / "checkpoints").exists()
    assert "the process died 3 times" in record.trials[1].error
    assert record.trials[1].value is None
    assert record.best_value == 3
    drawn = [trial.parameters for trial in record.trials]

    planned = make_plan(config_of(methods="dora", tune=3), "c")
    killed = FakeTrials(lambda call: Exit.STOPPED if call == 2 else call)
    with pytest.raises(StoppedError):
        run_search(open_search(planned, killed))
    left = planned.folder.path / "tuning" / "trials" / killed.folders[1]
    assert (left / "checkpoints").exists()
    again = FakeTrials(float)
    record = run_search(open_search(planned, again))
    assert again.folders[0] == killed.folders[1]  # the same trial, from its checkpoint
    assert {trial.state for trial in record.trials} == {"complete"}
    assert [trial.parameters for trial in record.trials] == drawn


def test_a_trial_whose_machine_died_is_given_to_another(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(storage, "GRACE_SECONDS", 2)
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    first = open_search(planned, FakeTrials(float))
    first.store.open()
    study = first.store.load()
    with warnings.catch_warnings(action="ignore"):  # that its heartbeat is up to us: none comes
        orphan = study.ask()  # at work on a machine that is gone
    orphan.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    start_heartbeat(first.store.storage, study, orphan)
    record = run_search(open_search(planned, FakeTrials(float)))
    assert len(record.trials) == 2
    states = [trial.state for trial in study.get_trials()]
    assert states[orphan.number] is TrialState.FAIL
    retried = next(
        t for t in study.get_trials() if RetryHeartbeatStaleTrialCallback.retry_history(t)
    )
    assert retried.params["learning_rate"] == orphan.params["learning_rate"]


def test_a_trial_whose_machine_died_before_its_first_heartbeat(config_of: ConfigOf) -> None:
    found = open_search(make_plan(config_of(methods="lora", tune=1), "c"), FakeTrials(float))
    found.store.open()
    with warnings.catch_warnings(action="ignore"):  # as above
        found.store.load().ask()
    assert not found.take_one()  # its machine may yet be at work
    found.store.storage.grace_period = -1
    assert found.take_one()
    states = [trial.state for trial in found.store.load().get_trials()]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]
    (trial,) = run_search(found).trials
    assert trial.parameters == found.spec.first_values


def test_a_trial_that_another_machine_took_over_is_dropped(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=2), "c")

    def out_of_reach(call: int) -> float:
        if call == 1:  # as `fail_stale_trials` on another machine
            (running,) = study.get_trials(states=[TrialState.RUNNING])
            study._storage.set_trial_state_values(running._trial_id, TrialState.FAIL)
            RetryHeartbeatStaleTrialCallback()(study, running)
        return call

    asleep = open_search(planned, FakeTrials(out_of_reach))
    asleep.store.open()
    study = asleep.store.load()
    record = run_search(asleep)
    assert [trial.value for trial in record.trials] == [2, 3]
    assert [trial.number for trial in record.trials] == [0, 1]


def search_with_kill(planned: Plan, value: Callable[[int], float], *, killed: bool) -> TuningRecord:
    """Carry out a search whose second trial may die with its machine during the third."""
    found = open_search(planned, FakeTrials(value))
    found.store.open()
    found.take_one()
    if killed:
        with warnings.catch_warnings(action="ignore"):  # that its heartbeat is up to us: none comes
            orphan = found.store.load().ask()
        assert orphan.number == 1
        found.take_one()
        found.store.storage.grace_period = -1
        found.take_one()
        numbers = [RetryHeartbeatStaleTrialCallback.retried_trial_number(t)
                   for t in found.store.load().get_trials()]  # fmt: skip
        assert numbers == [None, None, None, 1]
    return run_search(found)


@pytest.mark.parametrize("value", [0.5, -0.5])
def test_a_kill_changes_neither_the_trials_nor_the_best_of_equal_ones(
    config_of: ConfigOf, value: float
) -> None:
    """The first trial is the worst, the others are equal; TPE draws from the eleventh on."""
    records = [
        search_with_kill(
            make_plan(
                config_of(methods="lora", tune=14, output=f"{config_of().output}-{killed}"), "c"
            ),
            lambda call: value if call > 1 else -1.0,
            killed=killed,
        )
        for killed in (False, True)
    ]
    assert records[1] == records[0]
    assert [trial.number for trial in records[1].trials] == list(range(14))
    assert records[1].best == records[1].trials[1].parameters


def test_the_first_of_equal_trials_by_place_is_the_best(config_of: ConfigOf) -> None:
    trials = [
        optuna.trial.create_trial(value=2.0),
        optuna.trial.create_trial(value=1.0),
        optuna.trial.create_trial(value=1.0, system_attrs={"failed_trial": 0}),
    ]
    study = optuna.create_study()
    study.enqueue_trial({})
    study.add_trials(trials)
    waiting, two, one, again = study.get_trials()
    assert best_trial([two, one, again], greater_is_better=False) == again
    assert best_trial([two, one, again], greater_is_better=True) == two
    assert keep_one_per_place([two, one, again, waiting]) == [again, two, one]
    assert [place(study, trial) for trial in (waiting, two, one, again)] == [0, 1, 2, 0]


def test_a_retried_trial_is_announced_by_its_place(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    stopped = FakeTrials(lambda call: Exit.STOPPED if call == 2 else 0.5)
    with pytest.raises(StoppedError):
        run_search(open_search(planned, stopped))
    lines: list[str] = []
    again = dataclasses.replace(open_search(planned, FakeTrials(float)), notify=lines.append)
    run_search(again)
    assert lines == ["trial 1 of lora on train: accuracy 1.0000"]
