"""A study from its description to its records; nothing is done twice, nothing is mixed up."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rankwright.errors import MethodError, TrainingError
from rankwright.job import RunFolder, train
from rankwright.job.head import Head
from rankwright.study.errors import StoppedError
from rankwright.study.execution import measured_run, reported_run
from rankwright.study.execution.compare import compare, dry_run
from rankwright.study.execution.forgetting import HeldLoss
from rankwright.study.execution.observe import NoLastEvaluation
from rankwright.study.execution.processes import Exit, Processes
from rankwright.study.execution.protocol import ERROR, LOG, OUTCOME, REQUEST, ErrorReport, Request
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.same_study import check_same
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.locks import lock_folder
from rankwright.study.records.records import CurvePoint, FailureRecord, Measurement, StudyRecord
from rankwright.study.report import render_card, render_markdown
from rankwright.study.report import render_html as page
from rankwright.study.report.results import compute_results
from rankwright.study.report.words import lede
from rankwright.study.statistics import Unit
from rankwright.tasks import METRICS, PreparedTask, TaskError
from rankwright.training import Trainer
from rankwright.training.cost import Cost
from rankwright.training.memory import PeakMemory
from resident import MIB, take, tells_steps_apart
from studies import IMPORT_SECONDS, Heard, InProcess, carried_out

Study = Callable[..., StudyConfig]


def test_every_run_is_within_the_budget_and_on_record(config_of: Study) -> None:
    folder, processes = carried_out(config_of(methods="lora,bidora", seeds=2))
    names = [f"train--{label}--{seed}" for seed in (0, 1) for label in ("lora", "bidora")]
    assert [name for _, name in processes.done] == names
    records = {record.name: record for record in folder.records()}
    assert list(records) == names
    for record in records.values():
        planned = next(run for run in folder.study.runs if run.name == record.name)
        assert record.cost.passes <= planned.passes <= 8
        assert record.cost.steps == planned.steps
        assert record.cost.training_seconds > 0
        assert record.cost.total_seconds > record.cost.training_seconds + IMPORT_SECONDS
        assert record.cost.stored_parameters > 0
        assert record.data_sha256 == folder.study.tasks[0].data_sha256
        assert (folder.run(record.name) / "adapter" / "adapter_model.safetensors").exists()
        assert not (folder.run(record.name) / "checkpoints").exists()
    assert records[names[0]].cost.steps == 8
    assert records[names[1]].cost.steps == 4  # three passes a search step, one a retrain step
    # the same seed: the same head and the same rows before training, whatever the method
    assert records[names[0]].before == records[names[1]].before


def test_the_figures_are_those_of_the_raw_files(config_of: Study) -> None:
    folder, _ = carried_out(config_of(methods="lora"))
    (record,) = folder.records()
    examples = folder.examples(record)
    assert record.constant is not None
    assert record.constant.answer in {"low", "mid", "high"}
    shares = [examples.labels.count(label) / len(examples.labels) for label in examples.labels]
    assert record.constant.metrics["accuracy"] in shares
    assert record.alike == (len(set(examples.predictions)) == 1)
    assert record.head == Head.load(folder.run(record.name) / "head.json")
    assert record.head.model_kwargs["id2label"] == {0: "high", 1: "low"}
    readme = (folder.run(record.name) / "adapter" / "README.md").read_text("utf-8")
    assert f"| {record.after['accuracy']:.4f} |" in readme
    assert len(examples.ids) == folder.study.tasks[0].rows["validation"] == len(set(examples.ids))
    assert all(place.startswith("train.jsonl:") for place in examples.ids)
    assert examples.compute() == record.value
    assert examples.scores.mean() == pytest.approx(record.after["accuracy"])
    steps = [point.step for point in record.curve]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 8)
    assert record.curve[0].metric == record.before["accuracy"]
    assert record.curve[-1].metric == record.value
    assert [p.passes for p in record.curve] == steps
    assert all(point.loss is not None for point in record.curve[1:])


def test_every_method_and_seed_reports_on_the_same_drawn_rows(config_of: Study) -> None:
    folder, _ = carried_out(config_of(seeds=2, budget="2-passes", options={"eval_rows": 7}))
    (task,) = folder.study.tasks
    notice = (
        f"7 of the {task.rows['validation']} validation rows are reported on, "
        "drawn by class with seed 0"
    )
    assert notice in task.notices
    outcomes = [folder.examples(record) for record in folder.records()]
    assert len(outcomes) == 4
    assert {outcome.ids for outcome in outcomes} == {outcomes[0].ids}
    assert {outcome.labels for outcome in outcomes} == {outcomes[0].labels}
    assert len(set(outcomes[0].ids)) == 7
    rows = Path(folder.records()[0].options["data"]).read_text("utf-8").splitlines()
    for place, label in zip(outcomes[0].ids, outcomes[0].labels, strict=True):
        row = json.loads(rows[int(place.partition(":")[2]) - 1])
        assert row["topic"] == ("high", "low")[label]
    for record in folder.records():  # the curve's figures are of the same rows
        assert record.curve[-1].metric == record.value


def test_the_last_point_of_a_curve_is_the_reported_figure(
    config_of: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the Trainer does not evaluate again, and which it would find the same."""
    evaluations: list[int] = []
    evaluate = Trainer.evaluate

    def counted(self: Trainer, *args: Any, **named: Any) -> Any:
        evaluations.append(self.state.global_step)
        return evaluate(self, *args, **named)

    def curve(output: str, **changes: Any) -> tuple[CurvePoint, ...]:
        values = {"methods": "bidora", "output": str(tmp_path / output), **changes}
        folder, _ = carried_out(config_of(**values))
        (record,) = folder.records()
        assert record.curve[-1].metric == record.value
        return record.curve

    monkeypatch.setattr(Trainer, "evaluate", counted)
    found = curve("left-out")
    assert evaluations == [1, 2, 3]
    uneven = curve("uneven", methods="lora", budget="7-passes", curve_points=2)
    assert [point.step for point in uneven if point.metric is not None] == [0, 4, 7]
    monkeypatch.setattr(NoLastEvaluation, "on_step_end", lambda *args, **named: None)
    evaluations.clear()
    assert curve("all") == found
    assert evaluations == [1, 2, 3, 4]


