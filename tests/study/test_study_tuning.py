"""Tuning: as many trials for every method, on rows that are not reported, shared and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from rankwright.core.search_space import LogRange, OneOf
from rankwright.errors import MethodError
from rankwright.study.errors import StoppedError
from rankwright.study.execution.compare import compare
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.processes import Exit, Processes
from rankwright.study.execution.protocol import LOG, OUTCOME, REQUEST, Request
from rankwright.study.execution.trials import TrialProcesses
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.plan import Plan, make_plan
from rankwright.study.planning.specs import MethodSpec
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.tuning import TrialOutcome, TuningRecord
from rankwright.study.report.results import compute_results
from rankwright.study.report.words import lede
from rankwright.study.tuning import storage
from rankwright.study.tuning.heartbeats import start_heartbeat
from rankwright.study.tuning.sampler import SeededSampler
from rankwright.study.tuning.search import Search, tune
from rankwright.study.tuning.search_spec import SearchSpec
from rankwright.study.tuning.storage import hide_password, open_storage, silence_optuna
from rankwright.study.tuning.trial_store import TrialStore
from rankwright.study.tuning.trials import best_trial, keep_one_per_place, place
from rankwright.tasks import TaskError
from studies import Heard, InProcess, carried_out

ConfigOf = Callable[..., StudyConfig]
DATABASE = "RANKWRIGHT_TEST_DATABASE"


OPENED = contextlib.ExitStack()
"""What `search` has opened in a test."""


@pytest.fixture(autouse=True)
def _silence_optuna() -> Any:
    with silence_optuna(), OPENED:
        yield


class Pretended(Processes):
    """Makes an outcome up for every trial.

    Args:
        value: Number of the call -> the value, or how the process ended instead.
    """

    def __init__(self, value: Callable[[int], float | Exit], jobs: int = 1) -> None:
        super().__init__(jobs)
        self._value = value
        self._lock = threading.Lock()
        self.folders: list[str] = []

    def run(self, folder: Path) -> Exit:
        with self._lock:
            self.folders.append(folder.name)
            value = self._value(len(self.folders))
        if isinstance(value, Exit):
            (folder / "log.txt").write_text("killed", encoding="utf-8")
            (folder / "checkpoints").mkdir(exist_ok=True)
            if value is Exit.STOPPED:
                self.stop()
            return value
        TrialOutcome(value=value, passes=8.0, seconds=1.0).save(folder / OUTCOME)
        return Exit.DONE


def search(planned: Plan, processes: Processes, url: str | None = None) -> Search:
    kept = OPENED.enter_context(open_storage(url, planned.folder.storage))
    return search_in(kept, planned, processes, planned.config.parsed_methods[0])


def search_in(
    kept: storage.Storage, planned: Plan, processes: Processes, method: MethodSpec
) -> Search:
    """The search for one method on the first task."""
    spec = SearchSpec(planned, planned.record.tasks[0].task, method)
    return Search(TrialStore(spec, kept), TrialProcesses(planned, processes))


def tuned(found: Search) -> TuningRecord:
    assert isinstance(found.runner, TrialProcesses)
    (record,), _ = tune([found], found.runner.processes.jobs)
    return record


def test_tuned_runs_are_those_of_the_best_trial(config_of: ConfigOf) -> None:
    """Real trials, carried out in this process."""
    config = config_of(methods="lora", tune=2, seeds=[0, 1])
    folder, processes = carried_out(config)
    assert [purpose for purpose, _ in processes.done] == ["trial", "trial", "run", "run"]
    (record,) = folder.tunings()
    assert [(trial.number, trial.state) for trial in record.trials] == [
        (0, "complete"), (1, "complete"),
    ]  # fmt: skip
    assert record.trials[0].parameters == {
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-2,
        "r": 8,
    }
    assert record.trials[1].parameters != record.trials[0].parameters
    assert all(trial.passes == 8 and trial.seconds > 0 for trial in record.trials)
    assert record.best_value == max(t.value for t in record.trials if t.value is not None)
    for run in folder.records():
        assert run.hyperparameters["r"] == record.best["r"]
        assert run.options["learning_rate"] == record.best["learning_rate"]
    assert not list((folder.path / "tuning" / "trials").iterdir())
    _, again = carried_out(config)
    assert again.done == []


def test_a_task_is_tuned_and_run_before_the_next(config_of: ConfigOf, rows_file: Path) -> None:
    files = {"data": str(rows_file), "text_column": "sentence", "label_column": "topic"}
    tasks = [{"label": name, "validation_share": 0.3, **files} for name in ("one", "two")]
    config = config_of(methods="lora", tune=1, task=tasks, budget="2-passes")
    folder, processes = carried_out(config)
    assert processes.done == [
        ("trial", "one--lora--0"), ("run", "one--lora--0"),
        ("trial", "two--lora--0"), ("run", "two--lora--0"),
    ]  # fmt: skip
    for record in folder.records():
        best = next(t.best for t in folder.tunings() if t.task == record.task)
        assert record.options["learning_rate"] == best["learning_rate"]


def test_trials_see_neither_the_reported_rows_nor_a_reported_seed(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=1, seeds=[4, 7]), "c")
    seen = {}

    class Look(InProcess):
        def run(self, folder: Path) -> Exit:
            from rankwright.job import RunFolder

            config = RunFolder.read(folder).config
            rows = vars(config.make_task().load())
            seen["rows"] = {name: [r.where for r in found or ()] for name, found in rows.items()}
            seen["seed"] = config.seed
            return super().run(folder)

    tuned(search(planned, Look()))
    task = planned.config.train_config(
        planned.config.parsed_tasks[0], planned.config.parsed_methods[0]
    ).make_task()
    reported = {row.where for row in task.load().validation}
    assert not reported & {*seen["rows"]["train"], *seen["rows"]["validation"]}
    assert seen["rows"]["validation"]
    assert seen["seed"] == 8
    assert planned.record.tasks[0].tuning_rows == "0.2 of train"


def test_seeds_that_are_added_leave_that_of_the_trials_out(config_of: ConfigOf) -> None:
    """And a trial that was stopped goes on with the seed that it had."""

    def started(seeds: Any, value: Callable[[int], float | Exit]) -> Pretended:
        pretended = Pretended(value)
        with contextlib.suppress(StoppedError):
            compare(config_of(methods="lora", tune=2, seeds=seeds), "c", pretended, Observer())
        return pretended

    first = started(2, lambda call: Exit.STOPPED if call == 2 else call)
    for seeds, others in ((4, "0,1,3,4"), ("2", "0")):
        with pytest.raises(MethodError, match=f"seeds: 2 is the seed of the trials.*as {others}$"):
            started(seeds, float)
    again = started("0,1,3,4", lambda call: Exit.STOPPED if call == 2 else call)
    assert again.folders == [first.folders[1], "train--lora--0"]
    (record,) = StudyFolder(Path(str(config_of().output))).tunings()
    assert [trial.state for trial in record.trials] == ["complete", "complete"]


def test_a_trial_that_diverges_counts_and_one_that_is_killed_does_not(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=3), "c")
    dying = Pretended(lambda call: Exit.DIED if call == 2 else call)
    record = tuned(search(planned, dying))
    assert [trial.state for trial in record.trials] == ["complete", "failed", "complete"]
    left = planned.folder.path / "tuning" / "trials" / dying.folders[1]
    assert (left / "log.txt").exists()
    assert not (left / "checkpoints").exists()
    assert "the process died 3 times" in record.trials[1].error
    assert record.trials[1].value is None
    assert record.best_value == 3
    drawn = [trial.parameters for trial in record.trials]

    planned = make_plan(config_of(methods="dora", tune=3), "c")
    killed = Pretended(lambda call: Exit.STOPPED if call == 2 else call)
    with pytest.raises(StoppedError):
        tuned(search(planned, killed))
    left = planned.folder.path / "tuning" / "trials" / killed.folders[1]
    assert (left / "checkpoints").exists()
    again = Pretended(float)
    record = tuned(search(planned, again))
    assert again.folders[0] == killed.folders[1]  # the same trial, from its checkpoint
    assert {trial.state for trial in record.trials} == {"complete"}
    assert [trial.parameters for trial in record.trials] == drawn


def test_a_trial_whose_metric_is_no_number_counts(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    pretended = Pretended(lambda call: math.nan if call == 1 else 0.5)
    record = tuned(search(planned, pretended))
    assert [(trial.state, trial.error) for trial in record.trials] == [
        ("failed", "accuracy is nan"), ("complete", ""),
    ]  # fmt: skip
    assert len(pretended.folders) == 2


def test_a_trial_whose_machine_died_is_given_to_another(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(storage, "GRACE_SECONDS", 2)
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    first = search(planned, Pretended(float))
    first.store.open()
    study = first.store.load()
    with warnings.catch_warnings(action="ignore"):  # that its heartbeat is up to us: none comes
        orphan = study.ask()  # at work on a machine that is gone
    orphan.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    start_heartbeat(first.store.storage, study, orphan)
    record = tuned(search(planned, Pretended(float)))
    assert len(record.trials) == 2
    states = [trial.state for trial in study.get_trials()]
    assert states[orphan.number] is TrialState.FAIL
    retried = next(
        t for t in study.get_trials() if RetryHeartbeatStaleTrialCallback.retry_history(t)
    )
    assert retried.params["learning_rate"] == orphan.params["learning_rate"]


def test_a_trial_whose_machine_died_before_its_first_heartbeat(config_of: ConfigOf) -> None:
    found = search(make_plan(config_of(methods="lora", tune=1), "c"), Pretended(float))
    found.store.open()
    with warnings.catch_warnings(action="ignore"):  # as above
        found.store.load().ask()
    assert not found.take_one()  # its machine may yet be at work
    found.store.storage.grace_period = -1
    assert found.take_one()
    states = [trial.state for trial in found.store.load().get_trials()]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]
    (trial,) = tuned(found).trials
    assert trial.parameters == found.spec.first_values


def test_a_trial_that_another_machine_took_over_is_dropped(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=2), "c")

    def out_of_reach(call: int) -> float:
        if call == 1:  # as `fail_stale_trials` on another machine
            (running,) = study.get_trials(states=[TrialState.RUNNING])
            study._storage.set_trial_state_values(running._trial_id, TrialState.FAIL)
            RetryHeartbeatStaleTrialCallback()(study, running)
        return call

    asleep = search(planned, Pretended(out_of_reach))
    asleep.store.open()
    study = asleep.store.load()
    record = tuned(asleep)
    assert [trial.value for trial in record.trials] == [2, 3]
    assert [trial.number for trial in record.trials] == [0, 1]


def searched(planned: Plan, value: Callable[[int], float], *, killed: bool) -> TuningRecord:
    """A search whose second trial may have died on its machine while the third was made."""
    found = search(planned, Pretended(value))
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
    return tuned(found)


@pytest.mark.parametrize("value", [0.5, -0.5])
def test_a_kill_changes_neither_what_is_tried_nor_which_of_equal_trials_is_best(
    config_of: ConfigOf, value: float
) -> None:
    """The first trial is worse than all others, which are equal; TPE draws after ten of them."""
    records = [
        searched(
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


def test_of_equal_losses_the_first_by_place_is_the_best(config_of: ConfigOf) -> None:
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


def test_what_is_told_of_a_trial_that_is_tried_again(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    with pytest.raises(StoppedError):
        tuned(search(planned, Pretended(lambda call: Exit.STOPPED if call == 2 else 0.5)))
    lines: list[str] = []
    again = dataclasses.replace(search(planned, Pretended(float)), notify=lines.append)
    tuned(again)
    assert lines == ["trial 1 of lora on train: accuracy 1.0000"]


def test_which_trials_are_too_many_is_the_same_to_all(config_of: ConfigOf) -> None:
    """Two machines made three trials of two; the third is done first, and is left out."""
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    found = search(planned, Pretended(float))
    found.store.open()
    study = found.store.load()
    study.enqueue_trial(found.spec.first_values)
    for state in (TrialState.COMPLETE, TrialState.RUNNING, TrialState.COMPLETE):
        template = optuna.trial.create_trial(
            state=state, value=1.0 if state is TrialState.COMPLETE else None
        )
        study.add_trial(template)
    assert [trial.number for trial in found.store.trials(study)] == [0, 1]
    record = tuned(found)
    assert [trial.number for trial in record.trials] == [0, 1]


def test_another_study_of_the_same_name_is_refused(config_of: ConfigOf, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    tuned(search(make_plan(config_of(methods="lora", tune=1), "c"), Pretended(float), url))
    elsewhere = str(tmp_path / "elsewhere" / "study")
    other = make_plan(config_of(methods="lora", tune=1, budget="9-passes", output=elsewhere), "c")
    with pytest.raises(MethodError, match=r"budget = '8-passes', this command '9-passes'"):
        tuned(search(other, Pretended(float), url))


HEADER, PAGE_BYTES = 100, 4096
"""Of an SQLite file."""


def test_a_damaged_file_of_trials_says_what_to_delete(config_of: ConfigOf) -> None:
    """Another file, an SQLite file with a damaged page, one of another program, and a folder."""
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    file = planned.folder.storage
    said = (
        re.escape(str(file))
        + r", the file of the trials, cannot be read \(.+\). Delete it, and the "
        f"folder {re.escape(str(file.parent / 'trials'))} if there is one: the trials .* are lost"
    )
    with open_storage(None, file):
        pass
    whole = file.read_bytes()
    for damaged in (
        b"no database " * 100,
        whole[:HEADER] + b"x" * (PAGE_BYTES - HEADER) + whole[PAGE_BYTES:],
        whole[: 2 * PAGE_BYTES],
    ):
        file.write_bytes(damaged)
        with pytest.raises(MethodError, match=said), open_storage(None, file):
            pass
    file.write_bytes(whole[:-PAGE_BYTES] + b"x" * PAGE_BYTES)
    file.unlink()
    assert len(tuned(search(planned, Pretended(float))).trials) == 2


def test_a_file_of_trials_that_is_damaged_while_it_is_used(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    file = planned.folder.storage

    def damage(call: int) -> float:
        size = file.stat().st_size
        file.write_bytes(b"x" * size)
        return call

    spec = planned.config.parsed_methods[0]
    with (
        pytest.raises(MethodError, match=r"cannot be read \(file is not a database\)\. Delete it"),
        open_storage(None, file) as kept,
    ):
        tuned(search_in(kept, planned, Pretended(damage), spec))


def test_a_file_of_trials_that_cannot_be_opened_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0)
    (tmp_path / "trials.db").mkdir()
    with (
        pytest.raises(MethodError, match=r"trials\.db, the file .* expected a file that can be wr"),
        open_storage(None, tmp_path / "trials.db"),
    ):
        pass


def test_a_storage_that_is_lost_is_one_message(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = make_plan(config_of(methods="lora", tune=1), "c")

    def gone(*_args: object, **_named: object) -> None:
        raise optuna.exceptions.StorageInternalError("sent back") from OSError("server closed")

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_user_attr", gone)
    with (
        pytest.raises(
            MethodError, match=r"was lost \(server closed\); .* run the same command to continue"
        ),
        open_storage(None, planned.folder.storage) as kept,
    ):
        tuned(search_in(kept, planned, Pretended(float), planned.config.parsed_methods[0]))


def test_a_heartbeat_may_be_missed(config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is restarted, say: beats fail for a while, and the trial is carried on with."""
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    beats: list[bool] = []

    def flaky(self: object, trial_id: int) -> None:
        written = len(beats) >= 2  # neither the first one's nor that of Optuna's thread
        beats.append(written)
        if not written:
            raise optuna.exceptions.StorageInternalError("no connection")

    def waits(call: int) -> float:
        while True not in beats:
            time.sleep(0.01)
        return call

    monkeypatch.setattr(optuna.storages.RDBStorage, "record_heartbeat", flaky)
    record = tuned(search(make_plan(config_of(methods="lora", tune=1), "c"), Pretended(waits)))
    assert record.trials[0].state == "complete"
    assert beats[:3] == [False, False, True]


