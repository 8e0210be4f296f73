"""From what to compare to the runs that do it, each within the budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rankwright.core.describe import describe_method, registered_name
from rankwright.core.method import Method
from rankwright.core.search_space import SearchSpace, points
from rankwright.errors import MethodError
from rankwright.job import RunFolder, TrainConfig
from rankwright.job.models import load_tokenizer
from rankwright.job.paths import expanded
from rankwright.job.run import versions
from rankwright.study.execution.protocol import REQUEST, Request
from rankwright.study.planning.config import RATES, MethodSpec, StudyConfig, TaskSpec
from rankwright.study.planning.held_text import HeldText
from rankwright.study.planning.task_data import _set_aside, _task_record
from rankwright.study.records.data import Data, Purpose
from rankwright.study.records.device import device_name
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import (
    Measurement,
    MethodRecord,
    PlannedRun,
    StudyRecord,
    TaskRecord,
)

MEASURED_STEPS = (6, 12, 24, 48, 96)
"""Steps of a measurement: the first of these that has a step in every phase."""
LOGGED_POINTS = 50
"""How often the training loss is logged in a run."""
CAUSAL = ("causal_lm", "multiple_choice")
"""Kinds of tasks whose models have no new head."""


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


def _check_same(there: RunFolder, planned: RunFolder) -> None:
    old, new = there.options(), planned.options()
    for name in sorted(old.keys() | new.keys()):
        if name != "output" and old.get(name) != new.get(name):
            raise MethodError(
                f"{there.description} has {name} = {old.get(name)!r}, the plan {new.get(name)!r}; "
                "delete the folder of that run, or choose another output folder for the study"
            )


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
