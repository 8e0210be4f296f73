"""A study whose files are made up, with truths that are known.

Every method has a share of right rows; a row is as hard for one method as for another, and a seed
adds its own luck. `dora_again` has the outcomes of `dora` under another name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rankwright.job.head import Head
from rankwright.study.records.examples import Examples
from rankwright.study.records.folder import StudyFolder
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
from rankwright.tasks.constant import Constant

QUALITY = {
    "head-only": 0.58,
    "lora": 0.70,
    "dora": 0.71,
    "dora_again": 0.71,
    "bidora": 0.72,
    "xgblora": 0.66,
    "full": 0.78,
}
TRAINABLE = {
    "head-only": 770,
    "lora": 338_305,
    "dora": 359_425,
    "dora_again": 359_425,
    "bidora": 359_425,
    "xgblora": 21_121,
    "full": 22_713_986,
}
BASELINE = "dora"
VERSIONS = {"python": "3.11.2", "rankwright": "0.1.0", "torch": "2.13.0", "peft": "0.21.2"}
STEPS = 400


def study(
    path: Path,
    *,
    methods: Sequence[str] = tuple(QUALITY),
    tasks: Sequence[str] = ("rte", "cola", "e2e"),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    rows: int = 277,
    trials: int = 8,
    unfinished: Sequence[tuple[str, str, int]] = (),
    against: Mapping[str, str] | None = None,
    baseline: str = BASELINE,
) -> StudyFolder:
    """Write a study; `rte` and `cola` are classification, `e2e` is generation.

    Args:
        path: Its folder.
        methods: Labels out of `QUALITY`.
        tasks: Names.
        seeds: Seeds.
        rows: Reported rows of every task.
        trials: Trials of tuning; 0 for none.
        unfinished: Runs that ended with an error, as task, label and seed.
        baseline: What the others are compared with; the first method where it is none of them.
        against: Method -> what it is compared with, where that is not the baseline.
    """
    folder = StudyFolder(path)
    record = StudyRecord(
        name="made-up",
        command=f"rankwright compare --task {','.join(tasks)} --methods {','.join(methods)} "
        f"--seeds {len(seeds)} --budget 400-passes --tune {trials} --output made-up",
        created="2026-01-02T03:04:05+00:00",
        model="minilm",
        tasks=tuple(_task(name, rows, trials) for name in tasks),
        methods=tuple(
            MethodRecord(
                label=label, method=label.removesuffix("_again"), summary=f"What {label} does",
                reference="Author, Author, VENUE 2025", hyperparameters={"r": 8, "lora_alpha": 16},
                options={"learning_rate": 5e-4}, against=(against or {}).get(label),
            )
            for label in methods
        ),
        baseline=baseline if baseline in methods else methods[0],
        seeds=tuple(seeds),
        budget="400-passes",
        trials=trials,
        runs=tuple(
            PlannedRun(task=task, label=label, seed=seed, steps=STEPS, passes=float(STEPS))
            for task in tasks
            for label in methods
            for seed in seeds
        ),
        versions=VERSIONS,
        device="cpu, 2 threads",
    )  # fmt: skip
    record.save(folder.description)
    for task in record.tasks:
        for label in methods:
            if trials:
                _tuning(task, label, trials).save(folder.tuning(task.task, label))
            for seed in seeds:
                if (task.task, label, seed) in unfinished:
                    FailureRecord(
                        task=task.task, label=label, seed=seed, attempts=2, error="loss is NaN"
                    ).save(folder.failure(f"{task.task}--{label}--{seed}"))
                else:
                    _run(folder, task, label, seed, rows)
    return folder


def _generator(*keys: object) -> np.random.Generator:
    return np.random.default_rng([sum(str(key).encode()) + 7 * len(str(key)) for key in keys])


def _metric(task: str) -> str:
    return {"cola": "matthews", "e2e": "loss_per_token"}.get(task, "accuracy")


def _task(name: str, rows: int, trials: int) -> TaskRecord:
    return TaskRecord(
        task=name,
        kind="causal_lm" if name == "e2e" else "sequence_classification",
        metric=_metric(name),
        greater_is_better=name != "e2e",
        reported_split="validation",
        tuning_rows="10 % of train" if trials else None,
        rows={"train": 2490, "validation": rows},
        data_sha256={"train": "3f" * 32, "validation": "a7" * 32},
        options={"max_length": 64},
    )


def outcomes(task: str, label: str, seed: int, rows: int) -> Examples:
    """What a method said on every row."""
    hidden = label.removesuffix("_again")
    hard = _generator(task).uniform(size=rows)
    labels = _generator(task, "labels").integers(2, size=rows)
    luck = _generator(task, hidden, seed)
    shift = 0.012 * luck.normal()
    ids = tuple(f"validation.jsonl:{row}" for row in range(rows))
    noise = luck.normal(size=rows)
    if task == "e2e":
        tokens = _generator(task, "tokens").integers(5, 40, size=rows)
        nats = tokens * np.exp(1.2 * hard + 0.3 * noise - 3 * (QUALITY[hidden] + shift))
        scores = -nats / tokens
        return Examples(_metric(task), ids, scores, tuple(nats.tolist()), tuple(tokens.tolist()))
    right = hard + 0.15 * noise < QUALITY[hidden] + shift
    predictions = np.where(right, labels, 1 - labels)
    return Examples(
        _metric(task), ids, right.astype(float), tuple(predictions.tolist()), tuple(labels.tolist())
    )


def _run(folder: StudyFolder, task: TaskRecord, label: str, seed: int, rows: int) -> None:
    examples = outcomes(task.task, label, seed, rows)
    value = examples.compute()
    generator = _generator(task.task, label, seed, "cost")
    stored = 270_000 if label == "xgblora" else TRAINABLE[label]
    slow = {"bidora": 2.6, "dora": 1.4, "dora_again": 1.4, "full": 1.9}.get(label, 1.0)
    seconds = slow * 40 * (1 + 0.05 * generator.normal())
    record = RunRecord(
        task=task.task,
        label=label,
        method=label.removesuffix("_again"),
        seed=seed,
        model="minilm",
        kind=task.kind,
        metric=task.metric,
        greater_is_better=task.greater_is_better,
        reported_split="validation",
        before={task.metric: _at(task, value, 0.0)},
        after={task.metric: value},
        cost=CostRecord(
            trainable_parameters=TRAINABLE[label],
            stored_parameters=stored,
            peak_memory_bytes=int(2**20 * (800 + TRAINABLE[label] / 4e4)),
            median_step_seconds=seconds / STEPS,
            training_seconds=seconds,
            total_seconds=seconds + 12,
            steps=STEPS,
            passes=float(STEPS),
        ),
        curve=tuple(_curve(task, value, generator)),
        curve_metric=task.metric,
        forgetting=ForgettingRecord(
            text="tinystories", sha256="c0" * 32, tokens=4096, before=1.25,
            after=1.25 + 0.1 * TRAINABLE[label] ** 0.1 + 0.01 * generator.normal(),
        )
        if task.task == "e2e"
        else None,
        constant=_constant(task, examples),
        alike=examples.alike,
        head=_head(task),
        hyperparameters={"r": 8, "lora_alpha": 16},
        options={"learning_rate": 5e-4, "seed": seed},
        data_sha256=task.data_sha256,
        versions=VERSIONS,
        device="cpu, 2 threads",
        command=f"rankwright train --config made-up/runs/{task.task}--{label}--{seed}/run.yaml",
        finished="2026-01-02T04:00:00+00:00",
    )  # fmt: skip
    examples.save(folder.examples_file(record.name))
    record.save(folder.record(record.name))


def _head(task: TaskRecord) -> Head:
    if task.task == "e2e":
        return Head("AutoModelForCausalLM", {})
    names = {0: "entailment", 1: "not_entailment"}
    labels = {"num_labels": 2, "id2label": names, "label2id": {n: i for i, n in names.items()}}
    return Head("AutoModelForSequenceClassification", labels)


def _constant(task: TaskRecord, examples: Examples) -> Constant | None:
    """Always the class 1."""
    if task.task == "e2e":
        return None
    ones = replace(examples, predictions=(1,) * len(examples.labels))
    return Constant("1", {task.metric: ones.compute()})


def _at(task: TaskRecord, final: float, share: float) -> float:
    """The metric after this share of the steps."""
    start = {"accuracy": 0.5, "matthews": 0.0, "loss_per_token": 3.2}[task.metric]
    return float(final + (start - final) * math.exp(-5 * share) * (1 - share))


def _curve(task: TaskRecord, final: float, generator: np.random.Generator) -> list[CurvePoint]:
    points = []
    for step in range(0, STEPS + 1, 20):
        value = _at(task, final, step / STEPS) + 0.008 * generator.normal() * (step < STEPS)
        metric = value if step % 40 == 0 else None
        points.append(
            CurvePoint(step=step, passes=float(step), loss=0.7 - step / 1000, metric=metric)
        )
    return points


def _tuning(task: TaskRecord, label: str, trials: int) -> TuningRecord:
    generator = _generator(task.task, label, "tuning")
    made: list[TrialRecord] = []
    for number in range(trials):
        rate = float(10 ** generator.uniform(-4, -2))
        parameters: dict[str, Any] = {"learning_rate": rate, "r": int(generator.choice([4, 8, 16]))}
        failed = rate > 9e-3
        off = (math.log10(rate) + 3) ** 2
        value = None if failed else (0.9 + 0.3 * off if task.task == "e2e" else 0.7 - 0.12 * off)
        made.append(
            TrialRecord(
                number=number, parameters=parameters, value=value,
                state="failed" if failed else "complete", passes=400.0, seconds=41.0,
                error="loss is NaN at step 12" if failed else "",
            )
        )  # fmt: skip
    complete = [trial for trial in made if trial.value is not None]
    sign = 1 if task.greater_is_better else -1
    best = max(complete, key=lambda trial: sign * (trial.value or 0.0))
    return TuningRecord(
        task=task.task, label=label, metric=task.metric, greater_is_better=task.greater_is_better,
        space={"learning_rate": "log 1e-4 to 1e-2", "r": "4, 8, 16"}, trials=tuple(made),
        best=best.parameters, best_value=best.value or 0.0,
    )  # fmt: skip
