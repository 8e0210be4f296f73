"""Tuning within a study: real trials, on rows and with a seed that are not reported."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_trials import FINITE, FakeTrials
from rankwright.errors import MethodError
from rankwright.study.errors import StoppedError
from rankwright.study.execution.compare import compare
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.processes import Exit
from rankwright.study.execution.protocol import LOG, REQUEST, Request
from rankwright.study.planning.plan import make_plan
from rankwright.study.records.folder import StudyFolder
from rankwright.study.report.results import compute_results
from rankwright.study.report.words import lede
from rankwright.tasks import TaskError
from studies import ConfigOf, Recorder, carry_out


def test_tuned_runs_are_those_of_the_best_trial(config_of: ConfigOf) -> None:
    """Real trials, carried out in this process."""
    config = config_of(methods="lora", tune=2, seeds=[0, 1])
    folder, processes = carry_out(config)
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
    _, again = carry_out(config)
    assert again.done == []


def test_a_task_is_tuned_and_run_before_the_next(config_of: ConfigOf, rows_file: Path) -> None:
    files = {"data": str(rows_file), "text_column": "sentence", "label_column": "topic"}
    tasks = [{"label": name, "validation_share": 0.3, **files} for name in ("one", "two")]
    config = config_of(methods="lora", tune=1, task=tasks, budget="2-passes")
    folder, processes = carry_out(config)
    assert processes.done == [
        ("trial", "one--lora--0"), ("run", "one--lora--0"),
        ("trial", "two--lora--0"), ("run", "two--lora--0"),
    ]  # fmt: skip
    for record in folder.records():
        best = next(t.best for t in folder.tunings() if t.task == record.task)
        assert record.options["learning_rate"] == best["learning_rate"]


def test_added_seeds_may_not_include_the_seed_of_the_trials(config_of: ConfigOf) -> None:
    """A stopped trial is resumed with its original seed."""

    def started(seeds: Any, value: Callable[[int], float | Exit]) -> FakeTrials:
        pretended = FakeTrials(value)
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


class Broken(FakeTrials):
    """Kills the trials of some methods; runs are not carried out, only listed.

    Attributes:
        runs: Labels of the runs that were asked for.
    """

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


def test_a_method_without_a_complete_trial_does_not_stop_the_others(config_of: ConfigOf) -> None:
    """Its runs fail with that reason; the next command repeats its trials."""

    def command(processes: Broken) -> tuple[StudyFolder, Recorder]:
        recorder = Recorder()
        return compare(config_of(methods="lora,dora", tune=2), "c", processes, recorder), recorder

    processes = Broken("dora")
    for attempt in (1, 2):
        folder, recorder = command(processes)
        assert processes.runs == ["lora"] * attempt
        (failure,) = folder.failures()
        assert (failure.label, failure.attempts) == ("dora", attempt)
        assert re.match("all trials of its tuning failed, the last of 2 with: .*", failure.error)
        assert failure.error.endswith("no memory")
        assert recorder.failures == {"train--dora--0": failure.error}
        assert [record.label for record in folder.tunings()] == ["lora"]
    died = [name for name in processes.folders if "--dora--" in name]
    assert died == ["train--dora--0", "train--dora--1", "train--dora--0--2", "train--dora--1--2"]

    processes = Broken()
    folder, recorder = command(processes)
    assert processes.folders == ["train--dora--0--3", "train--dora--1--3"]
    assert processes.runs == ["lora", "dora"]
    assert recorder.failures == {}
    lora, dora = folder.tunings()
    assert [t.parameters for t in lora.trials] == [t.parameters for t in dora.trials]


def test_a_method_with_nothing_to_search_has_no_trials(config_of: ConfigOf) -> None:
    fixed = {**FINITE, "label": "fixed", "r": 4}
    few = {**FINITE, "label": "few", "space": {"r": [4, 8]}}
    processes, recorder = Broken(), Recorder()
    folder = compare(config_of(methods=[fixed, few], tune=3), "c", processes, recorder)
    assert processes.folders == ["train--few--0", "train--few--1"]
    assert recorder.lines[1] == (
        "tuning on train, trials: fixed 0 (nothing to search), few 2 (every point of its space)"
    )
    assert processes.runs == ["fixed", "few"]
    assert [record.label for record in folder.tunings()] == ["few"]


def test_a_report_mentions_fewer_trials(config_of: ConfigOf) -> None:
    few = {**FINITE, "space": {"r": [2, 4]}}
    for tune_, said in ((2, " after 2 trials of"), (3, " after up to 3 trials of")):
        output = f"{config_of().output}-{tune_}"
        config = config_of(methods=[few], seeds=1, budget="1-passes", tune=tune_, output=output)
        assert said in lede(compute_results(carry_out(config)[0]))


def rows_of(folder: Path, labels: str) -> dict[str, Any]:
    """Return a task's options for a file with one row for every letter, its label."""
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
    folder, processes = carry_out(config)
    assert [purpose for purpose, _ in processes.done] == ["trial", "run"]
    (record,) = folder.tunings()
    assert record.trials[0].state == "complete"
    with pytest.raises(
        MethodError, match="train_rows = 41: expected at most 40, the training rows of"
    ):
        make_plan(config_of(methods="lora", options={**data, "train_rows": 41}), "c")


def test_trials_know_the_labels_of_all_training_rows(config_of: ConfigOf, tmp_path: Path) -> None:
    """The only row of a class may be in the share that trials are scored on."""
    for where in range(12):
        labels = "ab" * 20
        labels = f"{labels[:where]}c{labels[where + 1 :]}"
        planned = make_plan(
            config_of(methods="lora", tune=1, options=rows_of(tmp_path, labels)), "c"
        )
        aside = planned.trial_data[planned.record.tasks[0].task].rows
        assert aside["train"] + aside["validation"] == planned.record.tasks[0].rows["train"] == 40


def test_an_error_of_every_trial_is_raised_once(config_of: ConfigOf, tmp_path: Path) -> None:
    data = rows_of(tmp_path, "ab")
    make_plan(config_of(methods="lora", options=data), "c")
    with pytest.raises(TaskError, match=r"tuning_share = 0\.01: trials on ab, .* one side empty"):
        make_plan(config_of(methods="lora", tune=1, tuning_share=0.01, options=data), "c")


def test_another_space_is_another_study(config_of: ConfigOf) -> None:
    """Even after tuning; an older study that did not record its spaces is continued."""

    def command(**space: Any) -> None:
        own = {"method": "lora", "space": space}
        compare(config_of(methods=[own], tune=1), "c", Broken(), Recorder())

    command(r=[4, 8])
    message = r"method lora: space: r = '4, 8', this command '4, 16'"
    with pytest.raises(MethodError, match=message):
        command(r=[4, 16])
    folder = StudyFolder(Path(str(config_of().output)))
    values = json.loads(folder.description.read_text("utf-8"))
    del values["methods"][0]["space"]
    folder.description.write_text(json.dumps(values), encoding="utf-8")
    command(r=[4, 16])
