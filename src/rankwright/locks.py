"""Lock files, and the removal of temporary files that dead processes have left behind.

A file is locked with `flock`: the system releases it when the process ends, however it ends.
Unlike a stored process id, it cannot be mistaken for that of a later process with the same id.
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
    """A file that this process has locked.

    Attributes:
        file: The file.
        descriptor: Its file descriptor.
        sure: Whether other processes are excluded; False on a file system without locks.
    """

    file: Path
    descriptor: int
    sure: bool

    def release(self) -> None:
        """Delete the file, if it still has its name, and release the lock."""
        if is_there(self.file, self.descriptor):
            self.file.unlink()  # before the release: afterwards another process may lock it
        os.close(self.descriptor)


def acquire(file: Path) -> Lock | None:
    """Lock a file, created if it does not exist; None while another process has it locked."""
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
        os.close(descriptor)  # its holder deleted it between open and lock: try again


def is_there(file: Path, descriptor: int) -> bool:
    """Whether the open file still has its name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def unique_name() -> str:
    """Suffix for the name of a temporary file: this machine's name and random digits."""
    return f"{_machine()}-{secrets.token_hex(4)}"


def remove_unheld(files: Iterator[Path]) -> None:
    """Delete temporary files of this machine that no living process has locked."""
    for file in files:
        if not _of_this_machine(file.name):
            continue
        try:
            descriptor = os.open(file, os.O_RDWR)
        except OSError:  # already gone, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink(missing_ok=True)
        except OSError:  # locked, or a file system without locks
            pass
        finally:
            os.close(descriptor)


def remove_folders(folders: Iterator[Path]) -> None:
    """Delete temporary folders of this machine; the caller has locked their target."""
    for folder in folders:
        if _of_this_machine(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _of_this_machine(name: str) -> bool:
    """Whether a temporary name was made on this machine by a process that may be dead.

    Version 0.1 put its process id into the name and took no lock: its files count once that process
    is gone.
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
    except PermissionError:  # another user's
        return True
    return True


def _machine() -> str:
    return re.sub(r"\W", "_", socket.gethostname())