def test_processes_side_by_side_take_each_trial_once(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=5), "c")
    pretended = Pretended(float, jobs=4)
    record = tuned(search(planned, pretended))
    assert len(record.trials) == 5
    assert sorted(pretended.folders) == [f"train--lora--{number}" for number in range(5)]


def test_who_finds_no_trial_of_one_method_takes_one_of_the_next(config_of: ConfigOf) -> None:
    """Three trials of each for two processes: each method's last one leaves no one idle."""
    side_by_side = threading.Barrier(2)

    class AtOnce(Pretended):
        def run(self, folder: Path) -> Exit:
            side_by_side.wait(timeout=60)  # until another is at work, too
            return super().run(folder)

    planned = make_plan(config_of(methods="lora,dora", tune=3), "c")
    pretended = AtOnce(float, jobs=2)
    first = search(planned, pretended)
    second = search_in(first.store.storage, planned, pretended, planned.config.parsed_methods[1])
    records, _ = tune([first, second], pretended.jobs)
    assert [(record.label, len(record.trials)) for record in records] == [("lora", 3), ("dora", 3)]
    assert {name.split("--")[1] for name in pretended.folders[2:4]} == {"lora", "dora"}


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a storage that machines share, without trials."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    url = os.environ.get(DATABASE)
    if url is None:
        pytest.skip(f"{DATABASE} names no PostgreSQL database, such as postgresql://me@host/tests")
    with open_storage(url, tmp_path) as kept:
        for known in kept.get_all_studies():
            kept.delete_study(known._study_id)
    return url


