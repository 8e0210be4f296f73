"""The stage that carries out all reported runs of a task."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rankwright.study.errors import StoppedError
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.processes import Exit, Processes, error_message
from rankwright.study.execution.requests import prepare
from rankwright.study.planning.plan import Plan
from rankwright.study.records.locks import CLAIM, lock_folder
from rankwright.study.records.records import FailureRecord, PlannedRun

RETRY_SECONDS = 1.0
"""Pause before a run that another machine works on is looked at again."""


def carry_out_runs(plan: Plan, task: str, processes: Processes, observer: Observer) -> None:
    """Carry out all runs of a task that have no record yet.

    Args:
        plan: The plan, with its runs.
        task: Label of the task.
        processes: Carries the runs out.
        observer: Is told about every finished and failed run.

    Raises:
        StoppedError: The study was asked to stop.
    """
    _Runs(plan, processes, observer).carry_out(task)


@dataclass
class _Runs:
    """The queue of runs, served by threads that each watch one process.

    Attributes:
        plan: The plan, with its runs.
        processes: Carries the runs out.
        observer: Is told about every finished and failed run.
    """

    plan: Plan
    processes: Processes
    observer: Observer
    _waiting: deque[PlannedRun] = field(default_factory=deque)
    _attempts_before: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def carry_out(self, task: str) -> None:
        runs = (run for run in self.plan.record.runs if run.task == task)
        self._waiting.extend(run for run in runs if not self._has_record(run))
        self._attempts_before = {run.name: self._attempts(run) for run in self._waiting}
        with ThreadPoolExecutor(self.processes.jobs) as pool:
            for thread in [pool.submit(self._serve) for _ in range(self.processes.jobs)]:
                thread.result()
        if self.processes.stopping:
            raise StoppedError

    def _serve(self) -> None:
        """Take one run after the other until none waits."""
        while not self.processes.stopping:
            with self._lock:
                if not self._waiting:
                    return
                run = self._waiting.popleft()
            folder = self.plan.folder.run(run.name)
            with lock_folder(folder, name=CLAIM, wait=False) as claimed:
                self._settle(run, claimed=claimed)

    def _settle(self, run: PlannedRun, *, claimed: bool) -> None:
        """Carry a run out, unless another machine has it or its failure is known."""
        if self._has_record(run):  # finished by another machine meanwhile
            self.observer.finished(run)
        elif not claimed:  # another machine works on it
            self._waiting.append(run)
            time.sleep(RETRY_SECONDS)
        elif self._attempts(run) > self._attempts_before[run.name]:
            # it failed on another machine meanwhile, and would fail here for the same reason
            failure = FailureRecord.load(self.plan.folder.failure(run.name))
            self.observer.failed(run, failure.error)
        elif (run.task, run.label) in self.plan.untunable:
            self._record_failure(run, self.plan.untunable[run.task, run.label])
        else:
            self._run(run)

    def _run(self, run: PlannedRun) -> None:
        path = self.plan.folder.run(run.name)
        spec = self.plan.specs[run.task, run.label]
        prepare(self.plan, path, "run", run.task, spec, run.seed, run.steps)
        end = self.processes.run(path)
        if end is Exit.DONE:
            self.observer.finished(run)
        elif end is not Exit.STOPPED:
            self._record_failure(run, error_message(path, end))

    def _record_failure(self, run: PlannedRun, error: str) -> None:
        FailureRecord(
            task=run.task,
            label=run.label,
            seed=run.seed,
            attempts=self._attempts(run) + 1,
            error=error,
        ).save(self.plan.folder.failure(run.name))
        self.observer.failed(run, error)

    def _attempts(self, run: PlannedRun) -> int:
        """Return how often the run has failed so far."""
        file = self.plan.folder.failure(run.name)
        return FailureRecord.load(file).attempts if file.exists() else 0

    def _has_record(self, run: PlannedRun) -> bool:
        return self.plan.folder.record(run.name).exists()
