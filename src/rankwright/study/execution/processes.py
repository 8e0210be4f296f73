"""Start a process for each run, watch it, and start it again if it dies."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import torch

from rankwright.study.execution.protocol import ERROR, FAILED, LOG, PROGRESS, ErrorReport, Progress

ATTEMPTS = 3
"""Attempts in all for a process that dies, for example for lack of memory."""
POLL_SECONDS = 0.2
"""Pause between two looks at a process."""
PATIENCE_SECONDS = 60.0
"""Time that a process has to save a checkpoint after it was asked to stop."""

Watch = Callable[[Path, Progress | None], None]
"""Called with a run's folder and its progress at intervals, and with None at its end."""


class Exit(Enum):
    """The ways in which the process of a run ends."""

    DONE = "done"
    FAILED = "failed"
    """It met an error that another attempt would repeat; see `error_message`."""
    DIED = "died"
    """It was killed or crashed, `ATTEMPTS` times."""
    STOPPED = "stopped"
    """It was asked to stop; it resumes from a checkpoint next time."""


class Processes:
    """Runs processes, at most `jobs` at a time.

    Args:
        jobs: Number of processes at a time.
        watch: Is told about the progress of every process.
    """

    def __init__(self, jobs: int, watch: Watch = lambda _folder, _progress: None) -> None:
        self.jobs = jobs
        self._watch = watch
        self._stopping = threading.Event()
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(jobs):
            self._slots.put(slot)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Ask every process to save a checkpoint and end, and start no more processes."""
        self._stopping.set()

    def run(self, folder: Path) -> Exit:
        """Carry out the run in `folder`; block until a slot is free, then until the run has ended.

        Args:
            folder: Folder with the run's description and request.
        """
        slot = self._slots.get()
        try:
            for _ in range(ATTEMPTS):
                if self.stopping:
                    return Exit.STOPPED
                status = self._attempt(folder, slot)
                if status == 0:
                    return Exit.DONE
                if status == FAILED and (folder / ERROR).exists():
                    return Exit.FAILED
            return Exit.STOPPED if self.stopping else Exit.DIED
        finally:
            self._watch(folder, None)
            self._slots.put(slot)

    def _attempt(self, folder: Path, slot: int) -> int:
        # In a new session, so that Ctrl-C reaches this process alone, which asks for a checkpoint.
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rankwright.worker", str(folder), str(time.time())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(slot),
                start_new_session=True,
            )
        with process:
            return self._wait(process, folder)

    def _wait(self, process: subprocess.Popen[bytes], folder: Path) -> int:
        asked = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECONDS)
            if self.stopping and asked is None:
                asked = time.monotonic()
                process.terminate()
            elif asked is not None and time.monotonic() - asked > PATIENCE_SECONDS:
                process.kill()
            elif (folder / PROGRESS).exists():
                self._watch(folder, Progress.load(folder / PROGRESS))

    def _environment(self, slot: int) -> dict[str, str]:
        """Give each process one device, and an equal share of the processors as threads."""
        environment = dict(os.environ)
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        devices = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if devices == [""]:
            devices = [str(number) for number in range(torch.cuda.device_count())]
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        return environment


def error_message(folder: Path, end: Exit) -> str:
    """Return the message for the user about a run that failed or died."""
    if end is Exit.FAILED:
        return ErrorReport.load(folder / ERROR).message
    last = (folder / LOG).read_text("utf-8", errors="replace").strip().splitlines()[-1:]
    return f"the process died {ATTEMPTS} times; its log is {folder / LOG}: {' '.join(last)}"