def test_a_run_of_a_study_is_the_run_that_train_makes(config_of: Study, tmp_path: Path) -> None:
    """Evaluating in the course of it changes nothing, and its description repeats it."""
    folder, _ = carried_out(config_of(methods="bidora"))
    (record,) = folder.records()
    there = RunFolder.read(folder.run(record.name))
    config = {**there.config.as_dict(), "output": str(tmp_path / "alone"), "trainer": {}}
    alone, result = train(type(there.config)(**config), there.method)
    name = "adapter/adapter_model.safetensors"
    assert (alone.path / name).read_bytes() == (there.path / name).read_bytes()
    assert result.after == record.after


def test_a_run_of_a_study_leaves_its_log_and_its_command(config_of: Study, tmp_path: Path) -> None:
    folder, _ = carried_out(config_of(methods="lora", output=str(tmp_path / "two words")))
    (record,) = folder.records()
    run = RunFolder.read(folder.run(record.name))
    assert {entry["step"] for entry in run.logged() if "loss" in entry} == set(range(1, 9))
    assert shlex.split(record.command) == [
        "rankwright", "train", "--config", str(run.description), "--output", "FOLDER",
    ]  # fmt: skip


def test_two_names_of_one_method_give_the_same(config_of: Study) -> None:
    methods = [{"method": "lora", "label": "a"}, {"method": "lora", "label": "b"}]
    folder, _ = carried_out(config_of(methods=methods, seeds=2))
    for a, b in zip(folder.records()[::2], folder.records()[1::2], strict=True):
        assert a.after == b.after
        assert folder.examples(a).predictions == folder.examples(b).predictions
    (verdict,) = [
        m.verdict for m in compute_results(folder).tasks[0].methods if m.verdict is not None
    ]
    assert verdict.words(Unit()) == "b − a = 0 on every one of 2 seeds: not distinguishable."


