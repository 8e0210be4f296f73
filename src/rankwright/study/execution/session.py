"""A process at work on a request: its folder, its clock, and its job."""

from __future__ import annotations

import time
from pathlib import Path

from rankwright.job import Job, RunFolder, set_up
from rankwright.study.execution.observe import ProgressReporter
from rankwright.study.execution.protocol import PROGRESS, REQUEST, Progress, Request
from rankwright.study.records.data import DataFingerprint
from rankwright.tasks import TaskError

REPORT_SECONDS = 0.5
"""Least time between two reports of progress."""


class Session:
    """A process at work on a request.

    Args:
        folder: The run's folder, with `run.yaml` and the request.
        imports: Seconds since the process was started.

    Attributes:
        folder: The run's folder.
        request: The request.
    """

    def __init__(self, folder: Path, imports: float) -> None:
        self._started = time.perf_counter() - imports
        self.folder = RunFolder.read(folder, check=False)
        self.request = Request.load(folder / REQUEST)
        self._before = 0.0
        if (folder / PROGRESS).exists():
            self._before = Progress.load(folder / PROGRESS).seconds
        self._last_report = 0.0

    @property
    def seconds(self) -> float:
        """Wall time since the first start of the run, over all its processes."""
        return self._before + time.perf_counter() - self._started

    def forget_earlier_processes(self) -> None:
        """Count the time of this process only, for a run that starts from the beginning."""
        self._before = 0.0

    def report(self, step: int, steps: int, phase: str, loss: float | None = None) -> None:
        """Write the progress of the run, at most every `REPORT_SECONDS`."""
        now = time.perf_counter()
        if now - self._last_report >= REPORT_SECONDS or step in (0, steps):
            self._last_report = now
            progress = Progress(
                step=step, steps=steps, phase=phase, seconds=self.seconds, loss=loss
            )
            progress.save(self.folder.path / PROGRESS)

    def set_up(self) -> Job:
        """Return the job on the rows of the plan, ready to train.

        Raises:
            TaskError: The rows have changed since the study was planned.
        """
        self.report(0, self.folder.config.steps or 0, "loading")
        job = set_up(
            self.folder.config,
            self.folder.method,
            resume=True,  # since run.yaml exists; without a checkpoint the run starts at step 0
            callback=lambda trainer: ProgressReporter(self.report, trainer),
            notify=lambda text: print(text, flush=True),
        )
        planned, found = self.request.data_sha256, DataFingerprint.of(job.data).sha256
        changed = [name for name in {**planned, **found} if planned.get(name) != found.get(name)]
        if changed:
            self.folder.data.unlink(
                missing_ok=True
            )  # it says that the run has started on these rows
            raise TaskError(
                f"task {self.request.task}: the {' and '.join(changed)} rows are not those of the "
                "study's plan; put them back, or choose another output folder"
            )
        return job
