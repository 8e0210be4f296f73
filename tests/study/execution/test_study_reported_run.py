"""Reported runs: their records, learning curves, examples and folders."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

from rankwright.job import RunFolder, train
from rankwright.job.head import Head
from rankwright.study.execution import reported_run
from rankwright.study.execution.observe import NoLastEvaluation
from rankwright.study.records.records import CurvePoint
from rankwright.study.report.results import compute_results
from rankwright.study.statistics import Unit
from rankwright.tasks import METRICS
from rankwright.training import Trainer
from studies import IMPORT_SECONDS, ConfigOf, carry_out
from task_files import KINDS, task_file


def test_every_run_is_within_the_budget_and_recorded(config_of: ConfigOf) -> None:
    folder, processes = carry_out(config_of(methods="lora,bidora", seeds=2))
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


def test_records_match_the_raw_files(config_of: ConfigOf) -> None:
    folder, _ = carry_out(config_of(methods="lora"))
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


def test_every_method_and_seed_reports_on_the_same_drawn_rows(config_of: ConfigOf) -> None:
    folder, _ = carry_out(config_of(seeds=2, budget="2-passes", options={"eval_rows": 7}))
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


def test_the_last_point_of_a_curve_is_the_reported_value(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Trainer does not evaluate it again; if it did, the value would be the same."""
    evaluations: list[int] = []
    evaluate = Trainer.evaluate

    def counted(self: Trainer, *args: Any, **named: Any) -> Any:
        evaluations.append(self.state.global_step)
        return evaluate(self, *args, **named)

    def curve(output: str, **changes: Any) -> tuple[CurvePoint, ...]:
        values = {"methods": "bidora", "output": str(tmp_path / output), **changes}
        folder, _ = carry_out(config_of(**values))
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


def test_a_run_of_a_study_equals_one_of_train(config_of: ConfigOf, tmp_path: Path) -> None:
    """Evaluations during the run change nothing, and its description repeats it."""
    folder, _ = carry_out(config_of(methods="bidora"))
    (record,) = folder.records()
    there = RunFolder.read(folder.run(record.name))
    config = {**there.config.as_dict(), "output": str(tmp_path / "alone"), "trainer": {}}
    alone, result = train(type(there.config)(**config), there.method)
    name = "adapter/adapter_model.safetensors"
    assert (alone.path / name).read_bytes() == (there.path / name).read_bytes()
    assert result.after == record.after


def test_a_run_of_a_study_leaves_its_log_and_command(config_of: ConfigOf, tmp_path: Path) -> None:
    folder, _ = carry_out(config_of(methods="lora", output=str(tmp_path / "two words")))
    (record,) = folder.records()
    run = RunFolder.read(folder.run(record.name))
    assert {entry["step"] for entry in run.logged() if "loss" in entry} == set(range(1, 9))
    assert shlex.split(record.command) == [
        "rankwright", "train", "--config", str(run.description), "--output", "FOLDER",
    ]  # fmt: skip


def test_two_labels_of_one_method_give_the_same_results(config_of: ConfigOf) -> None:
    methods = [{"method": "lora", "label": "a"}, {"method": "lora", "label": "b"}]
    folder, _ = carry_out(config_of(methods=methods, seeds=2))
    for a, b in zip(folder.records()[::2], folder.records()[1::2], strict=True):
        assert a.after == b.after
        assert folder.examples(a).predictions == folder.examples(b).predictions
    (verdict,) = [
        m.verdict for m in compute_results(folder).tasks[0].methods if m.verdict is not None
    ]
    assert verdict.describe(Unit()) == "b − a = 0 on every one of 2 seeds: not distinguishable."


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_with_a_metric_that_is_not_finite_is_a_failure(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(reported_run, "score", lambda *_args: {"accuracy": value})
    folder, _ = carry_out(config_of(methods="lora", budget="2-passes"))
    (failure,) = folder.failures()
    assert failure.error.startswith(f"accuracy is {value} on the validation rows after training")
    assert not folder.records()


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_every_kind_of_task(
    kind: str, config_of: ConfigOf, tmp_path: Path, bert_folder: Path, llama_folder: Path
) -> None:
    causal = kind in ("causal_lm", "multiple_choice")
    config = config_of(
        methods="lora",
        budget="2-passes",
        model=str(llama_folder if causal else bert_folder),
        task=task_file(kind, tmp_path),
    )
    folder, _ = carry_out(config)
    (record,) = folder.records()
    examples = folder.examples(record)
    assert (record.task, record.kind, record.metric) == ("words", kind, examples.metric)
    assert examples.compute() == pytest.approx(record.value, abs=1e-12)
    each = METRICS[record.metric].score_row
    pairs = zip(examples.predictions, examples.labels, strict=True)
    assert examples.scores.tolist() == pytest.approx([each(*pair) for pair in pairs])
    assert record.curve[-1].metric is not None
    assert (record.forgetting is not None) == causal


def test_forgetting_is_measured_on_the_named_text(
    config_of: ConfigOf, tmp_path: Path, llama_folder: Path
) -> None:
    text = tmp_path / "held.txt"
    text.write_text("w9 w8 w7\n\nw5 w4", encoding="utf-8")
    config = config_of(
        methods="lora,head_only", model=str(llama_folder), held_text=str(text),
        task=task_file("multiple_choice", tmp_path),
    )  # fmt: skip
    folder, _ = carry_out(config)
    lora, head = (record.forgetting for record in folder.records())
    assert lora is not None
    assert head is not None
    # EOS is scored as well; the first word is not: this tokenizer puts nothing before it.
    assert (lora.text, lora.tokens) == ("held.txt", 2 + 1 + 2)
    assert lora.before == head.before
    assert lora.after != lora.before
    assert len(lora.sha256) == 64
