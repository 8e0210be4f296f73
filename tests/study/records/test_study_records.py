"""Records are read as they were written, atomically."""

import json
import math

import numpy as np
import pytest

from rankwright.errors import MethodError
from rankwright.study.records.examples import Examples
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.names import run_name
from rankwright.study.records.records import (
    CostRecord,
    CurvePoint,
    FailureRecord,
    ForgettingRecord,
    MethodRecord,
    PlannedRun,
    RunRecord,
    StudyRecord,
    TaskRecord,
)
from rankwright.study.records.tuning import TrialRecord, TuningRecord

COST = CostRecord(
    trainable_parameters=10,
    stored_parameters=12,
    peak_memory_bytes=2**30,
    median_step_seconds=0.01,
    training_seconds=1.5,
    total_seconds=4.0,
    steps=150,
    passes=300.0,
)


def run_record(**changes):
    values = {
        "task": "glue/rte", "label": "lora r=8", "method": "lora", "seed": 3, "model": "minilm",
        "kind": "sequence_classification", "metric": "accuracy", "greater_is_better": True,
        "reported_split": "validation", "before": {"accuracy": 0.5}, "after": {"accuracy": 0.75},
        "cost": COST, "curve": (CurvePoint(step=1, passes=2.0, loss=0.5, metric=None),),
        "curve_metric": "accuracy", "hyperparameters": {"r": 8, "target_modules": ["q", "v"]},
    }  # fmt: skip
    return RunRecord(**values | changes)


def study_record():
    return StudyRecord(
        name="s", command="rankwright compare", created="2026-01-01T00:00:00+00:00",
        model="minilm",
        tasks=(
            TaskRecord(
                task="glue/rte", kind="sequence_classification", metric="accuracy",
                greater_is_better=True, reported_split="validation", tuning_rows=None,
                rows={"train": 8}, data_sha256={"train": "00"}, options={"max_length": 32},
            ),
        ),
        methods=(
            MethodRecord(
                label="lora r=8", method="lora", summary="s", reference="r", hyperparameters={},
                options={},
            ),
        ),
        baseline="lora r=8", seeds=(3, 4), budget="300-passes", trials=1,
        runs=tuple(
            PlannedRun(task="glue/rte", label="lora r=8", seed=seed, steps=150, passes=300.0)
            for seed in (3, 4)
        ),
        versions={"torch": "1"}, device="cpu",
    )  # fmt: skip


def tuning_record():
    trials = (
        TrialRecord(number=0, parameters={"learning_rate": 1e-3}, value=0.5, state="complete"),
        TrialRecord(number=1, parameters={"r": 4}, value=None, state="failed", error="NaN"),
    )
    return TuningRecord(
        task="glue/rte", label="lora r=8", metric="accuracy", greater_is_better=True,
        space={"r": "4, 8"}, trials=trials, best={"learning_rate": 1e-3}, best_value=0.5,
    )  # fmt: skip


FORGETTING = ForgettingRecord(text="t", sha256="0", tokens=5, before=1.0, after=math.inf)


@pytest.mark.parametrize(
    "record",
    [
        run_record(),
        run_record(forgetting=FORGETTING, after={"accuracy": math.inf}),
        study_record(),
        tuning_record(),
        FailureRecord(task="t", label="l", seed=0, attempts=2, error="NaN"),
    ],
)
def test_a_saved_record_is_loaded_unchanged(record, tmp_path):
    path = tmp_path / "new" / "record.json"
    record.save(path)
    assert type(record).load(path) == record
    json.loads(path.read_text(), parse_constant=pytest.fail)  # JSON that any reader takes
    assert list(path.parent.iterdir()) == [path]


def test_a_file_of_another_form_is_named(tmp_path):
    path = tmp_path / "record.json"
    for text in ("{}", "[1]", "not JSON", '{"task": "t", "colour": 1}'):
        path.write_text(text)
        with pytest.raises(MethodError, match=r"record\.json is not a RunRecord"):
            RunRecord.load(path)


@pytest.mark.parametrize(
    ("metric", "predictions", "labels", "scores"),
    [
        ("accuracy", (1, 0, 1), (1, 1, 1), (1, 0, 1)),
        ("pearson", (1.0, 2.0, 4.0), (1.0, 3.0, 3.0), (0, -1, -1)),
        ("micro_f1", ([1, 0], [1, 1], [0, 0]), ([1, 0], [1, 0], [0, 0]), (1, 0, 1)),
        ("entity_f1", (["B-a", "O"], ["O"], ["O"]), (["B-a", "B-b"], ["O"], ["B-a"]), (2 / 3, 1, 0)),  # noqa: E501
        ("tag_accuracy", (["NN", "VB"], ["X"], []), (["NN", "NN"], ["X"], []), (1 / 2, 1, 1)),
        ("exact_number", ("#### 3", "4", "x"), (["3"], ["5"], ["1"]), (1, 0, 0)),
        ("loss_per_token", (6.0, 2.0, 1.0), (3, 2, 1), (-2, -1, -1)),
    ],
)  # fmt: skip
def test_examples_keep_the_inputs_of_the_metric(metric, predictions, labels, scores, tmp_path):
    from rankwright.tasks import METRICS

    each = [METRICS[metric].score_row(p, y) for p, y in zip(predictions, labels, strict=True)]
    assert each == pytest.approx(scores)
    examples = Examples(metric, ("a:1", "a:2", "a:3"), np.array(each), predictions, labels)
    examples.save(tmp_path / "e.parquet")
    loaded = Examples.load(tmp_path / "e.parquet")
    assert (loaded.ids, loaded.predictions, loaded.labels) == (examples.ids, predictions, labels)
    assert np.array_equal(loaded.scores, examples.scores)
    whole = METRICS[metric].compute(list(predictions), list(labels))
    assert loaded.compute() == whole
    again = METRICS[metric].compute(
        [predictions[i] for i in (0, 0, 2)], [labels[i] for i in (0, 0, 2)]
    )
    assert loaded.compute([0, 0, 2]) == again
    assert loaded.compute(np.array([0, 0, 2])) == again


def test_a_folder_returns_finished_runs_in_the_order_of_the_plan(tmp_path):
    folder = StudyFolder(tmp_path)
    with pytest.raises(MethodError, match="holds no study"):
        folder.study  # noqa: B018
    study_record().save(folder.description)
    name = run_name("glue/rte", "lora r=8", 4)
    assert name == "glue-rte--lora-r-8--4"
    for seed in (4, 3):
        FailureRecord(task="glue/rte", label="lora r=8", seed=seed, attempts=1, error="e").save(
            folder.failure(run_name("glue/rte", "lora r=8", seed))
        )
    run_record(seed=4).save(folder.record(name))
    tuning_record().save(folder.tuning("glue/rte", "lora r=8"))
    assert [r.name for r in folder.records()] == [name]
    assert [f.seed for f in folder.failures()] == [3]
    assert folder.tunings() == [tuning_record()]