def test_two_commands_that_start_together_share_the_runs(config_of: Study) -> None:
    together = threading.Barrier(2, timeout=60)

    class Machine(Processes):
        """Has runs on record at once, but the first not before the other has begun one, too."""

        def __init__(self) -> None:
            super().__init__(1)
            self.done: list[str] = []

        def run(self, folder: Path) -> Exit:
            self.done.append(folder.name)
            if len(self.done) == 1:
                together.wait()
            recorded(folder)
            return Exit.DONE

    config, machines, heard = config_of(seeds=4), [Machine(), Machine()], [Heard(), Heard()]
    with ThreadPoolExecutor(2) as pool:
        parts = zip(machines, heard, strict=True)
        for end in [pool.submit(compare, config, "c", machine, ear) for machine, ear in parts]:
            end.result()
    names = [f"train--{label}--{seed}" for label in ("full", "lora") for seed in range(4)]
    assert sorted(machines[0].done + machines[1].done) == names
    assert [sorted(ear.finished_runs) for ear in heard] == [names, names]


def recorded(folder: Path) -> None:
    """A run is on record, whatever is in it."""
    record = StudyFolder(Path(Request.load(folder / REQUEST).study)).record(folder.name)
    record.parent.mkdir(exist_ok=True)
    record.touch()


def test_two_commands_that_start_together_measure_once(config_of: Study) -> None:
    class Machine(Processes):
        """Takes a second to measure, and finds a speed of its own."""

        def __init__(self, seconds_per_pass: float) -> None:
            super().__init__(1)
            self.seconds_per_pass = seconds_per_pass
            self.done: list[str] = []

        def run(self, folder: Path) -> Exit:
            request = Request.load(folder / REQUEST)
            self.done.append(request.purpose)
            if request.purpose == "run":
                recorded(folder)
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
        for end in [pool.submit(compare, config, "c", machine, Heard()) for machine in machines]:
            end.result()
    assert sorted(machines[0].done + machines[1].done) == ["measure", "run", "run"]
    record = StudyRecord.load(Path(str(config.output)) / "study.json")
    (measured,) = record.measurements
    assert {run.steps for run in record.runs} == {round(1 / measured.seconds_per_pass)}


def test_a_run_that_fails_on_another_machine_is_not_tried_here_too(config_of: Study) -> None:
    class Slow(Processes):
        """While it carries the first run out, another machine fails in the second."""

        def __init__(self) -> None:
            super().__init__(1)
            self.done: list[str] = []

        def run(self, folder: Path) -> Exit:
            self.done.append(folder.name)
            failure = FailureRecord(task="train", label="full", seed=0, attempts=2, error="NaN")
            failure.save(StudyFolder(folder.parents[1]).failure("train--full--0"))
            recorded(folder)
            return Exit.DONE

    config, slow, heard = config_of(), Slow(), Heard()
    failure = FailureRecord(task="train", label="full", seed=0, attempts=1, error="of yesterday")
    failure.save(StudyFolder(Path(str(config.output))).failure("train--full--0"))
    compare(config, "c", slow, heard)
    assert slow.done == ["train--lora--0"]
    assert heard.failures == {"train--full--0": "NaN"}
    compare(config, "c", slow, heard)  # the next command tries it again
    assert slow.done == ["train--lora--0", "train--full--0"]


