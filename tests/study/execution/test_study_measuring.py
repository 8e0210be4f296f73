"""Measured steps: dry runs, and budgets in seconds."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from rankwright.errors import MethodError, TrainingError
from rankwright.study.errors import StoppedError
from rankwright.study.execution import measured_run
from rankwright.study.execution.compare import compare, dry_run
from rankwright.study.execution.forgetting import HeldLoss
from rankwright.study.execution.processes import Exit, Processes
from rankwright.study.execution.protocol import ERROR, LOG, OUTCOME, REQUEST, ErrorReport, Request
from rankwright.study.records.records import Measurement, StudyRecord
from rankwright.study.report.results import compute_results
from rankwright.study.report.words import lede
from rankwright.tasks.prepared.base import ForwardTask
from rankwright.training import Trainer
from rankwright.training.cost import Cost
from rankwright.training.memory import PeakMemory
from resident import MIB, take, tells_steps_apart
from studies import IMPORT_SECONDS, ConfigOf, InProcess, Recorder, carry_out, write_empty_record
from task_files import task_file


def test_two_commands_that_start_together_measure_once(config_of: ConfigOf) -> None:
    class Machine(Processes):
        """Takes a second to measure, and reports a speed of its own."""

        def __init__(self, seconds_per_pass: float) -> None:
            super().__init__(1)
            self.seconds_per_pass = seconds_per_pass
            self.done: list[str] = []

        def run(self, folder: Path) -> Exit:
            request = Request.load(folder / REQUEST)
            self.done.append(request.purpose)
            if request.purpose == "run":
                write_empty_record(folder)
                return Exit.DONE
            time.sleep(1)
            Measurement(
                task=request.task, label=request.label, seconds_per_pass=self.seconds_per_pass,
                setup_seconds=1.0, evaluation_seconds=1.0, peak_memory_bytes=1,
                trainable_parameters=1,
            ).save(folder / OUTCOME)  # fmt: skip
            return Exit.DONE

    config = config_of(methods="lora", budget="1-seconds", seeds=2)
    machines = [Machine(0.1), Machine(0.05)]
    with ThreadPoolExecutor(2) as pool:
        for end in [pool.submit(compare, config, "c", machine, Recorder()) for machine in machines]:
            end.result()
    assert sorted(machines[0].done + machines[1].done) == ["measure", "run", "run"]
    record = StudyRecord.load(Path(str(config.output)) / "study.json")
    (measured,) = record.measurements
    assert {run.steps for run in record.runs} == {round(1 / measured.seconds_per_pass)}


def test_the_log_of_a_measurement_that_died_is_kept(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ends(Processes):
        def __init__(self, end: Exit) -> None:
            super().__init__(1)
            self.end = end

        def run(self, folder: Path) -> Exit:
            (folder / LOG).write_text("out of memory\n", encoding="utf-8")
            ErrorReport(message="the loss is NaN").save(folder / ERROR)
            return self.end

    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    config = config_of(methods="lora", budget="1-seconds")
    for end, message in ((Exit.FAILED, "the loss is NaN"), (Exit.STOPPED, "^$")):
        with pytest.raises((TrainingError, StoppedError), match=message):
            compare(config, "c", Ends(end), Recorder())
        assert not list(place.iterdir())
    with pytest.raises(TrainingError, match="died 3 times") as raised:
        compare(config, "c", Ends(Exit.DIED), Recorder())
    (folder,) = place.iterdir()
    assert f"its log is {folder / LOG}: out of memory" in str(raised.value)


def test_a_dry_run_measures_and_keeps_nothing(config_of: ConfigOf, tmp_path: Path) -> None:
    config = config_of(methods="lora,bidora", seeds=3, budget="2000-passes")
    record = dry_run(config, "c", InProcess(), Recorder()).record
    assert not (tmp_path / "study").exists()
    assert {run.label: run.steps for run in record.runs} == {"lora": 2000, "bidora": 1000}
    assert len(record.runs) == 6
    for measured in record.measurements:
        assert 0 < measured.seconds_per_pass < 60
        assert measured.setup_seconds > IMPORT_SECONDS
        assert measured.evaluation_seconds > 0
        assert measured.curve_seconds > 0
        assert measured.held_seconds == 0
        assert measured.peak_memory_bytes > 50e6
        assert measured.trainable_parameters > 0


@tells_steps_apart
@pytest.mark.skipif(torch.cuda.is_available(), reason="takes memory of the CPU")
@pytest.mark.parametrize(("owner", "name"), [(ForwardTask, "predict"), (HeldLoss, "compute")])
def test_a_dry_run_includes_the_memory_of_evaluations(
    config_of: ConfigOf, tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch,
    owner: type, name: str,
) -> None:  # fmt: skip
    def evaluate(*args: Any, **options: Any) -> Any:
        take(500)
        return plain(*args, **options)

    def cost(trainer: Trainer) -> Cost:
        costs.append(of_steps(trainer))
        return costs[-1]

    plain, of_steps, costs = getattr(owner, name), Trainer.cost, list[Cost]()
    monkeypatch.setattr(owner, name, evaluate)
    monkeypatch.setattr(Trainer, "cost", cost)
    task = task_file("multiple_choice", tmp_path)
    config = config_of(methods="lora", model=str(llama_folder), task=task)
    PeakMemory(torch.device("cpu")).start_step()  # what tests before took is forgotten
    (measured,) = dry_run(config, "c", InProcess(), Recorder()).record.measurements
    assert measured.peak_memory_bytes > costs[-1].peak_memory_bytes + 400 * MIB


@pytest.mark.parametrize(("eval_rows", "rows"), [(None, 10), (6, 6)])
def test_a_dry_run_evaluates_one_whole_batch(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch, eval_rows: int | None, rows: int
) -> None:
    def predict(*args: Any, limit: int, **options: Any) -> Any:
        limits.append(limit)
        return plain(*args, limit=limit, **options)

    plain, limits = ForwardTask.predict, list[int]()
    monkeypatch.setattr(ForwardTask, "predict", predict)
    monkeypatch.setattr(measured_run, "MEASURED_ROWS", 4)
    options = {"eval_batch_size": 10, "eval_rows": eval_rows}
    dry_run(config_of(methods="lora", options=options), "c", InProcess(), Recorder())
    assert limits == [rows]


def test_a_dry_run_measures_generation_a_forward_pass_and_the_held_text(
    config_of: ConfigOf, tmp_path: Path, llama_folder: Path
) -> None:
    task = task_file("causal_lm", tmp_path)
    config = config_of(methods="lora", model=str(llama_folder), task=task, budget="50-passes")
    (measured,) = dry_run(config, "c", InProcess(), Recorder()).record.measurements
    assert 0 < measured.curve_seconds < measured.evaluation_seconds
    assert measured.held_seconds > 0


def two_tasks(rows_file: Path, budget: str) -> list[dict[str, Any]]:
    """Return the same rows as two tasks, the second with a budget of its own."""
    columns = {"text_column": "sentence", "label_column": "topic"}
    rows = {"data": str(rows_file), **columns, "validation_share": 0.3}
    return [{**rows, "label": "few"}, {**rows, "label": "more", "budget": budget}]


def test_a_task_with_a_budget_of_its_own(config_of: ConfigOf, rows_file: Path) -> None:
    config = config_of(methods="lora", task=two_tasks(rows_file, "5-passes"), budget="2-passes")
    folder, _ = carry_out(config)
    assert {run.task: run.cost.steps for run in folder.records()} == {"few": 2, "more": 5}
    assert folder.study.budgets == {"few": "2-passes", "more": "5-passes"}
    assert "2 passes (few) or 5 passes (more) a run" in lede(compute_results(folder))
    other = config_of(methods="lora", task=two_tasks(rows_file, "6-passes"), budget="2-passes")
    with pytest.raises(MethodError, match=r"more: budget = '5-passes', this command '6-passes'"):
        carry_out(other)


def test_a_budget_in_seconds_is_measured_once_and_kept(
    config_of: ConfigOf, rows_file: Path
) -> None:
    class Steady(InProcess):
        """Reports 50 ms for every pass."""

        def run(self, folder: Path) -> Exit:
            end = super().run(folder)
            if self.done[-1][0] == "measure":
                measured = Measurement.load(folder / OUTCOME)
                assert measured.seconds_per_pass > 0
                dataclasses.replace(measured, seconds_per_pass=0.05).save(folder / OUTCOME)
            return end

    tasks = two_tasks(rows_file, "0.2-seconds")
    config, processes = config_of(methods="lora", task=tasks, budget="2-passes"), Steady()
    folder = compare(config, "c", processes, Recorder())
    assert [purpose for purpose, _ in processes.done] == ["measure", "run", "run"]
    (measured,), runs = folder.study.measurements, folder.study.runs
    assert (measured.task, measured.seconds_per_pass) == ("more", 0.05)
    assert {run.task: run.steps for run in runs} == {"few": 2, "more": 4}
    _, processes = carry_out(config)
    assert processes.done == []
