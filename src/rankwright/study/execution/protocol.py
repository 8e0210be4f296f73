"""What a study and the processes of its runs tell each other, file by file.

A run's folder holds `run.yaml` (what to train), `request.json` (what for), and while the process is
at work `progress.json` and `log.txt`. It leaves `outcome.json` (of a trial or a measurement), or
`error.json`, or, for a run that is reported, the study's own records.
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
"""Exit status after an error that would come again."""
STOPPED = 143
"""Exit status after a SIGTERM; there is a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Request(Record):
    """What a process is for; `run.yaml` beside it says what it trains.

    Attributes:
        purpose: "run": one that is reported; "trial": one of tuning; "measure": a few steps.
        study: The study's folder.
        task: The task, as the study calls it.
        label: The method, as the study calls it.
        reported_split: The rows to report on.
        data_sha256: Digests of the rows by split.
        held_text: File of the text that forgetting is measured on; None for the built-in one.
        keep_adapter: Whether the adapter stays when the run is over.
    """

    purpose: Literal["run", "trial", "measure"]
    study: str
    task: str
    label: str
    reported_split: Literal["validation", "test"]
    data_sha256: dict[str, str]
    held_text: str | None
    keep_adapter: bool


@dataclass(frozen=True, kw_only=True)
class Progress(Record):
    """How far a process is.

    Attributes:
        step: Optimizer steps made.
        steps: Steps of the whole run.
        phase: Name of the phase, or what is done before and after training.
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
    """Why a process gave up.

    Attributes:
        message: What a user should know.
    """

    message: str
