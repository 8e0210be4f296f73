"""Searches: as many trials as planned, shared by processes and machines."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from fake_trials import FakeTrials, make_search, open_search, run_search
from rankwright.errors import MethodError
from rankwright.study.execution.processes import Exit
from rankwright.study.planning.plan import Plan, make_plan
from rankwright.study.records.tuning import TuningRecord
from rankwright.study.tuning.search import tune
from rankwright.study.tuning.storage import open_storage
from studies import ConfigOf, InProcess

DATABASE = "RANKWRIGHT_TEST_DATABASE"


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

    run_search(open_search(planned, Look()))
    task = planned.config.train_config(
        planned.config.parsed_tasks[0], planned.config.parsed_methods[0]
    ).make_task()
    reported = {row.where for row in task.load().validation}
    assert not reported & {*seen["rows"]["train"], *seen["rows"]["validation"]}
    assert seen["rows"]["validation"]
    assert seen["seed"] == 8
    assert planned.record.tasks[0].tuning_rows == "0.2 of train"


def test_a_trial_whose_metric_is_nan_counts(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    pretended = FakeTrials(lambda call: math.nan if call == 1 else 0.5)
    record = run_search(open_search(planned, pretended))
    assert [(trial.state, trial.error) for trial in record.trials] == [
        ("failed", "accuracy is nan"), ("complete", ""),
    ]  # fmt: skip
    assert len(pretended.folders) == 2


def test_all_machines_leave_out_the_same_surplus_trial(config_of: ConfigOf) -> None:
    """Two machines made three trials instead of two; the third ends first, and is left out."""
    planned = make_plan(config_of(methods="lora", tune=2), "c")
    found = open_search(planned, FakeTrials(float))
    found.store.open()
    study = found.store.load()
    study.enqueue_trial(found.spec.first_values)
    for state in (TrialState.COMPLETE, TrialState.RUNNING, TrialState.COMPLETE):
        template = optuna.trial.create_trial(
            state=state, value=1.0 if state is TrialState.COMPLETE else None
        )
        study.add_trial(template)
    assert [trial.number for trial in found.store.trials(study)] == [0, 1]
    record = run_search(found)
    assert [trial.number for trial in record.trials] == [0, 1]


def test_another_study_of_the_same_name_is_refused(config_of: ConfigOf, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    planned = make_plan(config_of(methods="lora", tune=1), "c")
    run_search(open_search(planned, FakeTrials(float), url))
    elsewhere = str(tmp_path / "elsewhere" / "study")
    other = make_plan(config_of(methods="lora", tune=1, budget="9-passes", output=elsewhere), "c")
    with pytest.raises(MethodError, match=r"budget = '8-passes', this command '9-passes'"):
        run_search(open_search(other, FakeTrials(float), url))


def test_processes_side_by_side_take_each_trial_once(config_of: ConfigOf) -> None:
    planned = make_plan(config_of(methods="lora", tune=5), "c")
    pretended = FakeTrials(float, jobs=4)
    record = run_search(open_search(planned, pretended))
    assert len(record.trials) == 5
    assert sorted(pretended.folders) == [f"train--lora--{number}" for number in range(5)]


def test_a_process_without_a_trial_takes_one_of_the_next_method(config_of: ConfigOf) -> None:
    """Two processes share three trials of each method; the last trial leaves neither idle."""
    side_by_side = threading.Barrier(2)

    class AtOnce(FakeTrials):
        def run(self, folder: Path) -> Exit:
            side_by_side.wait(timeout=60)  # until another is at work as well
            return super().run(folder)

    planned = make_plan(config_of(methods="lora,dora", tune=3), "c")
    pretended = AtOnce(float, jobs=2)
    first = open_search(planned, pretended)
    second = make_search(first.store.storage, planned, pretended, planned.config.parsed_methods[1])
    records, _ = tune([first, second], pretended.jobs)
    assert [(record.label, len(record.trials)) for record in records] == [("lora", 3), ("dora", 3)]
    assert {name.split("--")[1] for name in pretended.folders[2:4]} == {"lora", "dora"}


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage that machines share."""
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
    pretended = [FakeTrials(lambda call: call / 10) for _ in range(2)]
    records: list[TuningRecord] = []

    def machine(number: int) -> None:
        config = config_of(methods="lora", tune=6, output=str(tmp_path / str(number) / "study"))
        records.append(run_search(open_search(make_plan(config, "c"), pretended[number], shared)))

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


def test_another_space_is_another_study_to_the_storage(config_of: ConfigOf, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"

    def planned(machine: str, choices: list[int]) -> Plan:
        own = {"method": "lora", "space": {"r": choices}}
        return make_plan(
            config_of(methods=[own], tune=2, output=str(tmp_path / machine / "study")), "c"
        )

    run_search(open_search(planned("one", [4, 8]), FakeTrials(float), url))
    with pytest.raises(MethodError, match=r"method: space: r = '4, 8', this command '8, 16'"):
        run_search(open_search(planned("two", [8, 16]), FakeTrials(float), url))
