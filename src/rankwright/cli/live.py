"""Progress of a study on the terminal: a live table, or lines if the output is no terminal."""

from __future__ import annotations

import statistics
import threading
from pathlib import Path
from typing import Any

import rich.box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rankwright.cli.interrupt import say_at_once
from rankwright.study.execution.observer import Observer
from rankwright.study.execution.protocol import REQUEST, Progress, Request
from rankwright.study.planning.plan import Plan
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import PlannedRun, RunRecord

REFRESH_PER_SECOND = 2.0


class StudyTable(Observer):
    """Shows finished runs, running processes and the time left; a context manager.

    Args:
        console: Console to draw on; one that is no terminal gets a line at every event.
        jobs: Number of processes at a time.
    """

    def __init__(self, console: Console, jobs: int) -> None:
        self._console = console
        self._jobs = jobs
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._records: dict[str, RunRecord] = {}
        self._failed: set[str] = set()
        self._at_work: dict[Path, tuple[Request, Progress]] = {}
        self._note = ""
        self._counted = ""
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> StudyTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._live.stop()

    # Events ---------------------------------------------------------------------------------------

    def planned(self, plan: Plan) -> None:
        """Take over the planned runs and the records of the finished ones."""
        with self._lock:
            self._plan = plan
            folder = StudyFolder(plan.folder.path)
            self._records = {record.name: record for record in folder.records()}
        counted = f"{len(plan.record.runs)} runs, {len(self._records)} of them finished"
        if plan.record.runs and counted != self._counted:
            self._counted = counted
            self._print(counted)

    def notify(self, text: str) -> None:
        """Show a line."""
        self._note = text
        self._print(text)

    def notify_at_once(self, text: str) -> None:
        """Show a line from within a signal handler."""
        self._note = text
        if not self._console.is_terminal:
            say_at_once(text)

    def finished(self, run: PlannedRun) -> None:
        """Load the record of the run, and those of runs that other machines have finished."""
        with self._lock:
            assert self._plan is not None
            for each in self._plan.record.runs:
                file = self._plan.folder.record(each.name)
                if each.name not in self._records and file.exists():
                    self._records[each.name] = RunRecord.load(file)
            record = self._records[run.name]
            count, left = len(self._records), self._describe_left()
        self._note = ""
        self._print(
            f"{count}/{len(self._plan.record.runs)} {run.name}: {record.metric} "
            f"{record.value:.4f}, {format_duration(record.cost.total_seconds)}{left}"
        )

    def failed(self, run: PlannedRun, error: str) -> None:
        """Count the run as failed; its error is printed at the end as well."""
        with self._lock:
            self._failed.add(run.name)
        self._print(f"{run.name} failed: {error}")

    def watch(self, folder: Path, progress: Progress | None) -> None:
        """Take over the progress of a process; None at its end."""
        with self._lock:
            if progress is None:
                self._at_work.pop(folder, None)
            elif folder in self._at_work:
                self._at_work[folder] = (self._at_work[folder][0], progress)
            else:
                self._at_work[folder] = (Request.load(folder / REQUEST), progress)

    def summary(self) -> Table:
        """Return the table of finished runs by task and method."""
        assert self._plan is not None
        return self._draw_methods(self._plan)

    def _print(self, line: str) -> None:
        """Print a line, without wrapping, if no live table is drawn."""
        if not self._console.is_terminal:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    # Drawing --------------------------------------------------------------------------------------

    def _draw(self) -> Group:
        with self._lock:
            parts: list[Any] = []
            if self._plan is not None:
                parts.append(self._draw_methods(self._plan))
            parts += [self._draw_process(*work) for work in self._at_work.values()]
            if self._note:
                parts.append(Text(self._note))
            if self._plan is not None:
                count = f"{len(self._records)} of {len(self._plan.record.runs)} runs finished"
                failed = f", {len(self._failed)} failed" if self._failed else ""
                parts.append(Text(count + failed + self._describe_left(), style="bold"))
            return Group(*parts)

    def _draw_methods(self, plan: Plan) -> Table:
        table = Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("task")
        table.add_column("method")
        for column in ("finished", "metric", "mean so far", "time of a run"):
            table.add_column(column, justify="right")
        for task in plan.record.tasks:
            for method in plan.record.methods:
                pair = (task.task, method.label)
                done = [r for r in self._records.values() if (r.task, r.label) == pair]
                seconds = [record.cost.total_seconds for record in done]
                table.add_row(
                    *pair,
                    f"{len(done)}/{len(plan.record.seeds)}",
                    task.metric,
                    f"{statistics.mean(r.value for r in done):.4f}" if done else "",
                    format_duration(statistics.mean(seconds)) if done else "",
                )
        return table

    def _draw_process(self, request: Request, progress: Progress) -> Text:
        loss = "" if progress.loss is None else f", loss {progress.loss:.4f}"
        what = f"{request.task} {request.label}"
        if request.purpose != "run":
            what = f"{request.purpose} of {what}"
        steps = f"step {progress.step}/{progress.steps}"
        left = _seconds_left(progress)
        ends = "" if left is None else f", about {format_duration(left)} left"
        return Text(
            f"  {what}: {progress.phase}, {steps}{loss}, {format_duration(progress.seconds)}{ends}"
        )

    def _describe_left(self) -> str:
        """Estimate the time of the missing runs, from the time of a pass in the others."""
        assert self._plan is not None
        speeds = self._seconds_per_pass()
        if not speeds:
            return ""
        average = statistics.mean(s for several in speeds.values() for s in several)
        missing = [r for r in self._plan.record.runs if r.name not in self._records]
        done = {
            folder.name: progress.step / max(progress.steps, 1)
            for folder, (request, progress) in self._at_work.items()
            if request.purpose == "run"
        }
        seconds = sum(
            (1 - done.get(run.name, 0.0))
            * run.passes
            * statistics.mean(speeds.get((run.task, run.label), [average]))
            for run in missing
        )
        return f", about {format_duration(seconds / self._jobs)} left" if missing else ""

    def _seconds_per_pass(self) -> dict[tuple[str, str], list[float]]:
        """Return seconds per pass by task and method: of finished runs, else of running ones."""
        assert self._plan is not None
        speeds: dict[tuple[str, str], list[float]] = {}
        for record in self._records.values():
            speed = record.cost.total_seconds / record.cost.passes
            speeds.setdefault((record.task, record.label), []).append(speed)
        if speeds:
            return speeds
        planned = {run.name: run for run in self._plan.record.runs}
        for folder, (request, progress) in self._at_work.items():
            left = _seconds_left(progress)
            if left is not None and folder.name in planned:
                speed = (progress.seconds + left) / planned[folder.name].passes
                speeds.setdefault((request.task, request.label), []).append(speed)
        return speeds


def _seconds_left(progress: Progress) -> float | None:
    """Estimate the seconds that a process still needs; None before its first step."""
    if not progress.step or not progress.steps:
        return None
    return progress.seconds * (progress.steps - progress.step) / progress.step


def format_duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
