"""Files that a living process holds, and what dead ones have left behind.

A file is held through `flock`: the system lets go when its process ends, however it ends, and no
other process can be taken for it, as one with the same number could.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Lock:
    """A file that this process holds.

    Attributes:
        file: The file.
        descriptor: The open file.
        sure: Whether others are kept off; False on a file system without locks.
    """

    file: Path
    descriptor: int
    sure: bool

    def release(self) -> None:
        """Delete the file, if it still has its name, and let go."""
        if is_there(self.file, self.descriptor):
            self.file.unlink()  # before it is let go: afterwards it may be another process's
        os.close(self.descriptor)


def acquire(file: Path) -> Lock | None:
    """Hold a file, which is made if it is not there; None while another process does."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks, such as Lustre by default
            return Lock(file, descriptor, sure=False)
        if is_there(file, descriptor):
            return Lock(file, descriptor, sure=True)
        os.close(descriptor)  # of a process that let go, and deleted it, in between


def is_there(file: Path, descriptor: int) -> bool:
    """Whether the open file still has its name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def unique_name() -> str:
    """Part of the name of a temporary file: this machine, and what nobody else draws."""
    return f"{_machine()}-{secrets.token_hex(4)}"


def remove_unheld(files: Iterator[Path]) -> None:
    """Delete temporary files of this machine that no living process holds."""
    for file in files:
        if not _of_this_machine(file.name):
            continue
        try:
            descriptor = os.open(file, os.O_RDWR)
        except OSError:  # gone by now, or somebody else's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink(missing_ok=True)
        except OSError:  # held, or a file system without locks
            pass
        finally:
            os.close(descriptor)


def remove_folders(folders: Iterator[Path]) -> None:
    """Delete temporary folders of this machine; the caller holds the lock of their target."""
    for folder in folders:
        if _of_this_machine(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _of_this_machine(name: str) -> bool:
    """Whether a temporary name was made here, as far as it says, and by no process of version 0.1.

    That version noted its number and held no lock.
    """
    if number := re.search(r"\.writing-(\d+)$", name):
        return not _is_alive(int(number[1]))
    noted = re.search(r"[.-](\w+)-[0-9a-f]{8}(\.saving)?$", name)
    return noted is None or noted[1] == _machine()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # no signal, only the check
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _machine() -> str:
    return re.sub(r"\W", "_", socket.gethostname())
