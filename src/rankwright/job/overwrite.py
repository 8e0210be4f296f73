"""Replace a run by another one; the old run is kept until the new one is finished."""

from __future__ import annotations

import shutil
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job import lock
from rankwright.job.folder import RunFolder

REPLACED = ".replaced"
"""Subfolder with the files of the old run until then."""
_MOVING = ".replacing"
_DERIVED = ("plot.png", "*-export")
"""Default outputs of `rankwright plot` and `export`, replaced with the run."""


def check_replaceable(folder: RunFolder) -> None:
    """Refuse to replace anything but a run.

    Raises:
        MethodError: The folder has files and holds no run.
    """
    path = folder.path
    present = {each.name for each in path.iterdir()} if path.is_dir() else set()
    if not present - {lock.NAME, REPLACED, _MOVING}:
        return
    try:
        RunFolder.read(path, check=False)
    except MethodError as error:
        raise MethodError(
            f"--overwrite replaces a run, and {error}. Choose another --output, or delete the "
            "folder yourself"
        ) from error


def set_aside(folder: RunFolder) -> list[str]:
    """Move the files of a run aside to make room for the next one; other files stay.

    If an old run is already kept, the unfinished run that was to replace it is deleted.

    Returns:
        Notices for the user; none if there is no old run.
    """
    replaced, moving = folder.path / REPLACED, folder.path / _MOVING
    if replaced.exists():
        for path in _files(folder):
            _remove(path)
    elif folder.description.exists() or moving.exists():
        moving.mkdir(exist_ok=True)  # it exists if a process was killed here
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
    """Return the files of a run, the description last: it makes a folder a run."""
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
