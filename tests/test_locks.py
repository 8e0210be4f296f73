"""Files locked by a living process are kept, leftovers of dead processes deleted."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rankwright import locks
from rankwright.locks import acquire, remove_folders, remove_unheld, unique_name


def test_one_holder_at_a_time_who_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    lock = acquire(file)
    assert lock is not None
    assert lock.sure
    assert acquire(file) is None
    lock.release()
    assert list(tmp_path.iterdir()) == []
    again = acquire(file)
    assert again is not None
    again.release()


def test_without_locks_nobody_is_refused_and_nothing_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(_descriptor: int, _operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    first, second = acquire(tmp_path / "lock"), acquire(tmp_path / "lock")
    assert first is not None
    assert second is not None
    assert not first.sure
    leftover = tmp_path / f".a.{unique_name()}.saving"
    leftover.touch()
    remove_unheld(iter([leftover]))
    assert leftover.exists()


def test_files_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, old = tmp_path / f".a.{unique_name()}.saving", tmp_path / ".a.deadbeef.saving"
    living = tmp_path / f".a.{unique_name()}.saving"
    dead.touch()
    old.touch()
    lock = acquire(living)
    monkeypatch.setattr(locks, "_machine", lambda: "another")
    elsewhere = tmp_path / f".a.{unique_name()}.saving"
    elsewhere.touch()
    monkeypatch.undo()
    remove_unheld(tmp_path.glob("*"))
    assert {*tmp_path.iterdir()} == {living, elsewhere}
    assert lock is not None
    lock.release()


def test_folders_of_version_0_1_go_with_their_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os; print(os.getpid())"]
    dead = int(subprocess.run(command, capture_output=True, check=True).stdout)
    for owner in (dead, os.getpid(), unique_name()):
        (tmp_path / f".a.writing-{owner}").mkdir()
    remove_folders(tmp_path.glob("*"))
    assert [path.name for path in tmp_path.iterdir()] == [f".a.writing-{os.getpid()}"]
