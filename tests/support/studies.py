"""Studies carried out in this process, for tests in which nothing is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import rankwright.methods  # noqa: F401  registers the methods
from rankwright.study.errors import StoppedError
from rankwright.study.execution import worker
from rankwright.study.execution.compare import compare
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.processes import Exit, Processes, Watch
from rankwright.study.execution.protocol import FAILED, REQUEST, Request
from rankwright.study.planning.config import StudyConfig
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import PlannedRun

ConfigOf = Callable[..., StudyConfig]
"""The fixture `config_of`: options of a study -> its configuration."""
EXITS = {0: Exit.DONE, FAILED: Exit.FAILED}
IMPORT_SECONDS = 10.0
"""Time that a process of its own would have taken for its imports."""


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
        return EXITS[worker.main(folder, IMPORT_SECONDS)]


class Recorder(Observer):
    """Keeps everything it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.finished_runs: list[str] = []
        self.failures: dict[str, str] = {}

    def notify(self, text: str) -> None:
        self.lines.append(text)

    def finished(self, run: PlannedRun) -> None:
        self.finished_runs.append(run.name)

    def failed(self, run: PlannedRun, error: str) -> None:
        self.failures[run.name] = error


def carry_out(config: StudyConfig) -> tuple[StudyFolder, InProcess]:
    """Carry a study out; return its folder and the processes."""
    processes = InProcess()
    return compare(config, "rankwright compare ...", processes, Recorder()), processes


def plan_only(config: StudyConfig) -> None:
    """Plan a study, and stop before its first run."""
    processes = InProcess()
    processes.stop()
    with pytest.raises(StoppedError, match=r"^$"):
        compare(config, "c", processes, Recorder())


def write_empty_record(folder: Path) -> None:
    """Make a run count as finished, by an empty record."""
    record = StudyFolder(Path(Request.load(folder / REQUEST).study)).record(folder.name)
    record.parent.mkdir(exist_ok=True)
    record.touch()
