"""Starts a process for a run, watches it, and starts it again if it dies."""

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
"""How often a process that dies, killed for memory say, is started altogether."""
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 60.0
"""How long a process that was asked to stop may take to save a checkpoint."""

Watch = Callable[[Path, Progress | None], None]
"""Called with a run's folder and its progress now and then, and with None at its end."""


class Exit(Enum):
    """How the process of a run ended."""

    DONE = "done"
    FAILED = "failed"
    """An error that would come again; `error_of` has the message."""
    DIED = "died"
    """Killed or crashed, `ATTEMPTS` times."""
    STOPPED = "stopped"
    """Asked to stop; it goes on from a checkpoint the next time."""


class Processes:
    """So many processes at a time.

    Args:
        jobs: How many.
        watch: Hears of progress.
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
        """Ask every process to save a checkpoint and end, and start no more."""
        self._stopping.set()

    def run(self, folder: Path) -> Exit:
        """Carry the run in `folder` out; blocks until a slot is free, then until the end.

        Args:
            folder: Holds the run's description and request.
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
        # A session of its own: Ctrl-C reaches this process, which then asks for a checkpoint.
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
        """One device a process, and no more threads than there are processors."""
        environment = dict(os.environ)
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        devices = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if devices == [""]:
            devices = [str(number) for number in range(torch.cuda.device_count())]
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        return environment


def error_of(folder: Path, end: Exit) -> str:
    """What a user should know of a run that did not end well."""
    if end is Exit.FAILED:
        return ErrorReport.load(folder / ERROR).message
    last = (folder / LOG).read_text("utf-8", errors="replace").strip().splitlines()[-1:]
    return f"the process died {ATTEMPTS} times; its log is {folder / LOG}: {' '.join(last)}"