def test_of_a_measurement_that_died_the_log_stays(
    config_of: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            compare(config, "c", Ends(end), Heard())
        assert not list(place.iterdir())
    with pytest.raises(TrainingError, match="died 3 times") as raised:
        compare(config, "c", Ends(Exit.DIED), Heard())
    (folder,) = place.iterdir()
    assert f"its log is {folder / LOG}: out of memory" in str(raised.value)


def test_a_record_that_is_deleted_is_made_again(config_of: Study) -> None:
    config = config_of(methods="lora")
    folder, _ = carried_out(config)
    (record,) = folder.records()
    folder.record(record.name).write_text("{}", encoding="utf-8")
    with pytest.raises(MethodError, match="Delete it to have it made again"):
        folder.records()
    folder.record(record.name).unlink()
    folder, processes = carried_out(config)
    assert [name for _, name in processes.done] == [record.name]
    assert not folder.failures()
    assert folder.records()[0].after == record.after


def test_what_is_finished_is_not_done_again(config_of: Study) -> None:
    carried_out(config_of(methods="lora"))
    folder, processes = carried_out(config_of(methods="lora"))
    assert processes.done == []
    folder, processes = carried_out(
        config_of(methods="head_only,lora", seeds=[2, 0], baseline="lora")
    )
    assert [name for _, name in processes.done] == [
        "train--head_only--2", "train--lora--2", "train--head_only--0",
    ]  # fmt: skip
    assert len(folder.records()) == 4
    assert folder.study.baseline == "lora"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "9-passes"}, "budget = '8-passes', this command '9-passes'"),
        ({"tune": 1}, "trials = 0, this command 1"),
        ({"methods": [{"method": "lora", "r": 4}]}, "method lora: hyperparameters: r = 8"),
        ({"curve_points": 3}, "curve_points = 8, this command 3"),
        ({"held_text": __file__}, "held_text = None, this command '[0-9a-f]{64}'"),
        ({"options": {"batch_size": 8}}, "task train: options: batch_size = 4, this command 8"),
    ],
)
def test_another_study_is_not_mixed_in(config_of: Study, changes: Any, message: str) -> None:
    config = config_of(methods="lora")
    compare_nothing(config)
    with pytest.raises(MethodError, match=message):
        carried_out(config_of(**{"methods": "lora", **changes}))


def test_a_field_that_a_study_does_not_know_yet_is_none() -> None:
    check_same("task", {"rows": [1], "of": {"a": 1}}, {"rows": (1,), "of": {"a": 1}, "new": None})
    with pytest.raises(MethodError, match="task: of: a = 1, this command None"):
        check_same("task", {"of": {"a": 1}}, {"of": {}})


def test_what_a_method_is_compared_with_may_change(config_of: Study) -> None:
    compare_nothing(config_of(methods="lora,dora"))
    changed = config_of(methods=["lora", {"method": "dora", "against": "lora"}], baseline="dora")
    compare_nothing(changed)
    record = StudyRecord.load(Path(str(changed.output)) / "study.json")
    assert record.against == {"dora": "lora", "lora": "dora"}


def compare_nothing(config: StudyConfig) -> None:
    """Plan the study, and stop before its first run."""
    processes = InProcess()
    processes.stop()
    with pytest.raises(Exception, match=r"^$"):
        compare(config, "c", processes, Heard())


def test_what_is_said_of_a_method_may_change(config_of: Study) -> None:
    config = config_of(methods="lora")
    compare_nothing(config)
    folder = StudyFolder(Path(str(config.output)))
    values = json.loads(folder.description.read_text("utf-8"))
    values["methods"][0] |= {"summary": "in other words", "reference": "in a journal by now"}
    folder.description.write_text(json.dumps(values), encoding="utf-8")
    compare_nothing(config)
    assert StudyRecord.load(folder.description).methods[0].summary != "in other words"


def test_a_command_that_waits_for_another_can_be_stopped(config_of: Study) -> None:
    config = config_of(methods="lora")
    with lock_folder(Path(str(config.output))):
        compare_nothing(config)
    assert not (Path(str(config.output)) / "study.json").exists()


