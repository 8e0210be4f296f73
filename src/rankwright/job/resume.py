"""Whether a run may start in a folder, or go on there: nothing is written over or mixed up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankwright.errors import MethodError
from rankwright.job.folder import RunFolder
from rankwright.training import checkpoint

# Options that may change when a run goes on: they do not touch what is computed in a step. Whether
# those of the Trainer do, the user has to know.
FREE_ON_RESUME = frozenset(
    {"output", "eval_batch_size", "eval_rows", "save_steps", "keep_checkpoints", "trainer"}
)


def check_new(folder: RunFolder) -> None:
    """Refuse to write over a run, or into a folder where checkpoints cannot be written.

    Raises:
        MethodError: The folder holds a run, or something is in the way of checkpoints.
    """
    checkpoint.check_places(folder.checkpoints)
    _refuse_finished(folder)
    if _newest(folder) is not None:
        raise MethodError(
            f"{folder.checkpoints} holds checkpoints of an unfinished run; go on with --resume, "
            "choose another --output, or delete it"
        )
    if folder.adapter.exists():
        raise MethodError(
            f"{folder.adapter} is there already, and would be replaced; choose another --output"
        )


def resume_point(folder: RunFolder) -> Path | None:
    """The checkpoint to go on from; None if the run was stopped before the first one.

    Raises:
        MethodError: There is no such run, it is finished, or it is another one.
    """
    _refuse_finished(folder)
    checkpoint.check_places(folder.checkpoints)
    there = RunFolder.read(folder.path, check=False)
    old, new = there.options(), folder.options()
    for name in sorted(old.keys() | new.keys()):
        if name not in FREE_ON_RESUME and old.get(name) != new.get(name):
            raise MethodError(
                f"{there.description} has {name} = {old.get(name)!r}, this run {new.get(name)!r}; "
                f"a run goes on with its own options: {there.resume}"
            )
    return _newest(folder)


def start_notice(start: Path | None) -> str:
    """Where a run goes on, for the user."""
    return f"going on from {start}" if start else "no complete checkpoint: starting at step 0"


def _refuse_finished(folder: RunFolder) -> None:
    if folder.result.exists():
        raise MethodError(
            f"{folder.path} already holds a finished run; choose another --output, or replace it "
            "with --overwrite"
        )


def _newest(folder: RunFolder) -> Path | None:
    return checkpoint.newest_complete(folder.checkpoints)


def check_same_data(folder: RunFolder, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to go on with other rows than the run started with; a study's start has no file.

    Raises:
        MethodError: Number or content of the rows of a split differ.
    """
    if not folder.data.is_file():
        return
    config, none = folder.config, {"rows": 0}
    started = folder.splits()
    for split in sorted(started.keys() | data.keys()):
        old, new = started.get(split, none), data.get(split, none)
        if old != new:
            name = getattr(config, f"{split}_data", None) or config.data or config.task
            name = name if isinstance(name, str) else ", ".join(name or ())
            raise MethodError(
                f"{name} is not what it was when the run started: {old['rows']} {split} rows, now "
                f"{new['rows']}, with other contents; restore it, or start anew with another "
                "--output"
            )
