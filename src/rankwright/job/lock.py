"""One process at a time in a run's folder."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job.files import explain_output
from rankwright.locks import Lock, acquire

NAME = ".lock"


class FolderLock:
    """Holds a folder against other processes; the system releases it when this process ends.

    `release` does so at once, and removes the folder again if nothing was written into it.

    Args:
        folder: The folder; it is created if it does not exist.

    Raises:
        MethodError: Another process holds the folder, or it cannot be created or written to.
    """

    def __init__(self, folder: Path) -> None:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        with explain_output(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = acquire(folder / NAME)
        if lock is None:
            raise MethodError(f"another process is training into {folder}; choose another --output")
        self.release = weakref.finalize(self, _release, lock, made)


def _release(lock: Lock, made: Sequence[Path]) -> None:
    lock.release()
    with contextlib.suppress(OSError):  # a folder that is not empty stays
        for folder in made:
            folder.rmdir()
