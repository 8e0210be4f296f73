"""From what to compare to the runs that do it, each within the budget."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from rankwright.core.describe import describe_method, registered_name
from rankwright.core.method import Method
from rankwright.core.search_space import SearchSpace, points
from rankwright.errors import MethodError
from rankwright.job import RunFolder, TrainConfig
from rankwright.job.data import RunData, read_data
from rankwright.job.models import load_tokenizer
from rankwright.job.paths import expanded
from rankwright.job.run import versions
from rankwright.study.execution.forgetting import HeldText
from rankwright.study.execution.observe import device_name
from rankwright.study.execution.protocol import REQUEST, Request
from rankwright.study.planning.config import RATES, MethodSpec, StudyConfig, TaskSpec
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import (
    Measurement,
    MethodRecord,
    PlannedRun,
    StudyRecord,
    TaskRecord,
)
from rankwright.tasks import TaskError

MEASURED_STEPS = (6, 12, 24, 48, 96)
"""Steps of a measurement: the first of these that has a step in every phase."""
LOGGED_POINTS = 50
"""How often the training loss is logged in a run."""
CAUSAL = ("causal_lm", "multiple_choice")
"""Kinds of tasks whose models have no new head."""

Purpose = Literal["run", "trial", "measure"]


@dataclass(frozen=True)
class Data:
    """The rows that a process trains on and is scored on.

    Attributes:
        rows: How many by split.
        sha256: Their digests by split, inputs and targets.
    """

    rows: dict[str, int]
    sha256: dict[str, str]

    @classmethod
    def of(cls, data: RunData) -> Data:
        """Of what a run reads."""
        return cls(
            rows={name: split["rows"] for name, split in data.splits.items()},
            sha256={name: split["sha256"] for name, split in data.splits.items()},
        )


@dataclass(frozen=True)
class Plan:
    """A study that is ready to be carried out.

    Attributes:
        config: What the user asked for.
        folder: Where it is kept.
        record: What is written of it.
        set_aside: Task -> the rows of its trials, where these have training rows only.
    """

    config: StudyConfig
    folder: StudyFolder
    record: StudyRecord
    set_aside: Mapping[str, Data] = dataclasses.field(default_factory=dict)

    def task(self, label: str) -> TaskSpec:
        """The task of that label."""
        return next(spec for spec in self.config.parsed_tasks if spec.label == label)

    def task_record(self, label: str) -> TaskRecord:
        """What is known of the task."""
        return next(task for task in self.record.tasks if task.task == label)

    def data(self, purpose: Purpose, task: str) -> Data:
        """The rows that a process has to find."""
        known = self.task_record(task)
        whole = Data(known.rows, known.data_sha256)
        return self.set_aside.get(task, whole) if purpose == "trial" else whole

    def space(self, task: str, spec: MethodSpec) -> SearchSpace:
        """What is searched: not what the task has set, nor a rate without parameters."""
        known = self.task_record(task)
        given = {*known.options}
        if known.kind in CAUSAL and RATES[0] in spec.space:
            given.add(RATES[1])
        return {name: choice for name, choice in spec.space.items() if name not in given}

    def trials(self, task: str, spec: MethodSpec) -> int:
        """Trials of the method on the task: no point of its space is tried twice."""
        return int(min(self.config.tune, points(self.space(task, spec))))

    def measurement(self, task: str, label: str) -> Measurement | None:
        """What was measured of the method on the task."""
        found = (m for m in self.record.measurements if (m.task, m.label) == (task, label))
        return next(found, None)

    def steps(self, task: str, spec: MethodSpec) -> int:
        """Optimizer steps of the method within the budget."""
        measured = self.measurement(task, spec.label)
        seconds = None if measured is None else measured.seconds_per_pass
        return self.config.budget_of(self.task(task)).steps(spec.method, seconds)

    def runs(self, specs: Mapping[tuple[str, str], MethodSpec]) -> tuple[PlannedRun, ...]:
        """Every run, seed by seed, so that all methods have equally many at any time.

        Args:
            specs: (task, label) -> the method as it is run.
        """
        steps = {key: self.steps(key[0], spec) for key, spec in specs.items()}
        return tuple(
            PlannedRun(
                task=task,
                label=label,
                seed=seed,
                steps=steps[task, label],
                passes=float(spec.method.made_of().passes(steps[task, label])),
            )
            for seed in self.config.parsed_seeds
            for (task, label), spec in specs.items()
        )

    def prepare(
        self, path: Path, purpose: Purpose, task: str, spec: MethodSpec, seed: int, steps: int
    ) -> Path:
        """Describe one run in a folder of its own, for a process to carry out.

        Args:
            path: The folder.
            purpose: What the run is for.
            task: Label of the task.
            spec: The method.
            seed: The seed.
            steps: Optimizer steps.

        Returns:
            The folder.

        Raises:
            MethodError: The folder holds a run that is not the same.
        """
        config = self._train_config(path, purpose, task, spec, seed, steps)
        folder = RunFolder(path, config, spec.method)
        if folder.description.exists():
            _check_same(RunFolder.read(path, check=False), folder)
        else:
            folder.write_description()
        known = self.task_record(task)
        Request(
            purpose=purpose,
            study=str(self.folder.path),
            task=task,
            label=spec.label,
            reported_split=known.reported_split,
            data_sha256=self.data(purpose, task).sha256,
            held_text=self.config.held_text,
            keep_adapter=self.config.keep_adapters,
        ).save(path / REQUEST)
        return path

    def _train_config(
        self, path: Path, purpose: Purpose, task: str, spec: MethodSpec, seed: int, steps: int
    ) -> TrainConfig:
        config = self.config.train_config(
            self.task(task), spec, output=str(path), seed=seed, steps=steps
        )
        trainer = dict(config.trainer)
        if purpose == "run":
            logged = max(1, steps // LOGGED_POINTS)
            every = max(1, round(steps / self.config.curve_points / logged)) * logged
            trainer = {"eval_strategy": "steps", "eval_steps": every, **trainer}
        elif purpose == "measure":
            trainer = {**trainer, "save_strategy": "no"}
        config = dataclasses.replace(config, trainer=trainer)
        return self._on_fewer_rows(config, task) if purpose == "trial" else config

    def _on_fewer_rows(self, config: TrainConfig, task: str) -> TrainConfig:
        """As trials have it: without the reported rows, and with no more rows than are left."""
        if task not in self.set_aside:
            return config
        rows = config.train_rows and min(config.train_rows, self.set_aside[task].rows["train"])
        return dataclasses.replace(config, tuning_share=self.config.tuning_share, train_rows=rows)


def plan(config: StudyConfig, command: str, measurements: Iterable[Measurement] = ()) -> Plan:
    """Read the data and lay the runs out.

    Args:
        config: What to compare.
        command: The command line that repeats the study.
        measurements: What a pass takes, for a budget in seconds.

    Raises:
        MethodError: An option is wrong, or the budget is not enough for a method.
        TaskError: The data is not what a task declares.
    """
    tasks, methods = config.parsed_tasks, config.parsed_methods
    name = "-".join(task.label for task in tasks).replace("/", "-")
    folder = StudyFolder(expanded(config.output or f"studies/{name}"))
    held, tokenizer = config.held_text, load_tokenizer(config.model)
    record = StudyRecord(
        name=folder.path.resolve().name,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=config.model,
        tasks=tuple(_task_record(config, task, tokenizer) for task in tasks),
        methods=tuple(_method_record(config, spec) for spec in methods),
        baseline=config.baseline or methods[0].label,
        seeds=config.parsed_seeds,
        budget=str(config.parsed_budget),
        trials=config.tune,
        runs=(),
        versions=versions(),
        device=device_name(),
        measurements=tuple(measurements),
        tuning_seed=max(config.parsed_seeds) + 1 if config.tune else None,
        held_text=None if held is None else HeldText.read(held).sha256,
        curve_points=config.curve_points,
        file=config.file,
    )
    split = {task.task for task in record.tasks if task.reported_split == "validation"}
    aside = (task for task in tasks if config.tune and task.label in split)
    return Plan(
        config, folder, record, {task.label: _set_aside(config, task, tokenizer) for task in aside}
    )


def measured_steps(method: Method) -> int:
    """How many steps show what a pass takes.

    Raises:
        MethodError: The method needs more steps than are worth measuring.
    """
    for steps in MEASURED_STEPS:
        try:
            method.made_of().passes(steps)
        except MethodError as error:
            refused = error
        else:
            return steps
    raise refused


def check_continues(old: StudyRecord, new: StudyRecord) -> None:
    """Refuse to go on with a study that is another one; seeds, methods and tasks may be added.

    Raises:
        MethodError: Something that results depend on has changed.
    """
    for name in ("model", "budget", "trials", "held_text"):
        check_same(name, getattr(old, name), getattr(new, name))
    if old.curve_points is not None:
        check_same("curve_points", old.curve_points, new.curve_points)
    for task in new.tasks:
        for before in (t for t in old.tasks if t.task == task.task):
            check_same(
                f"task {task.task}", *(asdict(replace(each, notices=())) for each in (before, task))
            )
    for method in new.methods:
        for present in (m for m in old.methods if m.label == method.label):
            check_same_method(f"method {method.label}", asdict(present), asdict(method))


def continued(old: StudyRecord, new: StudyRecord) -> StudyRecord:
    """The new one with what the study that is there has settled.

    Raises:
        MethodError: It cannot go on so.
    """
    check_continues(old, new)
    tuning_seed = old.tuning_seed
    if old.trials and tuning_seed is None:  # of a version that did not note it
        tuning_seed = max(old.seeds) + 1
    if tuning_seed in new.seeds:
        free = (seed for seed in itertools.count() if seed != tuning_seed)
        others = ",".join(str(seed) for seed in itertools.islice(free, len(new.seeds)))
        raise MethodError(
            f"seeds: {tuning_seed} is the seed of the trials, which no reported run may have; "
            f"expected others, such as {others}"
        )
    return dataclasses.replace(
        new, created=old.created, measurements=old.measurements, tuning_seed=tuning_seed
    )


def check_same_method(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on where two `MethodRecord`s differ in what runs and trials depend on.

    Raises:
        MethodError: They do.
    """
    free = {"against", "summary", "reference"}
    if old.get("space") is None:  # of a study that did not note it
        free.add("space")
    check_same(what, *({n: v for n, v in each.items() if n not in free} for each in (old, new)))


