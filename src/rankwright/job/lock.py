"""One process at a time in a run's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

from rankwright.core.errors import MethodError

NAME = ".lock"


class FolderLock:
    """Holds a folder against other processes; the system lets go when this one ends.

    `release` lets go at once, and removes the folder again if nothing was written into it.

    Args:
        folder: The folder; it is made if it is not there.

    Raises:
        MethodError: Another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / NAME
        self.release = weakref.finalize(self, _release, file, _acquire(file), made)


def _acquire(file: Path) -> int:
    """The descriptor of the locked file."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise MethodError(
                f"another process is training into {file.parent}; choose another --output"
            ) from error
        except OSError:  # a file system without locks, such as Lustre by default
            return descriptor
        if _is_there(file, descriptor):
            return descriptor
        os.close(descriptor)  # of a process that let go, and deleted it, in between


def _is_there(file: Path, descriptor: int) -> bool:
    """Whether the open file still has its name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(file: Path, descriptor: int, made: Sequence[Path]) -> None:
    if _is_there(file, descriptor):
        file.unlink()  # before it is let go: afterwards it may be another process's
    os.close(descriptor)
    with contextlib.suppress(OSError):  # what is not empty stays
        for folder in made:
            folder.rmdir()
