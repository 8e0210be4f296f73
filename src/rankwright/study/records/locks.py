"""Locks on the folders of a study and of its runs."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job.files import telling_output

LOCK = "lock"
"""Held by the process that carries a run out."""


CLAIM = "claim"
"""Held by the study that has a run carried out, from before its process starts until it ends."""


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
