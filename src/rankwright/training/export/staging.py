"""A folder that appears at its path only when it is whole."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rankwright.locks import acquire, remove_folders, unique_name
from rankwright.training.checkpoint import publish, recover
from rankwright.training.export.errors import ExportError


@contextlib.contextmanager
def staged(path: str | os.PathLike[str], overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` at the end, or deleted after an error.

    Only one process at a time writes to `path`; leftovers of killed processes are deleted.

    Args:
        path: The folder to write; its parents are created.
        overwrite: Replace an earlier model.

    Raises:
        ExportError: Something is in the way, or another process is writing to it.
    """
    target = Path(path).expanduser().resolve()
    _check_target(target, overwrite)
    temporary = target.with_name(f".{target.name}.writing-{unique_name()}")
    with _locked(target):
        _check_target(target, overwrite)  # another process may have finished meanwhile
        temporary.mkdir()
        try:
            yield temporary
            if not overwrite:  # again, for file systems without locks
                _check_target(target, overwrite)
            publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Lock a folder against other exports, and remove leftovers of killed ones."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = acquire(target.with_name(f".{target.name}.lock"))
    except OSError as error:
        raise ExportError(
            f"cannot write {target}: {error.strerror} ({error.filename}); name another folder"
        ) from error
    if lock is None:
        raise ExportError(
            f"another process is writing {target}; wait for it to end, or name another folder"
        )
    try:
        if lock.sure:
            remove_folders(target.parent.glob(f".{glob.escape(target.name)}.writing-*"))
            recover(target)
        yield
    finally:
        lock.release()


def _check_target(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target} is a file; name a folder that does not exist yet")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise ExportError(
            f"{target} is not empty; name another folder, or allow it "
            "to be replaced (--overwrite; overwrite=True in Python)"
        )
    if not any((target / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise ExportError(f"{target} holds no model that could be overwritten; name another folder")
