"""What a study notes, as typed records; `records.folder` has the files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from rankwright.errors import MethodError
from rankwright.job.head import Head
from rankwright.study.records.json_record import Record
from rankwright.study.records.names import run_name
from rankwright.tasks.constant import Constant


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """One task of a study.

    Attributes:
        task: What the study calls it.
        kind: Kind of task, such as "sequence_classification".
        metric: The primary metric: the one that methods are compared by.
        greater_is_better: Whether it is to be large.
        reported_split: The rows that are reported on: "test" where the task has them, else
            "validation".
        tuning_rows: Where trials are scored: "validation", or "share of train" where the validation
            rows are the reported ones; None without tuning. Never rows that are reported on.
        rows: Rows by split.
        data_sha256: Digest of the rows by split, inputs and targets.
        options: Fields of `TrainConfig` by name that this task is run with.
        budget: What a run on it may cost; None for the study's budget.
        notices: What a reader should know of its rows, such as that some were cut.
    """

    task: str
    kind: str
    metric: str
    greater_is_better: bool
    reported_split: Literal["validation", "test"]
    tuning_rows: str | None
    rows: dict[str, int]
    data_sha256: dict[str, str]
    options: dict[str, Any]
    budget: str | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MethodRecord:
    """One method of a study.

    Attributes:
        label: What the study calls it.
        method: Its registered name, or `package.module:Class`.
        summary: What it does, in one line.
        reference: Its paper.
        hyperparameters: Its fields by name, before tuning.
        options: Fields of `TrainConfig` that are its own, such as a learning rate.
        against: Label of the method that it is compared with; None for the study's baseline.
        space: What it is tuned over where a task does not set it, in the words of
            `TuningRecord.space`; None without tuning, and where that was not noted yet.
    """

    label: str
    method: str
    summary: str
    reference: str
    hyperparameters: dict[str, Any]
    options: dict[str, Any]
    against: str | None = None
    space: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of the plan.

    Attributes:
        task: The task.
        label: The method.
        seed: The seed.
        steps: Optimizer steps.
        passes: Forward-and-backward passes over a batch that these steps take.
    """

    task: str
    label: str
    seed: int
    steps: int
    passes: float

    @property
    def name(self) -> str:
        """Name of its files and its folder."""
        return run_name(self.task, self.label, self.seed)


