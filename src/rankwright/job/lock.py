"""One process at a time in a run's folder."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job.files import telling_output
from rankwright.locks import Lock, acquire

NAME = ".lock"


class FolderLock:
    """Holds a folder against other processes; the system lets go when this one ends.

    `release` lets go at once, and removes the folder again if nothing was written into it.

    Args:
        folder: The folder; it is made if it is not there.

    Raises:
        MethodError: Another process holds it, or it cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        with telling_output(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = acquire(folder / NAME)
        if lock is None:
            raise MethodError(f"another process is training into {folder}; choose another --output")
        self.release = weakref.finalize(self, _release, lock, made)


def _release(lock: Lock, made: Sequence[Path]) -> None:
    lock.release()
    with contextlib.suppress(OSError):  # what is not empty stays
        for folder in made:
            folder.rmdir()
