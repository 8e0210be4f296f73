"""The results of a study: means, intervals, differences and verdicts, computed from its records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np

from rankwright.errors import MethodError
from rankwright.study.records.examples import Examples
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import (
    FailureRecord,
    MethodRecord,
    RunRecord,
    StudyRecord,
    TaskRecord,
)
from rankwright.study.records.tuning import TuningRecord
from rankwright.study.statistics import (
    Difference,
    Estimate,
    SignedRank,
    Unit,
    Verdict,
    estimate,
    holm,
    judge,
    resample,
    signed_rank,
)
from rankwright.tasks.constant import Constant

# Units of the metrics shown; all others are shares and correlations, shown times 100.
POINTS = Unit(scale=100, digits=1)
UNITS = {
    "bleu": Unit(digits=1),
    "mse": Unit(digits=4),
    "loss_per_token": Unit(digits=4),
    "perplexity": Unit(digits=2),
}


@dataclass(frozen=True)
class MethodResults:
    """One method on one task.

    Attributes:
        method: The method, as the study describes it.
        runs: Its finished runs, by seed.
        missing: Seeds whose run is not finished.
        mean: The primary metric over seeds.
        verdict: Its comparison with another method; None if it is compared with none, or the two
            have no seed in common.
        tuning: Its search; None if it was not tuned.
        stuck: Seeds whose run gives all reported rows the same answer.
    """

    method: MethodRecord
    runs: tuple[RunRecord, ...]
    missing: tuple[int, ...]
    mean: Estimate
    verdict: Verdict | None
    tuning: TuningRecord | None
    stuck: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The name of the method in the study."""
        return self.method.label

    def average(self, figure: Callable[[RunRecord], float]) -> float:
        """Return the mean of a figure over the runs."""
        return fmean(figure(run) for run in self.runs)

    @property
    def training_seconds(self) -> float:
        """Mean wall time of all steps of a run."""
        return self.average(lambda run: run.cost.training_seconds)

    @property
    def step_seconds(self) -> float:
        """Mean over runs of the median wall time of a step."""
        return self.average(lambda run: run.cost.median_step_seconds)

    @property
    def peak_memory_bytes(self) -> float:
        """Mean peak memory of the training steps of a run."""
        return self.average(lambda run: run.cost.peak_memory_bytes)

    @property
    def trainable_parameters(self) -> float:
        """Mean number of parameters trained in any one step."""
        return self.average(lambda run: run.cost.trainable_parameters)

    @property
    def stored_parameters(self) -> float:
        """Mean number of parameters saved."""
        return self.average(lambda run: run.cost.stored_parameters)

    @property
    def passes(self) -> float:
        """Mean number of passes through the model."""
        return self.average(lambda run: run.cost.passes)

    @property
    def forgotten(self) -> Estimate | None:
        """The loss on a held text after training minus before, in nats a token, over seeds."""
        kept = [run.forgetting for run in self.runs if run.forgetting is not None]
        return estimate([k.after - k.before for k in kept]) if kept else None


@dataclass(frozen=True)
class TaskResults:
    """Every method on one task.

    Attributes:
        task: The task, as the study describes it.
        unit: The unit in which its metric is shown.
        methods: The methods with a finished run, the best mean first.
    """

    task: TaskRecord
    unit: Unit
    methods: tuple[MethodResults, ...]

    @property
    def constant(self) -> Constant | None:
        """The constant baseline; None if no run recorded it."""
        runs = (run for method in self.methods for run in method.runs)
        return next((run.constant for run in runs if run.constant is not None), None)


@dataclass(frozen=True)
class OverTasks:
    """A comparison of two methods over all tasks.

    Attributes:
        label: The method.
        against: The method that it is compared with.
        test: Wilcoxon's test of its mean differences, positive where it is better.
        p_value: p of the test after Holm's correction for the number of methods.
        least_p: The smallest `p_value` that so many tasks and methods can give.
    """

    label: str
    against: str
    test: SignedRank
    p_value: float
    least_p: float


@dataclass(frozen=True)
class StudyResults:
    """The results of a study.

    Attributes:
        study: The plan.
        tasks: Tasks with a finished run, in the study's order.
        over_tasks: The methods that have a difference on all tasks; empty for a single task.
        finished: Number of finished runs.
        failures: Runs that ended with an error.
    """

    study: StudyRecord
    tasks: tuple[TaskResults, ...]
    over_tasks: tuple[OverTasks, ...]
    finished: int
    failures: tuple[FailureRecord, ...]

    @property
    def baselines(self) -> list[str]:
        """The methods that others are compared with, in the study's order."""
        named = {self.study.baseline, *self.study.against.values()}
        return [method.label for method in self.study.methods if method.label in named]

    @property
    def runs(self) -> list[RunRecord]:
        """Every finished run."""
        return [run for task in self.tasks for method in task.methods for run in method.runs]


