"""What a study and the processes of its runs tell each other, file by file.

A run's folder holds `run.yaml` (what to train), `request.json` (what for), and while the process is
at work `progress.json` and `log.txt`. It leaves `outcome.json` (of a trial or a measurement), or
`error.json`, or, for a run that is reported, the study's own records.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rankwright.errors import MethodError
from rankwright.job.files import telling_output
from rankwright.study.records.json_record import Record

REQUEST = "request.json"
PROGRESS = "progress.json"
OUTCOME = "outcome.json"
ERROR = "error.json"
LOG = "log.txt"
LOCK = "lock"
"""Held by the process that carries a run out."""
CLAIM = "claim"
"""Held by the study that has a run carried out, from before its process starts until it ends."""

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
class TrialOutcome(Record):
    """What a trial gave.

    Attributes:
        value: The primary metric on the tuning rows.
        passes: Passes that it took.
        seconds: Wall time that it took.
    """

    value: float
    passes: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ErrorReport(Record):
    """Why a process gave up.

    Attributes:
        message: What a user should know.
    """

    message: str


@contextlib.contextmanager
def locked(folder: Path, *, name: str = LOCK, wait: bool = True) -> Iterator[bool]:
    """Hold a run's folder against other processes; the system lets go when the process ends.

    Args:
        folder: The run's folder.
        name: Which of its locks, `LOCK` or `CLAIM`.
        wait: Wait for another process to let go; else yield False at once.

    Yields:
        Whether the folder is held.

    Raises:
        MethodError: Its file system has no locks.
    """
    with telling_output(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError as error:  # of a file system without locks, such as Lustre by default
            raise MethodError(
                f"{folder} cannot be locked ({error}), so two commands could carry the same run "
                "out; choose an output folder on a file system that has flock"
            ) from error
        else:
            yield True
