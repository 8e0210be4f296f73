"""Studies carried out in this process, for tests in which nothing is killed."""

from __future__ import annotations

from pathlib import Path

import rankwright.methods  # noqa: F401  registers the methods
from rankwright.study.execution import worker
from rankwright.study.execution.compare import compare
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.processes import Exit, Processes, Watch
from rankwright.study.execution.protocol import FAILED, REQUEST, Request
from rankwright.study.planning.config import StudyConfig
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import PlannedRun

ENDS = {0: Exit.DONE, FAILED: Exit.FAILED}
IMPORT_SECONDS = 10.0
"""What a process of its own would have taken to import everything."""


class InProcess(Processes):
    """Carries runs out in this process, one after the other.

    Attributes:
        done: Purpose and folder of every run that was carried out.
    """

    def __init__(self, watch: Watch = lambda _folder, _progress: None) -> None:
        super().__init__(1, watch)
        self.done: list[tuple[str, str]] = []

    def run(self, folder: Path) -> Exit:
        self.done.append((Request.load(folder / REQUEST).purpose, folder.name))
        return ENDS[worker.main(folder, IMPORT_SECONDS)]


class Heard(Observer):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.finished_runs: list[str] = []
        self.failures: dict[str, str] = {}

    def notify(self, text: str) -> None:
        self.said.append(text)

    def finished(self, run: PlannedRun) -> None:
        self.finished_runs.append(run.name)

    def failed(self, run: PlannedRun, error: str) -> None:
        self.failures[run.name] = error


def carried_out(config: StudyConfig) -> tuple[StudyFolder, InProcess]:
    """A finished study, and what was done for it."""
    processes = InProcess()
    return compare(config, "rankwright compare ...", processes, Heard()), processes