@pytest.mark.parametrize(
    ("changed", "split"), [("data", "train|validation"), ("held_out_data", "held_out")]
)
def test_data_that_has_changed_is_noticed(
    config_of: Study, rows_file: Path, tmp_path: Path, changed: str, split: str
) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text(rows_file.read_text("utf-8"), encoding="utf-8")
    options = {"data": str(rows_file), "held_out_data": str(rows_file), changed: str(data)}
    compare_nothing(config_of(options=options))
    with data.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"sentence": "w1 w2 w3", "topic": "low"}) + "\n")
    with pytest.raises(MethodError, match=f"task train: data_sha256: ({split}) "):
        carried_out(config_of(options=options))


def test_reported_rows_that_are_trained_on_are_told(
    config_of: Study, rows_file: Path, tmp_path: Path
) -> None:
    """When the study starts, and in the report; they keep no study from going on."""
    mine = tmp_path / "mine.jsonl"
    mine.write_text("\n".join(rows_file.read_text("utf-8").splitlines()[:4]), encoding="utf-8")
    options = {"data": str(rows_file), "validation_data": str(mine)}
    options |= {"text_column": "sentence", "label_column": "topic"}
    config = config_of(methods="lora", task=[{"label": "mine", **options}], budget="1-passes")
    said = "4 of the 4 validation rows have the input of a training row"
    heard = Heard()
    folder = compare(config, "c", InProcess(), heard)
    assert heard.said[:2] == [
        "mine: labels of the 60 training rows: high 35, low 25",
        f"mine: {said}",
    ]
    found = compute_results(folder)
    for text in (render_markdown(found), page(found), render_card(found)[1]):
        assert f" {said}." in text
    values = json.loads(folder.description.read_text("utf-8"))
    del values["tasks"][0]["notices"]  # of a study that did not note them
    folder.description.write_text(json.dumps(values), encoding="utf-8")
    assert carried_out(config)[1].done == []


@pytest.mark.parametrize("tune", [0, 1])
def test_data_that_changes_while_a_study_runs_is_noticed(
    config_of: Study, rows_file: Path, tmp_path: Path, tune: int
) -> None:
    """Runs and trials that begin afterwards fail; with the rows as they were the study goes on."""
    data = tmp_path / "rows.jsonl"
    rows = rows_file.read_text("utf-8")
    more = [{"sentence": f"w{number} w1", "topic": "low"} for number in range(20)]

    class Meanwhile(InProcess):
        """The data has changed before its first process reads it."""

        def run(self, folder: Path) -> Exit:
            data.write_text(rows + "\n".join(map(json.dumps, more)), encoding="utf-8")
            return super().run(folder)

    data.write_text(rows, encoding="utf-8")
    config = config_of(methods="lora", tune=tune, budget="2-passes", options={"data": str(data)})
    (failure,) = compare(config, "c", Meanwhile(), Heard()).failures()
    assert re.search(
        "task rows: the train and validation rows are not those of the study's plan; put them back",
        failure.error,
    )
    assert failure.error.startswith("all trials of its tuning failed") == (tune > 0)
    data.write_text(rows, encoding="utf-8")
    folder, _ = carried_out(config)
    assert not folder.failures()
    assert len(folder.records()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"max_length": 4096}}, "max_length=4096: the tokenizer's model takes at most"),
        ({"model": "no/where"}, "no/where"),
    ],
)
def test_what_every_run_would_fail_with_is_said_once(
    config_of: Study, changes: Any, message: str
) -> None:
    processes = InProcess()
    with pytest.raises((MethodError, TaskError), match=message):
        compare(config_of(**changes), "c", processes, Heard())
    assert processes.done == []


