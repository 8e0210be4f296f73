"""Searches whose trials have made-up outcomes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from rankwright.study.execution.processes import Exit, Processes
from rankwright.study.execution.protocol import OUTCOME
from rankwright.study.execution.trials import TrialProcesses
from rankwright.study.planning.plan import Plan
from rankwright.study.planning.specs import MethodSpec
from rankwright.study.records.tuning import TrialOutcome, TuningRecord
from rankwright.study.tuning import storage
from rankwright.study.tuning.search import Search, tune
from rankwright.study.tuning.search_spec import SearchSpec
from rankwright.study.tuning.storage import open_storage
from rankwright.study.tuning.trial_store import TrialStore

FINITE = {"method": "lora", "learning_rate": 1e-3, "head_learning_rate": 1e-2}
"""A method with nothing left to search except its `space`."""

OPENED = contextlib.ExitStack()
"""Storages that `open_search` has opened; a fixture closes them after each test."""


class FakeTrials(Processes):
    """Processes whose trials have made-up outcomes.

    Args:
        value: Number of the call, from 1 -> value of the trial, or the way its process ends.
    """

    def __init__(self, value: Callable[[int], float | Exit], jobs: int = 1) -> None:
        super().__init__(jobs)
        self._value = value
        self._lock = threading.Lock()
        self.folders: list[str] = []

    def run(self, folder: Path) -> Exit:
        with self._lock:
            self.folders.append(folder.name)
            value = self._value(len(self.folders))
        if isinstance(value, Exit):
            (folder / "log.txt").write_text("killed", encoding="utf-8")
            (folder / "checkpoints").mkdir(exist_ok=True)
            if value is Exit.STOPPED:
                self.stop()
            return value
        TrialOutcome(value=value, passes=8.0, seconds=1.0).save(folder / OUTCOME)
        return Exit.DONE


def open_search(planned: Plan, processes: Processes, url: str | None = None) -> Search:
    kept = OPENED.enter_context(open_storage(url, planned.folder.storage))
    return make_search(kept, planned, processes, planned.config.parsed_methods[0])


def make_search(
    kept: storage.Storage, planned: Plan, processes: Processes, method: MethodSpec
) -> Search:
    """Return the search for one method on the first task."""
    spec = SearchSpec(planned, planned.record.tasks[0].task, method)
    return Search(TrialStore(spec, kept), TrialProcesses(planned, processes))


def run_search(found: Search) -> TuningRecord:
    assert isinstance(found.runner, TrialProcesses)
    (record,), _ = tune([found], found.runner.processes.jobs)
    return record