def test_machines_that_share_a_storage_divide_the_trials(
    config_of: ConfigOf, tmp_path: Path, shared: str
) -> None:
    pretended = [Pretended(lambda call: call / 10) for _ in range(2)]
    records: list[TuningRecord] = []

    def machine(number: int) -> None:
        config = config_of(methods="lora", tune=6, output=str(tmp_path / str(number) / "study"))
        records.append(tuned(search(make_plan(config, "c"), pretended[number], shared)))

    threads = [threading.Thread(target=machine, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(record.trials) for record in records] == [6, 6]
    assert records[0].trials == records[1].trials
    assert records[0].best == records[1].best
    tried = [tuple(trial.parameters.values()) for trial in records[0].trials]
    assert len(set(tried)) >= 5  # both may have asked for the untuned one at once


def test_what_is_given_is_not_tuned(config_of: ConfigOf) -> None:
    own = {"method": "bidora", "r": 4, "learning_rate": 1e-3, "space": {"upper_lr": [1e-3, 1e-2]}}
    config = config_of(methods=[own], tune=1, options={"head_learning_rate": 3e-2})
    found = search(make_plan(config, "c"), Pretended(float))
    assert set(found.spec.space) == {"unroll_steps", "search_fraction", "retrain_from", "upper_lr"}
    assert found.spec.first_values == {
        "unroll_steps": 1, "search_fraction": 0.5, "retrain_from": "snapshot", "upper_lr": 1e-3,
    }  # fmt: skip


def test_draws_are_a_function_of_the_trial(config_of: ConfigOf) -> None:
    def drawn(seed: str) -> list[tuple[float, float]]:
        study = optuna.create_study(sampler=SeededSampler(seed, {}))
        return [
            (t.suggest_float("a", 0, 1), t.suggest_float("b", 0, 1))
            for t in (study.ask() for _ in range(4))
        ]

    assert drawn("x") == drawn("x") != drawn("y")
    assert len({value for pair in drawn("x") for value in pair}) == 8


def test_methods_of_a_task_try_the_same_places_of_their_ranges(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora,dora,lora_rite", tune=5), "c")
    processes = Pretended(float)
    kept = OPENED.enter_context(open_storage(None, planned.folder.storage))
    searches = [
        search_in(kept, planned, processes, method) for method in planned.config.parsed_methods
    ]
    lora, dora, rite = (record.trials for record in tune(searches, processes.jobs)[0])
    assert [trial.parameters for trial in lora] == [trial.parameters for trial in dora]
    assert len({trial.parameters["learning_rate"] for trial in lora}) == 5
    for wide, narrow in zip(lora, rite, strict=True):  # 1e-4 to 1e-2, and 3e-5 to 3e-3
        rate = narrow.parameters["learning_rate"]
        assert rate == pytest.approx(0.3 * wide.parameters["learning_rate"], rel=1e-12)


class Broken(Pretended):
    """Trials of some methods die; runs are not carried out, but noted as asked for."""

    def __init__(self, *labels: str) -> None:
        super().__init__(lambda _call: 0.5)
        self.labels = labels
        self.runs: list[str] = []

    def run(self, folder: Path) -> Exit:
        request = Request.load(folder / REQUEST)
        if request.purpose == "run":
            self.runs.append(request.label)
            return Exit.STOPPED
        if request.label in self.labels:
            (folder / LOG).write_text("no memory", encoding="utf-8")
            self.folders.append(folder.name)
            return Exit.DIED
        return super().run(folder)


def test_a_method_all_of_whose_trials_fail_stops_no_other(config_of: ConfigOf) -> None:
    """Its runs have failed, for that reason; the next command tries its trials again."""

    def command(processes: Broken) -> tuple[StudyFolder, Heard]:
        heard = Heard()
        return compare(config_of(methods="lora,dora", tune=2), "c", processes, heard), heard

    processes = Broken("dora")
    for attempt in (1, 2):
        folder, heard = command(processes)
        assert processes.runs == ["lora"] * attempt
        (failure,) = folder.failures()
        assert (failure.label, failure.attempts) == ("dora", attempt)
        assert re.match("all trials of its tuning failed, the last of 2 with: .*", failure.error)
        assert failure.error.endswith("no memory")
        assert heard.failures == {"train--dora--0": failure.error}
        assert [record.label for record in folder.tunings()] == ["lora"]
    died = [name for name in processes.folders if "--dora--" in name]
    assert died == ["train--dora--0", "train--dora--1", "train--dora--0--2", "train--dora--1--2"]

    processes = Broken()
    folder, heard = command(processes)
    assert processes.folders == ["train--dora--0--3", "train--dora--1--3"]
    assert processes.runs == ["lora", "dora"]
    assert heard.failures == {}
    lora, dora = folder.tunings()
    assert [t.parameters for t in lora.trials] == [t.parameters for t in dora.trials]


FINITE = {"method": "lora", "learning_rate": 1e-3, "head_learning_rate": 1e-2}
"""With nothing left to search but what `space` has."""


def test_no_point_of_a_finite_space_is_tried_twice(config_of: ConfigOf) -> None:
    own = {**FINITE, "space": {"r": [2, 4, 8], "use_rslora": [True, False]}}
    for tune_, count in ((5, 5), (20, 6)):
        output = f"{config_of().output}-{tune_}"
        planned = make_plan(config_of(methods=[own], tune=tune_, output=output), "c")
        record = tuned(search(planned, Pretended(float)))
        assert record.trials[0].parameters == {"r": 8, "use_rslora": False}
        assert len({tuple(trial.parameters.items()) for trial in record.trials}) == count
        assert len(record.trials) == count


def test_a_method_with_nothing_to_search_has_no_trials(config_of: ConfigOf) -> None:
    fixed = {**FINITE, "label": "fixed", "r": 4}
    few = {**FINITE, "label": "few", "space": {"r": [4, 8]}}
    processes, heard = Broken(), Heard()
    folder = compare(config_of(methods=[fixed, few], tune=3), "c", processes, heard)
    assert processes.folders == ["train--few--0", "train--few--1"]
    assert heard.said[1] == (
        "tuning on train, trials: fixed 0 (nothing to search), few 2 (every point of its space)"
    )
    assert processes.runs == ["fixed", "few"]
    assert [record.label for record in folder.tunings()] == ["few"]


def test_a_report_says_where_trials_were_fewer(config_of: ConfigOf) -> None:
    few = {**FINITE, "space": {"r": [2, 4]}}
    for tune_, said in ((2, " after 2 trials of"), (3, " after up to 3 trials of")):
        output = f"{config_of().output}-{tune_}"
        config = config_of(methods=[few], seeds=1, budget="1-passes", tune=tune_, output=output)
        assert said in lede(compute_results(carried_out(config)[0]))


def test_the_first_trial_is_the_method_as_it_would_run(config_of: ConfigOf) -> None:
    """With a rate beside its range, a list of rates, and options of the Trainer."""
    own = {
        "method": "lora", "r": 8, "learning_rate": 2e-3, "weight_decay": 0.1,
        "space": {
            "learning_rate": {"low": 1e-4, "high": 1e-2}, "head_learning_rate": [1e-3, 1e-2],
            "weight_decay": [0.0, 0.1], "schedule": ["constant", "linear"],
            "warmup": {"low": 0.01, "high": 0.02},
        },
    }  # fmt: skip
    found = search(make_plan(config_of(methods=[own], tune=1), "c"), Pretended(float))
    assert found.spec.first_values == {
        "learning_rate": 2e-3, "head_learning_rate": 1e-3, "weight_decay": 0.1,
        "schedule": "linear", "warmup": 0.014,
    }  # fmt: skip


def rows_of(folder: Path, labels: str) -> dict[str, Any]:
    """Options of a task on a file with a row for every letter, which is its label."""
    file = folder / f"{labels[:9]}.jsonl"
    rows = [{"sentence": f"w{n} w{n + 1}", "topic": label} for n, label in enumerate(labels)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = {"text_column": "sentence", "label_column": "topic"}
    return {"data": str(file), "validation_data": str(file), **columns}


def test_trials_train_on_as_many_rows_as_are_left(config_of: ConfigOf, tmp_path: Path) -> None:
    data = rows_of(tmp_path, "ab" * 20)
    config = config_of(
        methods="lora", tune=1, budget="2-passes", options={**data, "train_rows": 38}
    )
    folder, processes = carried_out(config)
    assert [purpose for purpose, _ in processes.done] == ["trial", "run"]
    (record,) = folder.tunings()
    assert record.trials[0].state == "complete"
    with pytest.raises(
        MethodError, match="train_rows = 41: expected at most 40, the training rows of"
    ):
        make_plan(config_of(methods="lora", options={**data, "train_rows": 41}), "c")


def test_trials_know_the_labels_of_all_training_rows(config_of: ConfigOf, tmp_path: Path) -> None:
    """The share that they are scored on has the only row of a class, wherever it stands."""
    for where in range(12):
        labels = "ab" * 20
        labels = f"{labels[:where]}c{labels[where + 1 :]}"
        planned = make_plan(
            config_of(methods="lora", tune=1, options=rows_of(tmp_path, labels)), "c"
        )
        aside = planned.trial_data[planned.record.tasks[0].task].rows
        assert aside["train"] + aside["validation"] == planned.record.tasks[0].rows["train"] == 40


def test_what_every_trial_would_fail_with_is_said_once(config_of: ConfigOf, tmp_path: Path) -> None:
    data = rows_of(tmp_path, "ab")
    make_plan(config_of(methods="lora", options=data), "c")
    with pytest.raises(TaskError, match=r"tuning_share = 0\.01: trials on ab, .* one side empty"):
        make_plan(config_of(methods="lora", tune=1, tuning_share=0.01, options=data), "c")


def test_another_space_is_another_study(config_of: ConfigOf) -> None:
    """Also when tuning is over; a study of before spaces were noted goes on."""

    def command(**space: Any) -> None:
        own = {"method": "lora", "space": space}
        compare(config_of(methods=[own], tune=1), "c", Broken(), Heard())

    command(r=[4, 8])
    message = r"method lora: space: r = '4, 8', this command '4, 16'"
    with pytest.raises(MethodError, match=message):
        command(r=[4, 16])
    folder = StudyFolder(Path(str(config_of().output)))
    values = json.loads(folder.description.read_text("utf-8"))
    del values["methods"][0]["space"]
    folder.description.write_text(json.dumps(values), encoding="utf-8")
    command(r=[4, 16])


def test_another_space_is_another_study_to_the_storage(config_of: ConfigOf, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"

    def planned(machine: str, choices: list[int]) -> Plan:
        own = {"method": "lora", "space": {"r": choices}}
        return make_plan(
            config_of(methods=[own], tune=2, output=str(tmp_path / machine / "study")), "c"
        )

    tuned(search(planned("one", [4, 8]), Pretended(float), url))
    with pytest.raises(MethodError, match=r"method: space: r = '4, 8', this command '8, 16'"):
        tuned(search(planned("two", [8, 16]), Pretended(float), url))


def test_a_storage_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="storage = 'nosuch://': cannot be opened"):
        OPENED.enter_context(open_storage("nosuch://", tmp_path / "x.db"))


def test_a_driver_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MethodError, match=r"pip install 'psycopg\[binary\]'") as raised:
        OPENED.enter_context(open_storage("postgresql://me:hush@host/s", tmp_path / "x.db"))
    assert "postgresql://me:***@host/s" in str(raised.value)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql+psycopg2://me:hush@host:5432/db", "postgresql+psycopg2://me:***@host:5432/db"),
        ("--storage=mysql://me:hu/s@h@host/db", "--storage=mysql://me:***@host/db"),
        ("postgresql:///db?user=me&password=hush&host=h", "postgresql:///db?user=me&password=***&host=h"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("hf://datasets/a/b@main/c:d.csv", "hf://datasets/a/b@main/c:d.csv"),
    ],
)  # fmt: skip
def test_passwords_are_hidden(given: str, shown: str) -> None:
    assert hide_password(given) == shown


@pytest.mark.parametrize(
    "choice", [(LogRange, 0.0, 1.0), (LogRange, 2.0, 1.0), (OneOf, ())], ids=str
)
def test_a_space_without_values_is_refused(choice: Any) -> None:
    kind, *values = choice
    with pytest.raises(MethodError, match="expected"):
        kind(*values)
