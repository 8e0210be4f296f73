"""Locks on the folder of a study and on those of its runs.

`LOCK` of the study's folder is held while a command measures and writes `study.json`, and `LOCK` of
`tuning/` while a trial is handed out. `LOCK` of a run's folder is held by the process of the run,
`CLAIM` by the command that started this process.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job.files import explain_output

LOCK = "lock"
"""Name of the lock file."""
CLAIM = "claim"
"""Name of a second lock file in a run's folder, held by the command that carries the run out: from
before the process starts until it has ended."""


@contextlib.contextmanager
def lock_folder(folder: Path, *, name: str = LOCK, wait: bool = True) -> Iterator[bool]:
    """Lock a folder against other processes; the system releases it when this process ends.

    Args:
        folder: The folder, made if it does not exist.
        name: The lock, `LOCK` or `CLAIM`.
        wait: Wait until another process releases the lock; otherwise yield False at once.

    Yields:
        Whether this process holds the lock.

    Raises:
        MethodError: The file system has no locks.
    """
    with explain_output(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError as error:  # a file system without locks, such as Lustre by default
            raise MethodError(
                f"{folder} cannot be locked ({error}), so two commands could carry out the same "
                "run; choose an output folder on a file system that supports flock"
            ) from error
        else:
            yield True