def compute_results(folder: StudyFolder, baseline: str | None = None) -> StudyResults:
    """Compute the results of a study from its finished runs.

    Args:
        folder: The study, finished or not.
        baseline: Label of the method that all others are compared with; None for the comparisons
            that the study declares.

    Raises:
        MethodError: The folder holds no study, none of its runs is finished, or no method has that
            label.
    """
    study = folder.study if baseline is None else folder.study.with_baseline(baseline)
    records = folder.records()
    if not records:
        raise MethodError(
            f"{folder.path}: none of its {len(study.runs)} runs is finished; expected at least one "
            f"file in {folder.record('RUN').parent}. Go on with: {study.command}"
        )
    tunings = {(tuning.task, tuning.label): tuning for tuning in folder.tunings()}
    tasks = []
    for task in study.tasks:
        of_task = [run for run in records if run.task == task.task]
        tasks.append(_Task(folder, study, task, of_task, tunings).results())
    tasks = [task for task in tasks if task.methods]
    return StudyResults(
        study, tuple(tasks), _test_over_tasks(study, tasks), len(records), tuple(folder.failures())
    )


@dataclass(frozen=True)
class _Task:
    """The records that the results of one task are computed from."""

    folder: StudyFolder
    study: StudyRecord
    task: TaskRecord
    records: Sequence[RunRecord]
    tunings: dict[tuple[str, str], TuningRecord]

    def results(self) -> TaskResults:
        methods = [self._method(m) for m in self.study.methods if self._runs(m.label)]
        sign = -1 if self.task.greater_is_better else 1
        methods.sort(key=lambda method: sign * method.mean.mean)
        return TaskResults(self.task, UNITS.get(self.task.metric, POINTS), tuple(methods))

    def _method(self, method: MethodRecord) -> MethodResults:
        runs = self._runs(method.label)
        return MethodResults(
            method=method,
            runs=tuple(runs.values()),
            missing=tuple(seed for seed in self.study.seeds if seed not in runs),
            mean=estimate([run.value for run in runs.values()]),
            verdict=self._verdicts.get(method.label),
            tuning=self.tunings.get((self.task.task, method.label)),
            stuck=tuple(seed for seed, run in runs.items() if self._is_constant(run)),
        )

    def _runs(self, label: str) -> dict[int, RunRecord]:
        """Return the method's finished runs by seed."""
        return {run.seed: run for run in self.records if run.label == label}

    def _is_constant(self, run: RunRecord) -> bool:
        """Return whether a run gives every row the same answer; False if that is not known."""
        if run.alike is not None:
            return run.alike
        return run.name in self._outcomes and self._outcomes[run.name].alike

    @cached_property
    def _verdicts(self) -> dict[str, Verdict]:
        against = self.study.against
        differences = {
            label: self._compare(label, other, seeds)
            for label, other in against.items()
            if (seeds := sorted(self._runs(label).keys() & self._runs(other).keys()))
        }
        return judge(differences, against, greater_is_better=self.task.greater_is_better)

    def _compare(self, label: str, other: str, seeds: list[int]) -> Difference:
        """Return the method minus the other on these seeds."""
        ours, theirs = self._runs(label), self._runs(other)
        by_seed = [_subtract(ours[seed].value, theirs[seed].value) for seed in seeds]
        names = [(ours[seed].name, theirs[seed].name) for seed in seeds]
        if not self._outcomes.keys() >= {name for pair in names for name in pair}:
            return Difference.of(by_seed)
        draws = [self._resampled[our] - self._resampled[their] for our, their in names]
        rows = len(self._outcomes[names[0][0]].ids)
        return Difference.of(by_seed, np.stack(draws, axis=1), rows)

    @cached_property
    def _resampled(self) -> dict[str, np.ndarray]:
        """The metric of every run on resampled rows, (draws,)."""
        return {name: resample(outcome) for name, outcome in self._outcomes.items()}

    @cached_property
    def _outcomes(self) -> dict[str, Examples]:
        """The outcomes of runs row by row, by name of the run, where the file exists."""
        outcomes = {
            run.name: self.folder.examples(run)
            for run in self.records
            if self.folder.holds(self.folder.examples_file(run.name))
        }
        if len({outcome.ids for outcome in outcomes.values()}) > 1:
            raise MethodError(
                f"{self.folder.path}: runs of {self.task.task} report on different rows; expected "
                "the same rows in every file records/*.parquet of a task. Start a new study"
            )
        return outcomes


def _subtract(value: float, other: float) -> float:
    """Return the difference, or 0 if it is only rounding: few rows give few distinct metrics."""
    return 0.0 if math.isclose(value, other, rel_tol=1e-12) else value - other


def _test_over_tasks(study: StudyRecord, tasks: Sequence[TaskResults]) -> tuple[OverTasks, ...]:
    if len(tasks) < 2:
        return ()
    tests = {
        method.label: signed_rank(differences)
        for method in study.methods
        if len(differences := _differences(method.label, tasks)) == len(tasks)
    }
    corrected = holm({label: test.p_value for label, test in tests.items()})
    return tuple(
        OverTasks(
            label,
            study.against[label],
            test,
            corrected[label],
            least_p=min(1.0, len(tests) * test.least_p),
        )
        for label, test in tests.items()
    )


def _differences(label: str, tasks: Sequence[TaskResults]) -> list[float]:
    """Return the mean difference on each task that has one; positive is better.

    Sizes of differences in unlike units, such as points and perplexity, have no order. Their signs
    are returned then, which makes Wilcoxon's test the sign test.
    """
    units = {"points" if task.unit is POINTS else task.task.metric for task in tasks}
    differences = [
        method.verdict.difference.over_seeds.mean * (1 if task.task.greater_is_better else -1)
        for task in tasks
        for method in task.methods
        if method.label == label and method.verdict is not None
    ]
    return differences if len(units) == 1 else np.sign(differences).tolist()
