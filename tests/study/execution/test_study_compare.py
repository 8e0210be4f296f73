"""A study from its configuration to its records: nothing is repeated, no failure stops the rest."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rankwright.errors import MethodError
from rankwright.study.execution.compare import compare
from rankwright.study.execution.processes import Exit, Processes
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.locks import lock_folder
from rankwright.study.records.records import FailureRecord
from rankwright.study.report import render_card, render_html, render_markdown
from rankwright.study.report.results import compute_results
from rankwright.tasks import TaskError
from studies import ConfigOf, InProcess, Recorder, carry_out, plan_only, write_empty_record


def test_two_commands_that_start_together_share_the_runs(config_of: ConfigOf) -> None:
    together = threading.Barrier(2, timeout=60)

    class Machine(Processes):
        """Finishes runs at once, but the first only after the other machine has begun one."""

        def __init__(self) -> None:
            super().__init__(1)
            self.done: list[str] = []

        def run(self, folder: Path) -> Exit:
            self.done.append(folder.name)
            if len(self.done) == 1:
                together.wait()
            write_empty_record(folder)
            return Exit.DONE

    config, machines, recorder = (
        config_of(seeds=4),
        [Machine(), Machine()],
        [Recorder(), Recorder()],
    )
    with ThreadPoolExecutor(2) as pool:
        parts = zip(machines, recorder, strict=True)
        for end in [pool.submit(compare, config, "c", machine, ear) for machine, ear in parts]:
            end.result()
    names = [f"train--{label}--{seed}" for label in ("full", "lora") for seed in range(4)]
    assert sorted(machines[0].done + machines[1].done) == names
    assert [sorted(ear.finished_runs) for ear in recorder] == [names, names]


def test_a_run_that_failed_on_another_machine_is_not_tried_again(config_of: ConfigOf) -> None:
    class Slow(Processes):
        """During its first run, another machine fails in the second."""

        def __init__(self) -> None:
            super().__init__(1)
            self.done: list[str] = []

        def run(self, folder: Path) -> Exit:
            self.done.append(folder.name)
            failure = FailureRecord(task="train", label="full", seed=0, attempts=2, error="NaN")
            failure.save(StudyFolder(folder.parents[1]).failure("train--full--0"))
            write_empty_record(folder)
            return Exit.DONE

    config, slow, recorder = config_of(), Slow(), Recorder()
    failure = FailureRecord(task="train", label="full", seed=0, attempts=1, error="of yesterday")
    failure.save(StudyFolder(Path(str(config.output))).failure("train--full--0"))
    compare(config, "c", slow, recorder)
    assert slow.done == ["train--lora--0"]
    assert recorder.failures == {"train--full--0": "NaN"}
    compare(config, "c", slow, recorder)  # the next command tries it again
    assert slow.done == ["train--lora--0", "train--full--0"]


def test_a_deleted_record_is_made_again(config_of: ConfigOf) -> None:
    config = config_of(methods="lora")
    folder, _ = carry_out(config)
    (record,) = folder.records()
    folder.record(record.name).write_text("{}", encoding="utf-8")
    with pytest.raises(MethodError, match="Delete it to have it made again"):
        folder.records()
    folder.record(record.name).unlink()
    folder, processes = carry_out(config)
    assert [name for _, name in processes.done] == [record.name]
    assert not folder.failures()
    assert folder.records()[0].after == record.after


def test_finished_runs_are_not_repeated(config_of: ConfigOf) -> None:
    carry_out(config_of(methods="lora"))
    folder, processes = carry_out(config_of(methods="lora"))
    assert processes.done == []
    folder, processes = carry_out(
        config_of(methods="head_only,lora", seeds=[2, 0], baseline="lora")
    )
    assert [name for _, name in processes.done] == [
        "train--head_only--2", "train--lora--2", "train--head_only--0",
    ]  # fmt: skip
    assert len(folder.records()) == 4
    assert folder.study.baseline == "lora"


def test_a_command_that_waits_for_another_can_be_stopped(config_of: ConfigOf) -> None:
    config = config_of(methods="lora")
    with lock_folder(Path(str(config.output))):
        plan_only(config)
    assert not (Path(str(config.output)) / "study.json").exists()


def test_reported_rows_among_the_training_rows_are_announced(
    config_of: ConfigOf, rows_file: Path, tmp_path: Path
) -> None:
    """At the start and in the report; a study that recorded no notices is continued."""
    mine = tmp_path / "mine.jsonl"
    mine.write_text("\n".join(rows_file.read_text("utf-8").splitlines()[:4]), encoding="utf-8")
    options = {"data": str(rows_file), "validation_data": str(mine)}
    options |= {"text_column": "sentence", "label_column": "topic"}
    config = config_of(methods="lora", task=[{"label": "mine", **options}], budget="1-passes")
    said = "4 of the 4 validation rows have the input of a training row"
    recorder = Recorder()
    folder = compare(config, "c", InProcess(), recorder)
    assert recorder.lines[:2] == [
        "mine: labels of the 60 training rows: high 35, low 25",
        f"mine: {said}",
    ]
    found = compute_results(folder)
    for text in (render_markdown(found), render_html(found), render_card(found)[1]):
        assert f" {said}." in text
    values = json.loads(folder.description.read_text("utf-8"))
    del values["tasks"][0]["notices"]  # of a study that did not note them
    folder.description.write_text(json.dumps(values), encoding="utf-8")
    assert carry_out(config)[1].done == []


@pytest.mark.parametrize("tune", [0, 1])
def test_data_that_changes_while_a_study_runs_fails_later_runs(
    config_of: ConfigOf, rows_file: Path, tmp_path: Path, tune: int
) -> None:
    """Runs and trials that begin afterwards fail; the study continues with the original rows."""
    data = tmp_path / "rows.jsonl"
    rows = rows_file.read_text("utf-8")
    more = [{"sentence": f"w{number} w1", "topic": "low"} for number in range(20)]

    class Meanwhile(InProcess):
        """Changes the data before its first process reads it."""

        def run(self, folder: Path) -> Exit:
            data.write_text(rows + "\n".join(map(json.dumps, more)), encoding="utf-8")
            return super().run(folder)

    data.write_text(rows, encoding="utf-8")
    config = config_of(methods="lora", tune=tune, budget="2-passes", options={"data": str(data)})
    (failure,) = compare(config, "c", Meanwhile(), Recorder()).failures()
    assert re.search(
        "task rows: the train and validation rows are not those of the study's plan; put them back",
        failure.error,
    )
    assert failure.error.startswith("all trials of its tuning failed") == (tune > 0)
    data.write_text(rows, encoding="utf-8")
    folder, _ = carry_out(config)
    assert not folder.failures()
    assert len(folder.records()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"max_length": 4096}}, "max_length=4096: the tokenizer's model takes at most"),
        ({"model": "no/where"}, "no/where"),
    ],
)
def test_an_error_of_every_run_is_raised_once(
    config_of: ConfigOf, changes: Any, message: str
) -> None:
    processes = InProcess()
    with pytest.raises((MethodError, TaskError), match=message):
        compare(config_of(**changes), "c", processes, Recorder())
    assert processes.done == []


def test_a_run_that_fails_does_not_stop_the_others(config_of: ConfigOf) -> None:
    bad = {"method": "lora", "label": "wild", "learning_rate": 1e30, "max_grad_norm": 0.0}
    config, recorder = config_of(methods=[bad, "lora"]), Recorder()
    for attempts in (1, 2):
        folder = compare(config, "c", InProcess(), recorder)
        (failure,) = folder.failures()
        assert (failure.label, failure.attempts) == ("wild", attempts)
        assert "at step" in failure.error
        assert [record.label for record in folder.records()] == ["lora"]
    assert recorder.failures == {"train--wild--0": failure.error}