@dataclass(frozen=True, kw_only=True)
class Measurement(Record):
    """What a few steps of a method on a task took; from the first seed, before any run.

    Attributes:
        task: The task.
        label: The method.
        seconds_per_pass: Wall time of a forward-and-backward pass, its share of the step included.
        setup_seconds: Wall time before the first step: imports, loading of data and model.
        evaluation_seconds: Wall time of one evaluation of all reported rows, estimated from some.
        peak_memory_bytes: Peak of the whole process, loading and evaluation of one batch included.
        trainable_parameters: As in `CostRecord`.
        curve_seconds: Wall time of one evaluation of the learning curve, a forward pass over the
            validation rows, estimated from some; 0 where that was not measured yet.
        held_seconds: Wall time of one reading of the held text; 0 where there is none, and where
            that was not measured yet.
    """

    task: str
    label: str
    seconds_per_pass: float
    setup_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int
    trainable_parameters: int
    curve_seconds: float = 0.0
    held_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StudyRecord(Record):
    """What is compared, on what, at what cost; written before the first run starts.

    Attributes:
        name: Name of the study.
        command: The command line that repeats it.
        created: When it was planned, ISO 8601 in UTC.
        model: The pretrained model.
        tasks: The tasks, in the user's order.
        methods: The methods, in the user's order.
        baseline: Label of the method that those are compared with which name no other.
        seeds: The seeds, the same for every method and task.
        budget: What a run may cost, such as "2000-passes" or "60-seconds", where its task has no
            budget of its own.
        trials: Trials of every method on every task, fewer of one with fewer points to try; 0
            without tuning.
        runs: Every run of the plan.
        versions: Versions of Python and packages.
        device: What computes, such as "cpu, 1 thread" or the name of a GPU.
        measurements: What was measured beforehand, for a budget in seconds.
        tuning_seed: Seed of all trials, and of no run; None without tuning.
        held_text: SHA-256 of the text that forgetting is measured on; None for the built-in one.
        curve_points: Evaluations on the validation rows in the course of a run; None where that was
            not noted yet.
        file: Text of the YAML file that `command` names, without a password; None if it names none.
    """

    name: str
    command: str
    created: str
    model: str
    tasks: tuple[TaskRecord, ...]
    methods: tuple[MethodRecord, ...]
    baseline: str
    seeds: tuple[int, ...]
    budget: str
    trials: int
    runs: tuple[PlannedRun, ...]
    versions: dict[str, str]
    device: str
    measurements: tuple[Measurement, ...] = ()
    tuning_seed: int | None = None
    held_text: str | None = None
    curve_points: int | None = None
    file: str | None = None

    @property
    def against(self) -> dict[str, str]:
        """Method -> what it is compared with, by label; the baseline only if it names another."""
        pairs = {method.label: method.against or self.baseline for method in self.methods}
        return {label: other for label, other in pairs.items() if label != other}

    @property
    def budgets(self) -> dict[str, str]:
        """Task -> what a run on it may cost."""
        return {task.task: task.budget or self.budget for task in self.tasks}

    def with_baseline(self, baseline: str) -> StudyRecord:
        """The same, every method compared with this one.

        Raises:
            MethodError: There is no such method.
        """
        labels = [method.label for method in self.methods]
        if baseline not in labels:
            raise MethodError(f"baseline = {baseline!r}: expected one of {', '.join(labels)}")
        methods = tuple(dataclasses.replace(method, against=None) for method in self.methods)
        return dataclasses.replace(self, methods=methods, baseline=baseline)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One point of a learning curve.

    Attributes:
        step: Optimizer steps made.
        passes: Passes made.
        loss: Mean training loss since the point before; None where none was logged.
        metric: `RunRecord.curve_metric` on the validation rows; None where it was not computed.
    """

    step: int
    passes: float
    loss: float | None = None
    metric: float | None = None


@dataclass(frozen=True, kw_only=True)
class CostRecord:
    """What a run cost.

    Attributes:
        trainable_parameters: Largest number trained in any one step.
        stored_parameters: Numbers in the saved adapter, heads included.
        peak_memory_bytes: Peak over the training steps, evaluation left out; device memory on CUDA,
            else the resident set of the process.
        median_step_seconds: Median wall time of an optimizer step: no evaluation, no saving.
        training_seconds: Sum over all steps, those before a resume included.
        total_seconds: Wall time of the run from start to end, over all its processes: imports,
            loading, evaluation and saving included.
        steps: Optimizer steps.
        passes: Forward-and-backward passes over a batch.
    """

    trainable_parameters: int
    stored_parameters: int
    peak_memory_bytes: int
    median_step_seconds: float
    training_seconds: float
    total_seconds: float
    steps: int
    passes: float


@dataclass(frozen=True, kw_only=True)
class ForgettingRecord:
    """What a generative model lost of what it knew.

    Attributes:
        text: Name of the held text.
        sha256: Its digest.
        tokens: Scored tokens.
        before: Mean -log p of a token before training, in nats.
        after: The same after training; `after - before` is what was forgotten.
    """

    text: str
    sha256: str
    tokens: int
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """The outcome of one finished run.

    Attributes:
        task: The task, as the study calls it.
        label: The method, as the study calls it.
        method: Its registered name.
        seed: Seed of everything random.
        model: The pretrained model.
        kind: Kind of task.
        metric: The primary metric: the one that methods are compared by.
        greater_is_better: Whether it is to be large.
        reported_split: "validation" or "test".
        before: Every metric of the task on the reported rows before training.
        after: The same after training.
        cost: What it cost.
        curve: The learning curve, by step.
        curve_metric: Metric of the curve: the primary one, or where that needs generated text the
            first that one forward pass gives.
        forgetting: For generative tasks.
        constant: Metrics of giving every reported row the most frequent answer of the training
            rows, or their mean; None for tasks without one, and in older records.
        alike: Whether every reported row got the same answer; None in older records.
        head: Class and labels that its base model is loaded with; None in older records.
        hyperparameters: Every field of the method, after tuning.
        options: Every field of `TrainConfig` that differs from its default.
        data_sha256: Digest of the rows by split.
        versions: Versions of Python and packages.
        device: What computed it.
        command: The command line that repeats this run alone.
        finished: When it ended, ISO 8601 in UTC.
    """

    task: str
    label: str
    method: str
    seed: int
    model: str
    kind: str
    metric: str
    greater_is_better: bool
    reported_split: Literal["validation", "test"]
    before: dict[str, float]
    after: dict[str, float]
    cost: CostRecord
    curve: tuple[CurvePoint, ...]
    curve_metric: str
    forgetting: ForgettingRecord | None = None
    constant: Constant | None = None
    alike: bool | None = None
    head: Head | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    data_sha256: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    command: str = ""
    finished: str = ""

    @property
    def name(self) -> str:
        """Name of its files and its folder."""
        return run_name(self.task, self.label, self.seed)

    @property
    def value(self) -> float:
        """The primary metric after training."""
        return self.after[self.metric]


@dataclass(frozen=True, kw_only=True)
class FailureRecord(Record):
    """A run that ended with an error, such as a loss that became NaN. It is tried again next time.

    Attributes:
        task: The task.
        label: The method.
        seed: The seed.
        attempts: How often it was tried.
        error: The message of the last attempt.
    """

    task: str
    label: str
    seed: int
    attempts: int
    error: str