def check_same(what: str, old: Any, new: Any) -> None:
    """Refuse to go on where two values differ as JSON; of mappings, the first that does is named.

    Raises:
        MethodError: They differ.
    """
    old, new = (json.loads(json.dumps(value)) for value in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):  # None for a field that is newer than a study
            check_same(f"{what}: {key}", old.get(key), new.get(key))
    elif old != new:
        raise MethodError(
            f"the study that is there has {what} = {old!r}, this command {new!r}; go on with the "
            "same, or choose another output folder"
        )


def _check_same(there: RunFolder, planned: RunFolder) -> None:
    old, new = there.options(), planned.options()
    for name in sorted(old.keys() | new.keys()):
        if name != "output" and old.get(name) != new.get(name):
            raise MethodError(
                f"{there.description} has {name} = {old.get(name)!r}, the plan {new.get(name)!r}; "
                "delete the folder of that run, or choose another output folder for the study"
            )


def _task_record(
    config: StudyConfig, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase
) -> TaskRecord:
    run = config.train_config(spec, config.parsed_methods[0])
    found = read_data(run, tokenizer)
    task, data = found.prepared.task, Data.of(found)
    reported: Literal["validation", "test"] = "test" if "test" in data.rows else "validation"
    aside = f"{config.tuning_share:g} of train" if reported == "validation" else "validation"
    return TaskRecord(
        task=spec.label,
        kind=task.kind,
        metric=task.primary_metric,
        greater_is_better=task.greater_is_better,
        reported_split=reported,
        tuning_rows=aside if config.tune else None,
        rows=data.rows,
        data_sha256=data.sha256,
        options={**config.options, **spec.options},
        budget=None if spec.budget is None else str(spec.budget),
        notices=found.notices,
    )


def _set_aside(config: StudyConfig, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> Data:
    """The rows of trials that leave the validation rows alone.

    Raises:
        TaskError: There is no task in them.
    """
    share = config.tuning_share
    method = config.parsed_methods[0]
    trial = config.train_config(spec, method, tuning_share=share, train_rows=None)
    try:
        return Data.of(read_data(trial, tokenizer))
    except TaskError as error:
        raise TaskError(
            f"tuning_share = {share:g}: trials on {spec.label}, of this share of its training rows "
            f"and the others, cannot be prepared: {error}"
        ) from error


def _method_record(config: StudyConfig, spec: MethodSpec) -> MethodRecord:
    method = spec.method
    return MethodRecord(
        label=spec.label,
        method=registered_name(type(method)),
        summary=method.summary,
        reference=method.reference,
        hyperparameters=describe_method(method),
        options=spec.options,
        against=spec.against,
        space={n: str(c) for n, c in spec.space.items()} if config.tune else None,
    )
