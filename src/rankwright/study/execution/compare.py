"""Carry a study out: measure, tune, run; what is there already is not done again."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rankwright.errors import TrainingError
from rankwright.study.errors import StoppedError
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.processes import Exit, Processes, error_of
from rankwright.study.execution.protocol import OUTCOME
from rankwright.study.planning.config import MethodSpec, StudyConfig
from rankwright.study.planning.plan import Plan, measured_steps, plan
from rankwright.study.planning.same_study import continued
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.locks import CLAIM, locked
from rankwright.study.records.records import FailureRecord, Measurement, PlannedRun, StudyRecord
from rankwright.study.records.tuning import TuningRecord
from rankwright.study.tuning.search import Search, tune
from rankwright.study.tuning.storage import quiet_optuna, storage_of_trials

ASIDE_SECONDS = 1.0
"""How long to wait before a run that another machine works on is looked at again."""

Specs = dict[tuple[str, str], MethodSpec]
"""(task, label) -> the method as it is run."""


def compare(
    config: StudyConfig, command: str, processes: Processes, observer: Observer
) -> StudyFolder:
    """Everything that is missing of a study.

    Args:
        config: What to compare.
        command: The command line that repeats it, without a password: it is kept.
        processes: What carries runs out.
        observer: Hears how it gets on.

    Returns:
        The folder, in which every run of the plan is finished or among `failures()`.

    Raises:
        StoppedError: `processes.stop` was called.
        TrainingError: The steps that are measured failed.
        MethodError: The description cannot be carried out, or the folder holds another study.
        TaskError: The data is not what a task declares.
    """
    study = _told(plan(config, command), observer)
    specs = _untuned(study)
    timed = {t.label for t in config.parsed_tasks if config.budget_of(t).unit == "seconds"}
    in_seconds = {key: spec for key, spec in specs.items() if key[0] in timed}
    with _in_turn(study, processes):  # of two that measured, each would have its own steps
        study = _measured(_continued(study), in_seconds, processes, observer)
        study = _saved(study, specs)
        if unpacked := study.folder.unpack():
            observer.says(f"{unpacked} files of {study.folder.packed.name} unpacked, to go on")
    observer.planned(study)
    for task in config.parsed_tasks:  # tuned and run one by one: the first results come early
        failed: dict[str, str] = {}
        if config.tune:
            with quiet_optuna():
                tuned, failed = _tuned(study, task.label, processes, observer)
            specs |= tuned
            study = _saved(study, specs)
            observer.planned(study)
        _Runs(study, task.label, specs, failed, processes, observer).carry_out()
    return StudyFolder(study.folder.path)


def dry_run(config: StudyConfig, command: str, processes: Processes, observer: Observer) -> Plan:
    """The plan, with what a few steps of every method took; nothing is kept.

    Args:
        config: What to compare.
        command: The command line that repeats it.
        processes: What carries the steps out.
        observer: Hears how it gets on.
    """
    study = _told(plan(config, command), observer)
    specs = _untuned(study)
    return _with_runs(_measured(study, specs, processes, observer), specs)


def _told(study: Plan, observer: Observer) -> Plan:
    """The plan, after the user has heard what there is to know of its rows."""
    for task in study.record.tasks:
        for notice in task.notices:
            observer.says(f"{task.task}: {notice}")
    return study


@contextlib.contextmanager
def _in_turn(study: Plan, processes: Processes) -> Iterator[None]:
    """Hold the study's folder against other commands that carry the same study out.

    Raises:
        StoppedError: It was stopped while another held the folder.
    """
    while True:
        with locked(study.folder.path, wait=False) as ours:
            if ours:
                yield
                return
        if processes.stopping:
            raise StoppedError
        time.sleep(ASIDE_SECONDS)


def _continued(study: Plan) -> Plan:
    """With what an earlier start of the same study has left."""
    if not study.folder.description.exists():
        return study
    there = StudyRecord.load(study.folder.description)
    return dataclasses.replace(study, record=continued(there, study.record))


def _saved(study: Plan, specs: Specs) -> Plan:
    """With its runs, as they are written."""
    study = _with_runs(study, specs)
    study.record.save(study.folder.description)
    return study


def _with_runs(study: Plan, specs: Specs) -> Plan:
    record = dataclasses.replace(study.record, runs=study.runs(specs))
    return dataclasses.replace(study, record=record)


def _untuned(study: Plan) -> Specs:
    return {
        (task.label, method.label): method
        for task in study.config.parsed_tasks
        for method in study.config.parsed_methods
    }


# Before the runs ---------------------------------------------------------------------------------


def _measured(study: Plan, specs: Specs, processes: Processes, observer: Observer) -> Plan:
    """With a measurement of each of these."""
    found = list(study.record.measurements)
    missing = {key: spec for key, spec in specs.items() if study.measurement(*key) is None}
    for (task, label), spec in missing.items():
        observer.says(f"measuring a few steps of {label} on {task}")
        found.append(_measurement(study, task, spec, processes))
    record = dataclasses.replace(study.record, measurements=tuple(found))
    return dataclasses.replace(study, record=record)


def _measurement(study: Plan, task: str, spec: MethodSpec, processes: Processes) -> Measurement:
    """What a few steps took, in a folder that stays only if its process died: its log is there.

    Raises:
        StoppedError: It was stopped.
        TrainingError: It failed.
    """
    path = Path(tempfile.mkdtemp(prefix="rankwright-"))
    steps = measured_steps(spec.method)
    study.prepare(path, "measure", task, spec, min(study.record.seeds), steps)
    end = processes.run(path)
    try:
        if end is Exit.STOPPED:
            raise StoppedError
        if end is not Exit.DONE:
            raise TrainingError(error_of(path, end))
        return Measurement.load(path / OUTCOME)
    finally:
        if end is not Exit.DIED:
            shutil.rmtree(path)


def _tuned(
    study: Plan, task: str, processes: Processes, observer: Observer
) -> tuple[Specs, dict[str, str]]:
    """The methods on a task after tuning; what is tuned already is not tuned again.

    Returns:
        The methods as they are run, and by the labels of those all of whose trials failed, why.
    """
    methods = study.config.parsed_methods
    files = {method.label: study.folder.tuning(task, method.label) for method in methods}
    best = {label: TuningRecord.load(file).best for label, file in files.items() if file.exists()}
    untuned = [method for method in methods if method.label not in best]
    if untuned:
        trials = ", ".join(_trials(study, task, method) for method in untuned)
        observer.says(f"tuning on {task}, trials: {trials}")
    failed: dict[str, str] = {}
    if to_tune := [method for method in untuned if study.trials(task, method)]:
        with storage_of_trials(study.config.storage, study.folder.storage) as storage:
            says = observer.says
            searches = [Search(study, task, m, storage, processes, says) for m in to_tune]
            records, failed = tune(searches, processes)
            best |= {record.label: record.best for record in records}
    specs = {(task, m.label): m.with_values(best.get(m.label, {})) for m in methods}
    return specs, failed


def _trials(study: Plan, task: str, method: MethodSpec) -> str:
    """How many trials a method gets, in words."""
    count = study.trials(task, method)
    why = "every point of its space" if count else "nothing to search"
    fewer = f" ({why})" if count < study.config.tune else ""
    return f"{method.label} {count}{fewer}"


# The runs ----------------------------------------------------------------------------------------


@dataclass
class _Runs:
    """The runs of a task, dealt out to threads that each watch one process.

    Attributes:
        study: The plan.
        task: Label of the task.
        specs: The methods as they are run.
        failed: Label of a method that could not be tuned -> why; its runs have failed, too.
        processes: What carries them out.
        observer: Hears how it gets on.
    """

    study: Plan
    task: str
    specs: Specs
    failed: dict[str, str]
    processes: Processes
    observer: Observer
    _waiting: deque[PlannedRun] = field(default_factory=deque)
    _tried: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def carry_out(self) -> None:
        """All that have no record yet.

        Raises:
            StoppedError: The study was asked to stop.
        """
        runs = (run for run in self.study.record.runs if run.task == self.task)
        self._waiting.extend(run for run in runs if not self._done(run))
        self._tried = {run.name: self._attempts(run) for run in self._waiting}
        with ThreadPoolExecutor(self.processes.jobs) as pool:
            for thread in [pool.submit(self._deal) for _ in range(self.processes.jobs)]:
                thread.result()
        if self.processes.stopping:
            raise StoppedError

    def _deal(self) -> None:
        while not self.processes.stopping:
            with self._lock:
                if not self._waiting:
                    return
                run = self._waiting.popleft()
            with locked(self.study.folder.run(run.name), name=CLAIM, wait=False) as ours:
                if self._done(run):  # by another machine, meanwhile
                    self.observer.finished(run)
                elif not ours:
                    self._waiting.append(run)
                    time.sleep(ASIDE_SECONDS)
                elif self._attempts(run) > self._tried[run.name]:  # and so it would fail again
                    failure = FailureRecord.load(self.study.folder.failure(run.name))
                    self.observer.failed(run, failure.error)
                elif run.label in self.failed:
                    self._note(run, self.failed[run.label])
                else:
                    self._carry_out(run)

    def _carry_out(self, run: PlannedRun) -> None:
        folder = self.study.folder
        path = self.study.prepare(
            folder.run(run.name),
            "run",
            run.task,
            self.specs[run.task, run.label],
            run.seed,
            run.steps,
        )
        end = self.processes.run(path)
        if end is Exit.DONE:
            self.observer.finished(run)
        elif end is not Exit.STOPPED:
            self._note(run, error_of(path, end))

    def _note(self, run: PlannedRun, error: str) -> None:
        FailureRecord(
            task=run.task,
            label=run.label,
            seed=run.seed,
            attempts=self._attempts(run) + 1,
            error=error,
        ).save(self.study.folder.failure(run.name))
        self.observer.failed(run, error)

    def _attempts(self, run: PlannedRun) -> int:
        """How often the run has failed so far."""
        file = self.study.folder.failure(run.name)
        return FailureRecord.load(file).attempts if file.exists() else 0

    def _done(self, run: PlannedRun) -> bool:
        return self.study.folder.record(run.name).exists()
