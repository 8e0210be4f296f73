"""Replace a run by another one; the older one is kept until the new one is finished."""

from __future__ import annotations

import shutil
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job import lock
from rankwright.job.folder import RunFolder

REPLACED = ".replaced"
"""Subfolder that keeps the files of the older run meanwhile."""
_MOVING = ".replacing"
_DERIVED = ("plot.png", "*-export")
"""Default outputs of `rankwright plot` and `export`, which belong to the run."""


def check_replaceable(folder: RunFolder) -> None:
    """Refuse to replace anything but a run.

    Raises:
        MethodError: The folder has files, and holds no run.
    """
    path = folder.path
    there = {each.name for each in path.iterdir()} if path.is_dir() else set()
    if not there - {lock.NAME, REPLACED, _MOVING}:
        return
    try:
        RunFolder.read(path, check=False)
    except MethodError as error:
        raise MethodError(
            f"--overwrite replaces a run, and {error}. Choose another --output, or delete the "
            "folder yourself"
        ) from error


def set_aside(folder: RunFolder) -> list[str]:
    """Move the files of a run away, for those of the next one; other files stay.

    If an older run is kept already, the unfinished run that was to replace it is deleted.

    Returns:
        Notices for the user; none if there is no older run.
    """
    replaced, moving = folder.path / REPLACED, folder.path / _MOVING
    if replaced.exists():
        for path in _files(folder):
            _remove(path)
    elif folder.description.exists() or moving.exists():
        moving.mkdir(exist_ok=True)  # there already if a process was killed here
        for path in _files(folder):
            path.rename(moving / path.name)
        moving.rename(replaced)
    if not replaced.exists():
        return []
    return [f"the run that was in {folder.path} is in {replaced} until this one is finished"]


def drop_replaced(folder: RunFolder) -> None:
    """Delete the run that a finished one has replaced."""
    shutil.rmtree(folder.path / REPLACED, ignore_errors=True)


def _files(folder: RunFolder) -> list[Path]:
    """All that belongs to a run; last the description, which makes a folder a run."""
    own = [
        folder.result, folder.manifest, folder.history, folder.data, folder.head, folder.adapter,
        folder.checkpoints, *(path for name in _DERIVED for path in folder.path.glob(name)),
        folder.description,
    ]  # fmt: skip
    return [path for path in own if path.exists()]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
