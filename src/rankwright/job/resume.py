"""Check that a run may start in a folder, or resume there, without overwriting or mixing runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankwright.errors import MethodError
from rankwright.job.folder import RunFolder
from rankwright.training import checkpoint

FREE_ON_RESUME = frozenset(
    {"output", "eval_batch_size", "eval_rows", "save_steps", "keep_checkpoints", "trainer"}
)
"""Options that may change on resume, since they do not affect a training step.

Those in `trainer` may do so; the user is trusted with them.
"""


def check_new(folder: RunFolder) -> None:
    """Refuse to overwrite a run, and folders in which checkpoints cannot be written.

    Raises:
        MethodError: The folder holds a run, or a file blocks the folders of checkpoints.
    """
    checkpoint.check_names_free(folder.checkpoints)
    _refuse_finished(folder)
    if _newest(folder) is not None:
        raise MethodError(
            f"{folder.checkpoints} holds checkpoints of an unfinished run; continue with --resume, "
            "choose another --output, or delete it"
        )
    if folder.adapter.exists():
        raise MethodError(
            f"{folder.adapter} exists already, and would be replaced; choose another --output"
        )


def resume_point(folder: RunFolder) -> Path | None:
    """Return the checkpoint to resume from; None if the run was stopped before the first one.

    Raises:
        MethodError: There is no run in the folder, it is finished, or its options differ.
    """
    _refuse_finished(folder)
    checkpoint.check_names_free(folder.checkpoints)
    started = RunFolder.read(folder.path, check=False)
    old, new = started.options(), folder.options()
    for name in sorted(old.keys() | new.keys()):
        if name not in FREE_ON_RESUME and old.get(name) != new.get(name):
            raise MethodError(
                f"{started.description} has {name} = {old.get(name)!r}, this run "
                f"{new.get(name)!r}; a run is resumed with its own options: {started.resume}"
            )
    return _newest(folder)


def start_notice(start: Path | None) -> str:
    """Return the notice about the step that a resumed run starts from."""
    return f"resuming from {start}" if start else "no complete checkpoint: starting at step 0"


def _refuse_finished(folder: RunFolder) -> None:
    if folder.result.exists():
        raise MethodError(
            f"{folder.path} already holds a finished run; choose another --output, or replace it "
            "with --overwrite"
        )


def _newest(folder: RunFolder) -> Path | None:
    return checkpoint.newest_complete(folder.checkpoints)


def check_same_data(folder: RunFolder, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to resume with other rows than the run started with; new runs of a study have no file.

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
                f"{name} has changed since the run started: {old['rows']} {split} rows then, "
                f"{new['rows']} now, with other contents; restore it, or start anew with another "
                "--output"
            )
