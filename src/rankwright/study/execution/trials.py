"""The stage that tunes all methods on a task, with a process for every trial."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job import RunFolder
from rankwright.study.errors import StoppedError, TrialFailedError
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.processes import Exit, Processes, error_message
from rankwright.study.execution.protocol import OUTCOME
from rankwright.study.execution.requests import prepare
from rankwright.study.planning.plan import Plan
from rankwright.study.planning.sizing import step_count, trial_count
from rankwright.study.planning.specs import MethodSpec
from rankwright.study.records.tuning import TrialOutcome, TuningRecord
from rankwright.study.tuning.search import Search, tune
from rankwright.study.tuning.search_spec import SearchSpec
from rankwright.study.tuning.storage import open_storage, silence_optuna
from rankwright.study.tuning.trial_store import TrialStore


def tune_methods(plan: Plan, task: str, processes: Processes, observer: Observer) -> Plan:
    """Return the plan with the task's methods tuned; finished searches are not repeated.

    Args:
        plan: The plan.
        task: Label of the task.
        processes: Carries the trials out.
        observer: Is told about every trial.

    Raises:
        StoppedError: The study was asked to stop.
        MethodError: The storage cannot be used, or holds trials of another study.
    """
    methods = plan.config.parsed_methods
    files = {method.label: plan.folder.tuning(task, method.label) for method in methods}
    best = {label: TuningRecord.load(file).best for label, file in files.items() if file.exists()}
    failed: dict[str, str] = {}
    if untuned := [method for method in methods if method.label not in best]:
        trials = ", ".join(_describe_trials(plan, task, method) for method in untuned)
        observer.notify(f"tuning on {task}, trials: {trials}")
        records, failed = _search(plan, task, untuned, processes, observer)
        best |= {record.label: record.best for record in records}
    tuned = {(task, m.label): m.with_values(best.get(m.label, {})) for m in methods}
    untunable = {(task, label): error for label, error in failed.items()}
    return dataclasses.replace(
        plan, specs={**plan.specs, **tuned}, untunable={**plan.untunable, **untunable}
    )


def _describe_trials(plan: Plan, task: str, method: MethodSpec) -> str:
    """Return the number of trials of a method in words, with the reason if it gets fewer."""
    count = trial_count(plan, task, method)
    reason = "every point of its space" if count else "nothing to search"
    suffix = f" ({reason})" if count < plan.config.tune else ""
    return f"{method.label} {count}{suffix}"


def _search(
    plan: Plan, task: str, methods: Sequence[MethodSpec], processes: Processes, observer: Observer
) -> tuple[list[TuningRecord], dict[str, str]]:
    """Carry out the searches of these methods; see `tune` for what it returns."""
    tunable = [method for method in methods if trial_count(plan, task, method)]
    if not tunable:
        return [], {}
    runner = TrialProcesses(plan, processes)
    with silence_optuna(), open_storage(plan.config.storage, plan.folder.storage) as storage:
        stores = [TrialStore(SearchSpec(plan, task, method), storage) for method in tunable]
        return tune([Search(store, runner, observer.notify) for store in stores], processes.jobs)


@dataclass(frozen=True)
class TrialProcesses:
    """Carries out trials, each in a process of its own; the `TrialRunner` of the searches.

    Attributes:
        plan: The plan.
        processes: Starts and watches the processes.
    """

    plan: Plan
    processes: Processes

    @property
    def stopping(self) -> bool:
        """Whether the study was asked to stop."""
        return self.processes.stopping

    def run(self, folder: Path, task: str, method: MethodSpec) -> TrialOutcome:
        """Carry a trial out; its folder stays, and so does its log if the trial fails.

        Args:
            folder: A folder for its files; one left by an interrupted trial is continued.
            task: Label of the task.
            method: The method with the values of the trial.

        Raises:
            TrialFailedError: The trial cannot be prepared, ended with an error, or died.
            StoppedError: The study was asked to stop.
        """
        try:
            steps = step_count(self.plan, task, method)
            seed = self.plan.record.tuning_seed
            assert seed is not None
            prepare(self.plan, folder, "trial", task, method, seed, steps)
        except MethodError as error:
            raise TrialFailedError(str(error)) from error
        end = self.processes.run(folder)
        if end is Exit.STOPPED:
            raise StoppedError
        if end is not Exit.DONE:
            shutil.rmtree(RunFolder.read(folder).checkpoints, ignore_errors=True)
            raise TrialFailedError(error_message(folder, end))
        return TrialOutcome.load(folder / OUTCOME)