def test_a_run_that_fails_does_not_stop_the_others(config_of: Study) -> None:
    bad = {"method": "lora", "label": "wild", "learning_rate": 1e30, "max_grad_norm": 0.0}
    config, heard = config_of(methods=[bad, "lora"]), Heard()
    for attempts in (1, 2):
        folder = compare(config, "c", InProcess(), heard)
        (failure,) = folder.failures()
        assert (failure.label, failure.attempts) == ("wild", attempts)
        assert "at step" in failure.error
        assert [record.label for record in folder.records()] == ["lora"]
    assert heard.failures == {"train--wild--0": failure.error}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_whose_metric_is_no_number_is_a_failure(
    config_of: Study, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(reported_run, "score", lambda *_args: {"accuracy": value})
    folder, _ = carried_out(config_of(methods="lora", budget="2-passes"))
    (failure,) = folder.failures()
    assert failure.error.startswith(f"accuracy is {value} on the validation rows after training")
    assert not folder.records()


def test_a_dry_run_measures_and_keeps_nothing(config_of: Study, tmp_path: Path) -> None:
    config = config_of(methods="lora,bidora", seeds=3, budget="2000-passes")
    record = dry_run(config, "c", InProcess(), Heard()).record
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
@pytest.mark.parametrize(("owner", "name"), [(PreparedTask, "predict"), (HeldLoss, "compute")])
def test_a_dry_run_promises_the_memory_of_what_a_run_evaluates(
    config_of: Study, tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch,
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
    (measured,) = dry_run(config, "c", InProcess(), Heard()).record.measurements
    assert measured.peak_memory_bytes > costs[-1].peak_memory_bytes + 400 * MIB


@pytest.mark.parametrize(("eval_rows", "rows"), [(None, 10), (6, 6)])
def test_a_dry_run_evaluates_one_whole_batch(
    config_of: Study, monkeypatch: pytest.MonkeyPatch, eval_rows: int | None, rows: int
) -> None:
    def predict(*args: Any, limit: int, **options: Any) -> Any:
        limits.append(limit)
        return plain(*args, limit=limit, **options)

    plain, limits = PreparedTask.predict, list[int]()
    monkeypatch.setattr(PreparedTask, "predict", predict)
    monkeypatch.setattr(measured_run, "MEASURED_ROWS", 4)
    options = {"eval_batch_size": 10, "eval_rows": eval_rows}
    dry_run(config_of(methods="lora", options=options), "c", InProcess(), Heard())
    assert limits == [rows]


def test_a_dry_run_measures_generation_a_forward_pass_and_the_held_text(
    config_of: Study, tmp_path: Path, llama_folder: Path
) -> None:
    task = task_file("causal_lm", tmp_path)
    config = config_of(methods="lora", model=str(llama_folder), task=task, budget="50-passes")
    (measured,) = dry_run(config, "c", InProcess(), Heard()).record.measurements
    assert 0 < measured.curve_seconds < measured.evaluation_seconds
    assert measured.held_seconds > 0


def two_tasks(rows_file: Path, budget: str) -> list[dict[str, Any]]:
    """The same rows as two tasks, the second with a budget of its own."""
    columns = {"text_column": "sentence", "label_column": "topic"}
    rows = {"data": str(rows_file), **columns, "validation_share": 0.3}
    return [{**rows, "label": "few"}, {**rows, "label": "more", "budget": budget}]


def test_a_task_with_a_budget_of_its_own(config_of: Study, rows_file: Path) -> None:
    config = config_of(methods="lora", task=two_tasks(rows_file, "5-passes"), budget="2-passes")
    folder, _ = carried_out(config)
    assert {run.task: run.cost.steps for run in folder.records()} == {"few": 2, "more": 5}
    assert folder.study.budgets == {"few": "2-passes", "more": "5-passes"}
    assert "2 passes (few) or 5 passes (more) a run" in lede(compute_results(folder))
    other = config_of(methods="lora", task=two_tasks(rows_file, "6-passes"), budget="2-passes")
    with pytest.raises(MethodError, match=r"more: budget = '5-passes', this command '6-passes'"):
        carried_out(other)


def test_a_budget_in_seconds_is_measured_once_and_kept(config_of: Study, rows_file: Path) -> None:
    class Steady(InProcess):
        """On a machine on which a pass takes 50 ms."""

        def run(self, folder: Path) -> Exit:
            end = super().run(folder)
            if self.done[-1][0] == "measure":
                measured = Measurement.load(folder / OUTCOME)
                assert measured.seconds_per_pass > 0
                dataclasses.replace(measured, seconds_per_pass=0.05).save(folder / OUTCOME)
            return end

    tasks = two_tasks(rows_file, "0.2-seconds")
    config, processes = config_of(methods="lora", task=tasks, budget="2-passes"), Steady()
    folder = compare(config, "c", processes, Heard())
    assert [purpose for purpose, _ in processes.done] == ["measure", "run", "run"]
    (measured,), runs = folder.study.measurements, folder.study.runs
    assert (measured.task, measured.seconds_per_pass) == ("more", 0.05)
    assert {run.task: run.steps for run in runs} == {"few": 2, "more": 4}
    _, processes = carried_out(config)
    assert processes.done == []


KINDS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "sequence_classification": (
        {"label_column": "y"},
        [{"text": f"w{i} w{i + 1}", "y": "ab"[i % 2]} for i in range(20)],
    ),
    "regression": (
        {"label_column": "y"},
        [{"text": f"w{i} w{i + 1}", "y": i / 7} for i in range(20)],
    ),
    "multi_label": (
        {"label_column": "y"},
        [{"text": f"w{i} w{i + 1}", "y": ["a", "b"][: i % 3]} for i in range(20)],
    ),
    "token_classification": (
        {"tokens_column": "t", "tags_column": "y"},
        [{"t": [f"w{i}", "w1"], "y": ["B-x", "I-x" if i % 2 else "O"]} for i in range(20)],
    ),
    "causal_lm": (
        {
            "prompt_column": "p",
            "completion_column": "c",
            "metrics": ["bleu", "loss_per_token"],
            "max_new_tokens": 4,
        },
        [{"p": f"w{i}", "c": f"w{i + 1} w{i + 2}"} for i in range(20)],
    ),
    "multiple_choice": (
        {},
        [{"question": f"w{i}", "choices": ["w1", f"w{i} w2"], "label": i % 2} for i in range(20)],
    ),
}


def task_file(kind: str, folder: Path) -> str:
    """A task of that kind on twenty rows."""
    options, rows = KINDS[kind]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = folder / "words.yaml"
    values = {"kind": kind, "train": data.name, "validation_share": 0.4, **options}
    task.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(task)


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_row_by_row_of_every_kind_of_task(
    kind: str, config_of: Study, tmp_path: Path, bert_folder: Path, llama_folder: Path
) -> None:
    causal = kind in ("causal_lm", "multiple_choice")
    config = config_of(
        methods="lora",
        budget="2-passes",
        model=str(llama_folder if causal else bert_folder),
        task=task_file(kind, tmp_path),
    )
    folder, _ = carried_out(config)
    (record,) = folder.records()
    examples = folder.examples(record)
    assert (record.task, record.kind, record.metric) == ("words", kind, examples.metric)
    assert examples.compute() == pytest.approx(record.value, abs=1e-12)
    each = METRICS[record.metric].score_row
    pairs = zip(examples.predictions, examples.labels, strict=True)
    assert examples.scores.tolist() == pytest.approx([each(*pair) for pair in pairs])
    assert record.curve[-1].metric is not None
    assert (record.forgetting is not None) == causal


def test_forgetting_is_measured_on_the_text_that_was_named(
    config_of: Study, tmp_path: Path, llama_folder: Path
) -> None:
    text = tmp_path / "held.txt"
    text.write_text("w9 w8 w7\n\nw5 w4", encoding="utf-8")
    config = config_of(
        methods="lora,head_only", model=str(llama_folder), held_text=str(text),
        task=task_file("multiple_choice", tmp_path),
    )  # fmt: skip
    folder, _ = carried_out(config)
    lora, head = (record.forgetting for record in folder.records())
    assert lora is not None
    assert head is not None
    # EOS is scored, too; the first word is not: this tokenizer puts nothing before it.
    assert (lora.text, lora.tokens) == ("held.txt", 2 + 1 + 2)
    assert lora.before == head.before
    assert lora.after != lora.before
    assert len(lora.sha256) == 64
