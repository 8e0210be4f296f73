"""Locks on folders."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from rankwright.errors import MethodError
from rankwright.study.records.locks import lock_folder


def test_a_folder_is_locked_by_one_process(tmp_path: Path) -> None:
    with lock_folder(tmp_path, wait=False) as first:
        assert first
        with lock_folder(tmp_path, wait=False) as second:
            assert not second
    with lock_folder(tmp_path, wait=False) as again:
        assert again


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(MethodError, match=r"cannot be locked .*Function not"),
        lock_folder(tmp_path),
    ):
        pass
