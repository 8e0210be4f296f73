"""Typed records of a study; `records.folder` says which file holds which."""

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
        task: Its label in the study.
        kind: Kind of task, such as "sequence_classification".
        metric: The primary metric, by which methods are compared.
        greater_is_better: Whether a larger value of the metric is better.
        reported_split: The reported rows: "test" if the task has test rows, else "validation".
        tuning_rows: The rows that trials are scored on, never reported ones: "validation", or
            "0.2 of train" if the validation rows are reported; None without tuning.
        rows: Number of rows by split.
        data_sha256: Digest of the rows by split, inputs and targets.
        options: Fields of `TrainConfig` that the runs on this task share, by name.
        budget: Budget of a run on it; None for the study's budget.
        notices: Remarks on its rows for the reader, such as that some were truncated.
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
        label: Its label in the study.
        method: Its registered name, or `package.module:Class`.
        summary: One line on the idea of the method.
        reference: Its paper.
        hyperparameters: Its fields by name, before tuning.
        options: Fields of `TrainConfig` given for this method, such as a learning rate.
        against: Label of the method that it is compared with; None for the study's baseline.
        space: Its search space, less the options that a task sets, written as in
            `TuningRecord.space`; None without tuning, and in older studies.
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
    """One planned run.

    Attributes:
        task: The task.
        label: The method.
        seed: The seed.
        steps: Optimizer steps.
        passes: Forward-and-backward passes over a batch in these steps.
    """

    task: str
    label: str
    seed: int
    steps: int
    passes: float

    @property
    def name(self) -> str:
        """The name of its files and its folder."""
        return run_name(self.task, self.label, self.seed)


@dataclass(frozen=True, kw_only=True)
class Measurement(Record):
    """The measured cost of a few steps of a method on a task; first seed, before any run.

    Attributes:
        task: The task.
        label: The method.
        seconds_per_pass: Wall time of a forward-and-backward pass, its share of the step included.
        setup_seconds: Wall time before the first step: imports, loading of data and model.
        evaluation_seconds: Wall time of one evaluation of all reported rows, estimated from some.
        peak_memory_bytes: Peak of the whole process, including loading and the evaluation of one
            batch.
        trainable_parameters: Trainable parameters, as in `CostRecord`.
        curve_seconds: Wall time of one evaluation of the learning curve, a forward pass over the
            validation rows, estimated from some; 0 in older studies.
        held_seconds: Wall time of one pass over the held text; 0 without one, and in older studies.
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
    """The plan of a study; written before the first run starts.

    Attributes:
        name: Name of the study.
        command: The command line that repeats it.
        created: Time of planning, ISO 8601 in UTC.
        model: The pretrained model.
        tasks: The tasks, in the user's order.
        methods: The methods, in the user's order.
        baseline: Label of the method that all methods without `against` are compared with.
        seeds: The seeds, the same for every method and task.
        budget: Budget of a run whose task has no budget of its own, such as "2000-passes" or
            "60-seconds".
        trials: Trials of every method on every task, at most as many as its search space has
            points; 0 without tuning.
        runs: All planned runs.
        versions: Versions of Python and packages.
        device: Name of the device, such as "cpu, 1 thread" or that of a GPU.
        measurements: Measurements made before the runs, for budgets in seconds.
        tuning_seed: Seed of all trials, and of no run; None without tuning.
        held_text: SHA-256 of the text that forgetting is measured on; None for the built-in one.
        curve_points: Evaluations on the validation rows during a run; None in older studies.
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

    def task(self, label: str) -> TaskRecord:
        """Return the task of that label."""
        return next(task for task in self.tasks if task.task == label)

    def method(self, label: str) -> MethodRecord:
        """Return the method of that label."""
        return next(method for method in self.methods if method.label == label)

    def measurement(self, task: str, label: str) -> Measurement | None:
        """Return the measurement of a method on a task; None if there is none."""
        found = (m for m in self.measurements if (m.task, m.label) == (task, label))
        return next(found, None)

    @property
    def against(self) -> dict[str, str]:
        """Label of a method -> label of the method that it is compared with.

        A baseline that names no other method is left out.
        """
        pairs = {method.label: method.against or self.baseline for method in self.methods}
        return {label: other for label, other in pairs.items() if label != other}

    @property
    def budgets(self) -> dict[str, str]:
        """Label of a task -> budget of a run on it."""
        return {task.task: task.budget or self.budget for task in self.tasks}

    def with_baseline(self, baseline: str) -> StudyRecord:
        """Return a copy in which every method is compared with this one.

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
        step: Optimizer steps so far.
        passes: Passes so far.
        loss: Mean training loss since the previous point; None if none was logged.
        metric: `RunRecord.curve_metric` on the validation rows; None if it was not computed.
    """

    step: int
    passes: float
    loss: float | None = None
    metric: float | None = None


@dataclass(frozen=True, kw_only=True)
class CostRecord:
    """The cost of a run.

    Attributes:
        trainable_parameters: Largest number of parameters trained in any one step.
        stored_parameters: Number of parameters in the saved adapter, heads included.
        peak_memory_bytes: Peak over the training steps, without evaluation: device memory on CUDA,
            else the resident set of the process.
        median_step_seconds: Median wall time of an optimizer step, without evaluation and saving.
        training_seconds: Sum over all steps, including those before a resume.
        total_seconds: Wall time of the run from start to end, over all its processes, including
            imports, loading, evaluation and saving.
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
    """The change of a generative model's loss on a text unrelated to its task.

    Attributes:
        text: Name of the held text.
        sha256: Its digest.
        tokens: Number of scored tokens.
        before: Mean -log p of a token before training, in nats.
        after: The same after training; `after - before` measures forgetting.
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
        task: The task's label in the study.
        label: The method's label in the study.
        method: Registered name of the method.
        seed: Seed of everything random.
        model: The pretrained model.
        kind: Kind of task.
        metric: The primary metric, by which methods are compared.
        greater_is_better: Whether a larger value of the metric is better.
        reported_split: "validation" or "test".
        before: Every metric of the task on the reported rows before training.
        after: The same after training.
        cost: Parameters, memory, time, steps and passes.
        curve: The learning curve, by step.
        curve_metric: Metric of the curve: the primary one, or the first that one forward pass gives
            if the primary one needs generated text.
        forgetting: Loss on a held text before and after; generative tasks only.
        constant: Metrics of a constant answer on the reported rows, the most frequent one of the
            training rows or their mean; None for tasks without one, and in older records.
        alike: Whether every reported row got the same answer; None in older records.
        head: Class and labels that its base model is loaded with; None in older records.
        hyperparameters: Every field of the method, after tuning.
        options: Every field of `TrainConfig` that differs from its default.
        data_sha256: Digest of the rows by split.
        versions: Versions of Python and packages.
        device: Name of the device.
        command: The command line that repeats this run alone.
        finished: Time of its end, ISO 8601 in UTC.
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
        """The name of its files and its folder."""
        return run_name(self.task, self.label, self.seed)

    @property
    def value(self) -> float:
        """The primary metric after training."""
        return self.after[self.metric]


@dataclass(frozen=True, kw_only=True)
class FailureRecord(Record):
    """A run that ended with an error, such as a loss of NaN; the next command tries it again.

    Attributes:
        task: The task.
        label: The method.
        seed: The seed.
        attempts: Number of attempts so far.
        error: Message of the last attempt.
    """

    task: str
    label: str
    seed: int
    attempts: int
    error: str
