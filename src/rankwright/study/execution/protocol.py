"""The files by which a study and the processes of its runs communicate.

A run's folder holds `run.yaml` (the run) and `request.json` (its purpose), and while the process is
at work `progress.json` and `log.txt`. A process leaves `outcome.json` (of a trial or a
measurement), or `error.json`, or, for a reported run, the records in the study's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rankwright.study.records.json_record import Record

REQUEST = "request.json"
PROGRESS = "progress.json"
OUTCOME = "outcome.json"
ERROR = "error.json"
LOG = "log.txt"

FAILED = 1
"""Exit status after an error that another attempt would repeat."""
STOPPED = 143
"""Exit status after SIGTERM; there is a checkpoint."""

Purpose = Literal["run", "trial", "measure"]
"""The purpose of a process: a reported run, a trial of tuning, or a measurement of a few steps."""


@dataclass(frozen=True, kw_only=True)
class Request(Record):
    """The request of a study to a process; `run.yaml` beside it describes the training.

    Attributes:
        purpose: The purpose of the run.
        study: The study's folder.
        task: The task's label in the study.
        label: The method's label in the study.
        reported_split: The reported rows.
        data_sha256: Expected digest of the rows by split.
        held_text: File of the text that forgetting is measured on; None for the built-in one.
        keep_adapter: Whether to keep the adapter of the finished run.
    """

    purpose: Purpose
    study: str
    task: str
    label: str
    reported_split: Literal["validation", "test"]
    data_sha256: dict[str, str]
    held_text: str | None
    keep_adapter: bool


@dataclass(frozen=True, kw_only=True)
class Progress(Record):
    """The progress of a process.

    Attributes:
        step: Optimizer steps so far.
        steps: Steps of the whole run.
        phase: Name of the phase, or of the work before and after training.
        seconds: Wall time since the first start of the run, over all its processes.
        loss: The latest logged loss.
    """

    step: int
    steps: int
    phase: str
    seconds: float
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class ErrorReport(Record):
    """The error that ended a process.

    Attributes:
        message: The message for the user.
    """

    message: str
