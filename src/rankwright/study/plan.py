"""From what to compare to the runs that do it, each within the budget."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rankwright.core.errors import MethodError
from rankwright.core.method import Method
from rankwright.job import RunFolder, TrainConfig
from rankwright.job.load import described, load_tokenizer, registered_name
from rankwright.job.train import versions
from rankwright.study.config import MethodSpec, StudyConfig, TaskSpec
from rankwright.study.forgetting import HeldText
from rankwright.study.observe import device_name
from rankwright.study.protocol import REQUEST, Request
from rankwright.study.records import (
    Measurement,
    MethodRecord,
    PlannedRun,
    StudyFolder,
    StudyRecord,
    TaskRecord,
)
from rankwright.tasks import Row, Task

MEASURED_STEPS = (6, 12, 24, 48, 96)
"""Steps of a measurement: the first of these that has a step in every phase."""
LOGGED_POINTS = 50
"""How often the training loss is logged in a run."""

Purpose = Literal["run", "trial", "measure"]


@dataclass(frozen=True)
class Plan:
    """A study that is ready to be carried out.

    Attributes:
        config: What the user asked for.
        folder: Where it is kept.
        record: What is written of it.
    """

    config: StudyConfig
    folder: StudyFolder
    record: StudyRecord

    def task(self, label: str) -> TaskSpec:
        """The task of that label."""
        return next(spec for spec in self.config.parsed_tasks if spec.label == label)

    def task_record(self, label: str) -> TaskRecord:
        """What is known of the task."""
        return next(task for task in self.record.tasks if task.task == label)

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
            _check_same(RunFolder.read(path), folder)
        else:
            folder.write_description()
        known = self.task_record(task)
        Request(
            purpose=purpose,
            study=str(self.folder.path),
            task=task,
            label=spec.label,
            reported_split=known.reported_split,
            data_sha256=known.data_sha256,
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
        share = None
        if purpose == "trial" and self.task_record(task).reported_split == "validation":
            share = self.config.tuning_share
        return dataclasses.replace(config, trainer=trainer, tuning_share=share)


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
    folder = StudyFolder(Path(config.output or f"studies/{name}"))
    held = config.held_text
    record = StudyRecord(
        name=folder.path.resolve().name,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=config.model,
        tasks=tuple(_task_record(config, task) for task in tasks),
        methods=tuple(_method_record(spec) for spec in methods),
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
    return Plan(config, folder, record)


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
            check_same(f"task {task.task}", asdict(before), asdict(task))
    for method in new.methods:
        for present in (m for m in old.methods if m.label == method.label):
            check_same(f"method {method.label}", runs_of(present), runs_of(method))


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


def runs_of(method: MethodRecord) -> dict[str, Any]:
    """What the runs of a method depend on: not what they are compared with."""
    return {name: value for name, value in asdict(method).items() if name != "against"}


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


def _task_record(config: StudyConfig, spec: TaskSpec) -> TaskRecord:
    task = config.train_config(spec, config.parsed_methods[0]).make_task()
    splits = vars(task.prepare(load_tokenizer(config.model)).rows)  # what is wrong is said once
    present = {name: rows for name, rows in splits.items() if rows is not None}
    reported: Literal["validation", "test"] = "test" if "test" in present else "validation"
    aside = f"{config.tuning_share:g} of train" if reported == "validation" else "validation"
    return TaskRecord(
        task=spec.label,
        kind=task.kind,
        metric=task.primary_metric,
        greater_is_better=task.greater_is_better,
        reported_split=reported,
        tuning_rows=aside if config.tune else None,
        rows={name: len(rows) for name, rows in present.items()},
        data_sha256={name: _digest(task, rows) for name, rows in present.items()},
        options={**config.options, **spec.options},
        budget=None if spec.budget is None else str(spec.budget),
    )


def _digest(task: Task, rows: Iterable[Row]) -> str:
    """SHA-256 of what a model sees and learns of the rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        cells: Mapping[str, Any] = {c: row.fields.get(c) for c in task.columns}
        digest.update(json.dumps(cells, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()


def _method_record(spec: MethodSpec) -> MethodRecord:
    method = spec.method
    return MethodRecord(
        label=spec.label,
        method=registered_name(type(method)),
        summary=method.summary,
        reference=method.reference,
        hyperparameters=described(method),
        options=spec.options,
        against=spec.against,
    )
