"""A run in the place of another one, which is kept until the new one is finished."""

from __future__ import annotations

import shutil
from pathlib import Path

from rankwright.core.errors import MethodError
from rankwright.job import lock
from rankwright.job.folder import RunFolder

REPLACED = ".replaced"
"""Where the files of the older run are meanwhile, in the run's folder."""
_MOVING = ".replacing"
_DERIVED = ("plot.png", "*-export")
"""What `rankwright plot` and `export` write there by default: of no use without the run."""


def check_replaceable(folder: RunFolder) -> None:
    """Refuse to take the place of anything but a run.

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

    Of a run that was itself to replace one and was not finished, nothing is kept.

    Returns:
        What the user should know; nothing if no run is there.
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
    """All that belongs to a run; its description, by which it is known to be one, is the last."""
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
